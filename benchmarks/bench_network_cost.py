"""Time and memory of one forward and backward pass of our networks beside the same of torchvision and timm.

Both in fp32, channels_last and train mode, on the same images. Time: the two in turn in one process, the median of the
ratios with its quartiles. Memory: by how much a fresh process grows at most, from before the network is built.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fresh import in_fresh_process
from measure import interleave, parse_flags, ratios, report
from reslab.models.catalog import create_model
from reslab.studies.scale import peak_mib, resident_mib

BATCH, SIDE = 8, 128
BAR = 1.03

PAIRS = {
    # our name: library, its name
    "resnet18": ("torchvision", "resnet18"),
    "resnet50": ("torchvision", "resnet50"),
    "resnext50_32x4d": ("torchvision", "resnext50_32x4d"),
    "resnet50d": ("timm", "resnet50d"),
    "seresnet50": ("timm", "seresnet50"),
    "preresnet50": ("timm", "resnetv2_50"),
    "nf_resnet50": ("timm", "nf_resnet50"),
}
MAKERS: dict[str, Callable[[str], nn.Module]] = {
    "reslab": create_model,
    "torchvision": torchvision.models.get_model,
    "timm": timm.create_model,
}


def make(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    return MAKERS[library](name).train().to(memory_format=torch.channels_last)


def make_batch() -> tuple[Tensor, Tensor]:
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return images.contiguous(memory_format=torch.channels_last), torch.arange(BATCH)


def step_seconds(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), labels).backward()
    return time.perf_counter() - start


def growth_mib(library: str, name: str) -> float:
    """For a fresh process: by how much it grows over three passes."""
    before = resident_mib()
    model, (images, labels) = make(library, name), make_batch()
    for _ in range(3):
        step_seconds(model, images, labels)
    return peak_mib() - before


def time_columns(sides: dict[str, str], *, rounds: int) -> dict[str, Any]:
    batch = make_batch()
    models = {library: make(library, name) for library, name in sides.items()}
    timed = interleave(
        {library: lambda model=model: step_seconds(model, *batch) for library, model in models.items()}, rounds=rounds
    )
    ours, theirs = timed.values()
    first, median, third = statistics.quantiles((a / b for a, b in zip(ours, theirs, strict=True)), n=4)
    return {
        "ours_s": statistics.median(ours),
        "theirs_s": statistics.median(theirs),
        "time_ratio": median,
        "quartiles": f"{first:.3f} to {third:.3f}",
    }


def memory_columns(sides: dict[str, str], *, rounds: int) -> dict[str, Any]:
    calls = [f"bench_network_cost.growth_mib({library!r}, {name!r})" for library, name in sides.items()]
    grown = [[in_fresh_process(call, to_the_byte=True) for call in calls] for _ in range(rounds)]
    ours, theirs = zip(*grown, strict=True)
    return {
        "ours_mib": statistics.median(ours),
        "theirs_mib": statistics.median(theirs),
        "memory_ratio": ratios(ours, theirs)["median"],
    }


def row_of(name: str, *, time_rounds: int, memory_rounds: int) -> dict[str, Any]:
    library, theirs = PAIRS[name]
    sides = {"reslab": name, library: theirs}
    row = {
        "network": name,
        "peer": f"{library} {theirs}",
        **time_columns(sides, rounds=time_rounds),
        **memory_columns(sides, rounds=memory_rounds),
    }
    print(row, flush=True, file=sys.stderr)
    return row


def verdict_of(what: str, rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    worst = max(rows, key=lambda row: row[key])
    what = f"{what}, ours over theirs, of the worst network ({worst['network']})"
    return {"what": what, "measured": worst[key], "bar": f"<= {BAR}", "met": worst[key] <= BAR}


def main() -> None:
    flags = parse_flags(__doc__)
    rounds = {"time_rounds": 5, "memory_rounds": 1} if flags.quick else {"time_rounds": 40, "memory_rounds": 3}
    rows = [row_of(name, **rounds) for name in PAIRS]
    verdicts = [verdict_of("time", rows, "time_ratio"), verdict_of("memory", rows, "memory_ratio")]
    report("network_cost", rows, verdicts=verdicts, flags=flags)


if __name__ == "__main__":
    main()
