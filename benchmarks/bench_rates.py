"""What this machine's arithmetic comes to, in fp32 and bf16: a matrix product, the convolutions of ResNet-20, its step.

Billions of multiplications and additions a second, on all cores; the two precisions are measured by turns. It tells
what other benchmarks can't go beyond: where bf16 has no units of its own, mixed precision gains nothing, and a training
that has half the rate of a matrix product already can't become twice as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from measure import interleave, parse_flags, ratios, report, summary
from reslab import create_model
from reslab.models.count import count_operations

SIZE = 2048  # of the matrices
BATCH = 128
STAGES = {16: 32, 32: 16, 64: 8}  # channels and pixels of ResNet-20's stages
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEAST_S = 0.5  # of a measurement


def rate(work: Callable[[], object], operations: float) -> float:
    """Billions of operations a second."""
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < LEAST_S:
        work()
        count += 1
    return count * operations / passed / 1e9


def product(dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """Two square matrices."""
    left, right = (torch.randn(SIZE, SIZE, dtype=dtype) for _ in range(2))
    return partial(torch.mm, left, right), 2.0 * SIZE**3


def convolution(channels: int, dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """3x3 in a stage of ResNet-20, without gradients."""
    pixels = STAGES[channels]
    images = torch.randn(BATCH, channels, pixels, pixels, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    return partial(F.conv2d, images, weight, padding=1), 2.0 * BATCH * pixels**2 * channels**2 * 9


def step(dtype: torch.dtype) -> tuple[Callable[[], None], float]:
    """Forward and backward of ResNet-20, a backward pass counted as two forward ones."""
    model = create_model("resnet20").train().to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 10

    def work() -> None:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()

    return work, 2.0 * 3 * BATCH * count_operations(model, (3, 32, 32)).macs


def main() -> None:
    flags = parse_flags(__doc__)
    kinds: dict[str, Callable[[torch.dtype], tuple[Callable[[], Any], float]]] = {
        f"product of matrices, {SIZE}": product,
        **{f"convolution, {channels} channels": partial(convolution, channels) for channels in STAGES},
        "resnet20, forward and backward": step,
    }
    rows, best = [], 0.0
    for name, kind in kinds.items():
        sides = {words: partial(rate, *kind(dtype)) for words, dtype in PRECISIONS.items()}
        found = interleave(sides, rounds=2 if flags.quick else 7)
        fp32, bf16 = (summary(found[words])["median"] for words in PRECISIONS)
        best = best or fp32
        ratio = ratios(found["bf16"], found["fp32"])
        rows.append({
            "work": name, "fp32_gflops": fp32, "bf16_gflops": bf16, "bf16_over_fp32": ratio["median"],
            "ratio_min": ratio["min"], "ratio_max": ratio["max"], "share_of_fp32_product": max(fp32, bf16) / best,
            "n": ratio["n"],
        })  # fmt: skip
    report("rates", rows, verdicts=[], flags=flags)


if __name__ == "__main__":
    main()
