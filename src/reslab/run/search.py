"""``lr-find`` and ``batch-find``: a learning rate by a range test, and the largest batch that fits into memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from reslab.distributed import Ranks, launched_ranks
from reslab.errors import RequestError
from reslab.records import StepRecord
from reslab.records.files import encode, write_atomic
from reslab.records.training import RangeRecord
from reslab.report.curves import rate_range
from reslab.run.assemble import assemble, gather, memory_probe
from reslab.run.config import RunConfig
from reslab.run.display import Display
from reslab.training.execution import find_device
from reslab.training.lr_range import Sweep, lr_range_test
from reslab.training.memory import StepMemory, free_memory

RECORD, CHART = "lr-range.json", "lr-range.png"


def find_lr(config: RunConfig, out: Path, *, sweep: Sweep, display: Display | None = None) -> RangeRecord:
    """Run the range test on what a config would train, and write record and chart into a folder.

    Args:
        config: of the training; its rate, schedule and length have no effect.
        out: folder for ``lr-range.json`` and ``lr-range.png``; those of an earlier test are replaced.
        sweep: which rates.
        display: shows progress.

    Raises:
        RequestError: before anything is written, if the request can't be carried out.
    """
    sweep.check()
    if launched_ranks().world > 1:
        raise RequestError("The range test runs in one process: start it without torchrun.")
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file. Name a folder.")
    display = display or Display()
    short = replace(config, train=replace(config.train, steps=sweep.steps or 100))
    inputs = assemble(short, display, ranks=Ranks(device=find_device(config.train.device)))
    sweep = sweep.for_epochs_of(len(inputs.loaders[0]))
    name = f"{config.model.name} on {inputs.data.source.name}"
    display.start(f"range test of {name}", total_steps=sweep.steps, first_step=0)
    try:
        found = lr_range_test(
            inputs.model,
            inputs.task,
            inputs.loaders[0],
            optimizer=inputs.optimizer,
            sweep=sweep,
            options=inputs.options,
            mode=inputs.mode,
            seen=lambda step: display.step(StepRecord(step.step, 0, step.lr, step.loss, math.nan)),
        )
    finally:
        display.stop()
    record = RangeRecord(
        name=name,
        optimizer=config.optim.kind,
        batch_size=inputs.config.data.batch_size,
        seed=config.train.seed,
        lowest=sweep.lowest,
        highest=sweep.highest,
        num_steps=sweep.steps,
        ending=found.ending,
        lr=found.suggestion.lr,
        steepest_lr=found.suggestion.steepest,
        tenth_lr=found.suggestion.tenth,
        reason=found.suggestion.reason,
        steps=list(found.steps),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / RECORD, encode(asdict(record), indent=2))
    rate_range(record).save(out / CHART)
    return record


@dataclass(frozen=True)
class BatchLimit:
    """What fits into memory.

    Args:
        largest: batch; 0 if not even one image fits, None where the free memory is unknown.
        free_bytes: at that moment; None where it is unknown.
        memory: of a step.
    """

    largest: int | None
    free_bytes: int | None
    memory: StepMemory


def find_batch(config: RunConfig, *, display: Display | None = None) -> BatchLimit:
    """Measure a training step at small batches and say how large a one would fit; on a GPU, by trying.

    Raises:
        RequestError: if the request can't be carried out.
    """
    ranks = Ranks(device=find_device(config.train.device))
    probe = memory_probe(config, gather(config, display or Display(), ranks=ranks), ranks=ranks)
    return BatchLimit(probe.largest_batch(), free_memory(ranks.device), probe.measure())
