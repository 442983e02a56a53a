"""What a device computes in, and what it only says that it computes in."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

from reslab.errors import RequestError

AutoAmp = Literal["auto", "none", "bf16", "fp16"]

FAR_SLOWER = 5.0
"""A convolution's backward pass in fp16 that takes so many times as long as in fp32 is done by a reference loop."""


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def cpu_has_fp16() -> bool:
    """Whether the processor computes in float16 itself, as far as inference goes."""
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


@cache
def cpu_fp16_slowdown() -> float:
    """Time of a small convolution's backward pass in fp16, over that in fp32; a hundredth of a second to measure.

    A processor with AVX512-FP16 says that it has fp16, and torch then runs the backward pass of convolutions by a loop
    without vectors: a training step takes minutes.
    """
    images, weights = torch.zeros(4, 16, 16, 16, requires_grad=True), torch.zeros(16, 16, 3, 3, requires_grad=True)

    def backward_s(amp: bool) -> float:
        with torch.autocast("cpu", dtype=torch.float16, enabled=amp):
            total = F.conv2d(images, weights, padding=1).float().sum()
        started = time.perf_counter()
        total.backward()
        return time.perf_counter() - started

    return min(backward_s(True) for _ in range(3)) / min(backward_s(False) for _ in range(3))


def check_amp(amp: AutoAmp, device: torch.device) -> None:
    """Refuses fp16 where the device computes in it only by conversion, or far slower, or not at all."""
    if amp == "fp16" and device.type == "cpu":
        other = "--amp bf16" if has_bf16(device) else "--amp none"
        if not cpu_has_fp16():
            raise RequestError(f"This CPU can't compute in fp16 (it needs AVX512-FP16 or ARM's FP16). Use {other}.")
        if (slowdown := cpu_fp16_slowdown()) > FAR_SLOWER:
            raise RequestError(
                f"This CPU can't train in fp16: a convolution's backward pass takes {slowdown:.0f} times as long as in"
                f" fp32. Use {other}."
            )
    if amp == "bf16" and device.type == "cuda" and not has_bf16(device):
        raise RequestError(f"{torch.cuda.get_device_name(device)} can't compute in bf16. Use --amp fp16.")
