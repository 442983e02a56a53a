"""What does depth cost? Time and memory of a step, from 20 layers to 1202, with and without checkpointed blocks."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from reslab.errors import RequestError
from reslab.records import MeasureRecord, StudyRow
from reslab.studies.grid import end_with_parent
from reslab.studies.measuring import Measuring
from reslab.studies.presets import Choices, Preset
from reslab.studies.study import Entry, Study

KINDS = ("all kept", "checkpointed")
PRESETS = {"": Preset(depths=(20, 56, 110, 254, 542, 1202), kinds=KINDS)}
PEAK = MeasureRecord("peak_mib", "memory of a step", "mib", charted=True)
STEP = MeasureRecord("step_s", "seconds a step", "number", charted=True)
PARAMETERS = MeasureRecord("num_parameters", "parameters", "count")


@dataclass(frozen=True)
class Scale:
    """One network.

    Args:
        depth: 6n+2.
        checkpointed: whether blocks keep their inputs only.
        batch_size: images of 32x32 a step.
        steps: timed after the first.
    """

    depth: int
    checkpointed: bool
    batch_size: int = 32
    steps: int = 3


def measure(settings: Scale, seed: int) -> dict[str, float]:
    """In a process of its own, whose memory nothing else has touched."""
    import torch

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measure_alone, args=(settings, seed, torch.get_num_threads(), there))
    process.start()
    there.close()
    try:
        found: dict[str, float] = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process ended with {process.exitcode}: perhaps memory ran out") from None
    process.join()
    return found


def measure_alone(settings: Scale, seed: int, threads: int, answer: Connection) -> None:
    """Growth of this process up to the end of the first step, and the median time of those after it."""
    import torch

    from reslab.models.catalog import create_model
    from reslab.training.process_memory import memory_from_here, peak_mib

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    images = torch.randn(settings.batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(len(images)) % 10
    before = memory_from_here()
    model = create_model(f"resnet{settings.depth}", checkpoint_blocks=settings.checkpointed).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    times = []
    for step in range(settings.steps + 1):
        started = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
        if step == 0:
            peak = peak_mib() - before
    parameters = sum(parameter.numel() for parameter in model.parameters())
    answer.send({"peak_mib": peak, "step_s": statistics.median(times[1:]), "num_parameters": float(parameters)})
    answer.close()


def expect(settings: Scale) -> float:
    """From a step of the network of 20 layers; time grows with depth."""
    import torch

    from reslab.models.catalog import create_model

    model, images = create_model("resnet20").train(), torch.randn(settings.batch_size, 3, 32, 32)
    started = time.perf_counter()
    for _ in range(2):
        model(images).sum().backward()
    step_s = (time.perf_counter() - started) / 2
    return 10 + step_s * settings.depth / 20 * (settings.steps + 1) * (4 / 3 if settings.checkpointed else 1)


def scale(choices: Choices) -> Study:
    """The study.

    Raises:
        RequestError: for an unknown depth or kind, for a preset or epochs, and where the system doesn't tell a process
            how much memory it takes.
    """
    chosen = choices.settle("scale", PRESETS, KINDS, without=("preset", "epochs", "data_dir", "download"))
    if not sys.platform.startswith("linux"):
        raise RequestError("The study scale reads a process's memory from /proc, which Linux alone has.")
    return Study(
        chosen=chosen,
        title="What does depth cost?",
        question="How do time and memory of a training step grow with depth, with and without checkpointed blocks?",
        protocol=(
            "Residual networks for small images; SGD with momentum, batch 32 of 32x32, fp32, channels_last.",
            "Memory: growth of a fresh process from before the network is built to the end of its first step.",
            "Time: median of three steps after the first, on all cores. One network after the other.",
        ),
        entries=tuple(
            Entry(
                f"resnet{depth}-{kind.replace(' ', '-')}",
                {"depth": depth, "blocks": kind},
                Measuring(measure, Scale(depth, kind == "checkpointed"), expect, threads=0),
                cost=depth,
            )
            for kind in chosen.kinds
            for depth in chosen.depths
        ),
        conclude=conclude,
        measures=(PARAMETERS, PEAK, STEP),
        together=False,
    )


def conclude(rows: Sequence[StudyRow]) -> str:
    """How memory grows from the least depth to the greatest, and what checkpointing saves and costs there."""
    sentences = []
    for kind in KINDS:
        mine = sorted(
            (row for row in rows if row.factors["blocks"] == kind and row.num_ended),
            key=lambda row: int(row.factors["depth"]),
        )
        if len(mine) > 1:
            first, last = mine[0], mine[-1]
            times = float(last.factors["depth"]) / float(first.factors["depth"])
            sentences.append(
                f"{kind[0].upper()}{kind[1:]}, from {first.factors['depth']} to {last.factors['depth']} layers"
                f" ({times:.0f} times as many): memory {last.mean('peak_mib') / first.mean('peak_mib'):.1f} times, time"
                f" {last.mean('step_s') / first.mean('step_s'):.1f} times."
            )
    deepest = max((int(row.factors["depth"]) for row in rows), default=0)
    pair = {row.factors["blocks"]: row for row in rows if row.factors["depth"] == deepest and row.num_ended}
    if len(pair) == 2:
        kept, dropped = pair["all kept"], pair["checkpointed"]
        sentences.append(
            f"At {deepest} layers checkpointing takes {dropped.mean('peak_mib') / kept.mean('peak_mib'):.2f} of the"
            f" memory and {dropped.mean('step_s') / kept.mean('step_s'):.2f} of the time."
        )
    return " ".join(sentences) or "Two depths at least are needed to say something about depth."
