"""The measurement of the study scale: time and memory of a training step, in a process of its own."""

from __future__ import annotations

import multiprocessing
import re
import statistics
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.studies.execution import end_with_parent

PROCESS = Path("/proc/self")


def check() -> None:
    """Refuse systems that don't say how much memory a process has."""
    if not sys.platform.startswith("linux"):
        raise RequestError("The study scale reads a process's memory from /proc, which Linux alone has.")


def measure(seed: int, **settings: Any) -> dict[str, float]:
    """Train a residual network for some steps in a process of its own; the settings are those of ``measure_here``."""
    threads = torch.get_num_threads()
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure_here, seed, threads=threads, **settings).result()
    except BrokenProcessPool:
        raise RuntimeError("its process was killed: perhaps memory ran out") from None


def measure_here(
    seed: int, *, depth: int, checkpointed: bool, batch_size: int, steps: int, threads: int
) -> dict[str, float]:
    """Measure by how much this process grows until the end of the first step, and the median time of ``steps`` more.

    The network is resnet``depth`` on images of 32x32; if ``checkpointed``, its blocks keep their inputs only.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(len(images)) % 10
    (PROCESS / "clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here on
    before = resident_mib()
    model = create_model(f"resnet{depth}", checkpoint_blocks=checkpointed).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    times = []
    for step in range(steps + 1):
        started = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
        if step == 0:
            peak = peak_mib() - before
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"peak_mib": peak, "step_s": statistics.median(times[1:]), "num_parameters": float(parameters)}


def expected_s(*, depth: int, checkpointed: bool, batch_size: int, steps: int) -> float:
    """Estimate from two steps of 20 layers how long ``measure`` takes; time grows with depth."""
    model, images = create_model("resnet20").train(), torch.randn(batch_size, 3, 32, 32)
    started = time.perf_counter()
    for _ in range(2):
        model(images).sum().backward()
    step_s = (time.perf_counter() - started) / 2
    return 10 + step_s * depth / 20 * (steps + 1) * (4 / 3 if checkpointed else 1)


# ---- memory of this process, by the operating system; Linux only


def resident_mib() -> float:
    """Read how much memory this process has now, in MiB."""
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """Read the most memory that this process has had, in MiB."""
    return _status_mib("VmHWM")  # not getrusage, whose peak starts at the parent's, for exec keeps it


def _status_mib(key: str) -> float:
    status = (PROCESS / "status").read_text(encoding="utf-8")
    found = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return int(found[1]) / 1024
