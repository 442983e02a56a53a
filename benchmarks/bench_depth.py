"""Building a network of 1202 layers, and the memory that its training takes, with and without checkpointed blocks.

Each number comes from fresh processes, after the imports. A step is one of SGD with momentum, batch 64 of 32x32 images,
fp32, channels_last. Memory: by how much the process grows at most from before the network is built to the end of the
first step. Time: of the second step, once the libraries have warmed up.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fresh import in_fresh_process
from measure import parse_flags, report
from reslab.models.catalog import create_model
from reslab.studies.scale import peak_mib, resident_mib

NAMES = ("resnet110", "resnet1202")
BATCH, SIDE = 64, 32
BUILD_BAR_S, MEMORY_BAR_GIB = 3.0, 6.0


def build_seconds(name: str) -> float:
    """For a fresh process."""
    start = time.perf_counter()
    create_model(name)
    return time.perf_counter() - start


def training_step(name: str, *, checkpoint_blocks: bool) -> tuple[float, float]:
    """For a fresh process: growth in MiB up to the end of the first step, and seconds of the second."""
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH) % 10
    images = images.contiguous(memory_format=torch.channels_last)
    before = resident_mib()
    model = create_model(name, checkpoint_blocks=checkpoint_blocks).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    step_seconds(model, optimizer, images, labels)
    growth = peak_mib() - before
    return growth, step_seconds(model, optimizer, images, labels)


def step_seconds(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    return time.perf_counter() - start


def row_of(name: str, *, build_rounds: int, step_rounds: int) -> dict[str, Any]:
    builds = [in_fresh_process(f"bench_depth.build_seconds({name!r})") for _ in range(build_rounds)]
    kept, dropped = (f"bench_depth.training_step({name!r}, checkpoint_blocks={way})" for way in (False, True))
    steps = [(*in_fresh_process(kept), *in_fresh_process(dropped)) for _ in range(step_rounds)]
    kept_mib, kept_s, dropped_mib, dropped_s = (statistics.median(column) for column in zip(*steps, strict=True))
    row = {
        "network": name,
        "build_s": statistics.median(builds),
        "step_s": kept_s,
        "step_gib": kept_mib / 1024,
        "checkpointed_step_s": dropped_s,
        "checkpointed_step_gib": dropped_mib / 1024,
        "time_ratio": statistics.median(step[3] / step[1] for step in steps),
        "memory_ratio": statistics.median(step[2] / step[0] for step in steps),
    }
    print(row, flush=True, file=sys.stderr)
    return row


def main() -> None:
    flags = parse_flags(__doc__)
    rounds = {"build_rounds": 1, "step_rounds": 1} if flags.quick else {"build_rounds": 7, "step_rounds": 3}
    rows = {name: row_of(name, **rounds) for name in NAMES}
    deep = rows["resnet1202"]
    build_s, memory_gib = deep["build_s"], deep["checkpointed_step_gib"]
    verdicts = [
        {
            "what": "seconds of building resnet1202",
            "measured": build_s,
            "bar": f"< {BUILD_BAR_S}",
            "met": build_s < BUILD_BAR_S,
        },
        {
            "what": "GiB of a step of resnet1202 with checkpointed blocks",
            "measured": memory_gib,
            "bar": f"< {MEMORY_BAR_GIB}",
            "met": memory_gib < MEMORY_BAR_GIB,
        },
    ]
    report("depth", list(rows.values()), verdicts=verdicts, flags=flags)


if __name__ == "__main__":
    main()
