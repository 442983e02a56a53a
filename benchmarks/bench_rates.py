"""What this machine's arithmetic comes to, in fp32 and bf16: a matrix product, the convolutions of ResNet-20, its step.

Billions of multiplications and additions a second, on all cores; the two precisions are measured by turns. It tells
what other benchmarks can't go beyond: where bf16 has no units of its own, mixed precision gains nothing, and a training
that has half the rate of a matrix product already can't become twice as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from measure import interleave, parse_flags, ratios, report, summary
from reslab import create_model
from reslab.models.count import count_operations
from reslab.tasks import Classify
from reslab.training.execution import AmpKind, ExecutionMode
from reslab.training.speed import Trial

SIZE = 2048  # of the matrices
BATCH = 128
STAGES = {16: 32, 32: 16, 64: 8}  # channels and pixels of ResNet-20's stages
PRECISIONS: dict[AmpKind, torch.dtype] = {"none": torch.float32, "bf16": torch.bfloat16}
LEAST_S = 0.5  # of a measurement


def rate(work: Callable[[], object], operations: float, *, device: str = "cpu") -> float:
    """Billions of operations a second; a multiplication and an addition are two."""
    on_gpu = torch.device(device).type == "cuda"
    for _ in range(3):
        work()
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < LEAST_S:
        for _ in range(20 if on_gpu else 1):
            work()
            count += 1
        if on_gpu:
            torch.cuda.synchronize()
    return count * operations / passed / 1e9


def matrix_rate(side: int, dtype: torch.dtype, *, device: str = "cpu") -> float:
    """Of a product of two square matrices."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return rate(partial(torch.mm, left, right), 2.0 * side**3, device=device)


def convolution_rate(channels: int, dtype: torch.dtype) -> float:
    """3x3 in a stage of ResNet-20, without gradients."""
    pixels = STAGES[channels]
    images = torch.randn(BATCH, channels, pixels, pixels, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    return rate(partial(F.conv2d, images, weight, padding=1), 2.0 * BATCH * pixels**2 * channels**2 * 9)


def step_rate(trial: Trial, mode: ExecutionMode, operations: float) -> float:
    """Of forward and backward pass, by the clock that chooses a run's speed."""
    trial.paces.pop(mode, None)
    return trial.items_per_s(mode) * operations / 1e9


def steps_of_resnet20() -> dict[str, dict[AmpKind, Callable[[], float]]]:
    """Ways of running the network, each in both precisions."""
    model, task = create_model("resnet20").train(), Classify(10)
    batch = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
    trial = Trial(model, lambda network, batch: task.step(network, batch).loss, batch, num_items_in_run=1)
    operations = 2.0 * 3 * count_operations(model, (3, 32, 32)).macs  # backward is two forwards
    threads = torch.get_num_threads()
    ways = {
        "resnet20's step": {},
        "resnet20's step, compiled": {"compile": True},
        "resnet20's step, compiled, contiguous": {"compile": True, "channels_last": False},
    }
    found: dict[str, dict[AmpKind, Callable[[], float]]] = {}
    for name, choices in ways.items():
        plain = ExecutionMode(threads=threads, channels_last=True)
        modes = {amp: replace(plain, amp=amp, **choices) for amp in PRECISIONS}
        found[name] = {amp: partial(step_rate, trial, mode, operations) for amp, mode in modes.items()}
    return found


def main() -> None:
    flags = parse_flags(__doc__)
    kinds: dict[str, dict[AmpKind, Callable[[], float]]] = {
        f"product of matrices, {SIZE}": {amp: partial(matrix_rate, SIZE, dtype) for amp, dtype in PRECISIONS.items()},
        **{
            f"convolution, {channels} channels": {
                amp: partial(convolution_rate, channels, dtype) for amp, dtype in PRECISIONS.items()
            }
            for channels in STAGES
        },
        **steps_of_resnet20(),
    }
    rows, best = [], 0.0
    for name, sides in kinds.items():
        found = interleave(sides, rounds=2 if flags.quick else 7)
        fp32, bf16 = (summary(found[amp])["median"] for amp in PRECISIONS)
        best = best or fp32
        ratio = ratios(found["bf16"], found["none"])
        rows.append({
            "work": name, "fp32_gflops": fp32, "bf16_gflops": bf16, "bf16_over_fp32": ratio["median"],
            "ratio_min": ratio["min"], "ratio_max": ratio["max"], "fp32_over_product": fp32 / best, "n": ratio["n"],
        })  # fmt: skip
    report("rates", rows, verdicts=[], flags=flags)


if __name__ == "__main__":
    main()
