"""How and where a network runs: precision, memory format, compilation, threads, device, seeds."""

from __future__ import annotations

import logging
import os
import random
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reslab.distributed import LOCAL, Ranks
from reslab.errors import RequestError
from reslab.training.batches import to_device

AmpKind = Literal["none", "bf16", "fp16"]
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MAX_FP16_SLOWDOWN = 5.0
"""A convolution's backward pass that takes this many times as long in fp16 as in fp32 runs in a reference loop."""


@dataclass(frozen=True)
class ExecutionMode:
    """How a network runs, with nothing left open.

    Args:
        amp: autocast in ``"bf16"`` or ``"fp16"`` (with loss scaling), or ``"none"``.
        channels_last: memory format N, H, W, C; None leaves the network and its batches as they are.
        compile: through torch.compile.
        threads: of the CPU; 0 leaves them as they are.
        ranks: the processes that train together, and this one's device.
    """

    amp: AmpKind = "none"
    channels_last: bool | None = None
    compile: bool = False
    threads: int = 0
    ranks: Ranks = LOCAL

    @property
    def device(self) -> torch.device:
        return self.ranks.device

    @classmethod
    def of(cls, model: nn.Module) -> ExecutionMode:
        """The plain way, where the model is."""
        parameter = next(model.parameters(), None)
        return cls() if parameter is None else cls(ranks=Ranks(device=parameter.device))

    def autocast(self) -> AbstractContextManager[Any]:
        """Torch's autocast for ``bf16`` and ``fp16``, nothing for ``none``."""
        if self.amp == "none":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AMP_DTYPES[self.amp])

    def move(self, batch: Any) -> Any:
        """A batch on the device, in the memory format that the network runs in."""
        return to_device(batch, self.device, channels_last=self.channels_last)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put a network's weights into the memory format, in place."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def __str__(self) -> str:
        """In words, such as ``bf16, channels_last, 2 threads``."""
        parts = ["fp32" if self.amp == "none" else self.amp, "channels_last" if self.channels_last else "contiguous"]
        if self.threads:
            parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join([*parts, "compiled"] if self.compile else parts)


def compiled(model: nn.Module) -> nn.Module:
    """The model through torch.compile, which compiles it when it first runs.

    On machines without a GPU torch warns that it found no CUDA runtime while it compiles for the CPU.
    """
    if not torch.cuda.is_available():
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    found: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return found


def find_device(name: str) -> torch.device:
    """Find a device by name; ``auto`` is the first GPU, or else the CPU.

    Raises:
        RequestError: if the device is unknown or not there.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"Unknown device {name!r}. Expected auto, cpu, cuda, cuda:N or mps.") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    available = counts.get(device.type, 0)
    if (device.index or 0) >= available:
        raise RequestError(f"No device {name!r} on this machine: it has {available} of that kind. Try --device cpu.")
    return device


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch, and optionally make torch refuse operations that aren't deterministic.

    On the CPU runs repeat bit by bit without ``deterministic`` too, given the same number of threads; on a GPU they
    need it, and run slower.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # for libraries that use it; ours draw from torch
    torch.manual_seed(seed)
    if deterministic != torch.are_deterministic_algorithms_enabled():  # loads torch's compiler: seconds
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic


# ---- what a device computes in, and what it only says that it computes in


def has_bf16(device: torch.device) -> bool:
    """Whether the device itself computes in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def cpu_has_fp16() -> bool:
    """Whether the processor itself computes in float16, as far as inference goes."""
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


@cache
def cpu_fp16_slowdown() -> float:
    """Measure a small convolution's backward pass in fp16 over fp32; it takes a hundredth of a second.

    A processor with AVX512-FP16 says that it has fp16, and torch then runs the backward pass of convolutions in a loop
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


def check_amp(amp: str, device: torch.device) -> None:
    """Refuse a precision that the device emulates, computes far slower, or doesn't have."""
    if amp == "fp16" and device.type == "cpu":
        other = "--amp bf16" if has_bf16(device) else "--amp none"
        if not cpu_has_fp16():
            raise RequestError(f"This CPU can't compute in fp16 (it needs AVX512-FP16 or ARM's FP16). Use {other}.")
        if (slowdown := cpu_fp16_slowdown()) > MAX_FP16_SLOWDOWN:
            raise RequestError(
                f"This CPU can't train in fp16: a convolution's backward pass takes {slowdown:.0f} times as long as in"
                f" fp32. Use {other}."
            )
    if amp == "bf16" and device.type == "cuda" and not has_bf16(device):
        raise RequestError(f"{torch.cuda.get_device_name(device)} can't compute in bf16. Use --amp fp16.")
