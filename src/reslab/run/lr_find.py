"""``lr-find``: the learning-rate range test of a config, its record and its chart."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from reslab.config import RunConfig, build
from reslab.distributed import LOCAL, launched_ranks
from reslab.errors import RequestError
from reslab.records import RangeRecord, RangeStep, StepRecord, encode, write_atomic
from reslab.report import rate_range
from reslab.run.assemble import assemble
from reslab.run.recorder import Display
from reslab.train.lr_range import Sweep, lr_range_test

RECORD, CHART = "lr-range.json", "lr-range.png"


def find_lr(config: RunConfig, out: Path, *, sweep: Sweep, display: Display | None = None) -> RangeRecord:
    """Runs the range test on what a config would train, and writes record and chart into a folder.

    Args:
        config: of the training; its rate, schedule and length have no say.
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
    short = config.model_copy(update={"train": config.train.model_copy(update={"steps": sweep.steps or 100})})
    parts = assemble(short, display, device=build.device(config.train.device), ranks=LOCAL)
    sweep = sweep.for_epochs_of(len(parts.loaders[0]))
    name = f"{config.model.name} on {parts.data.source.name}"
    display.start(f"range test of {name}", total_steps=sweep.steps, first_step=0)

    def show(step: RangeStep) -> None:
        display.step(StepRecord(step.step, 0, step.lr, step.loss, math.nan))

    try:
        found = lr_range_test(
            parts.model,
            parts.task,
            parts.loaders[0],
            optimizer=parts.optimizer,
            sweep=sweep,
            options=parts.options,
            seen=show,
        )
    finally:
        display.stop()
    record = RangeRecord(
        name=name,
        optimizer=config.optim.kind,
        batch_size=parts.config.data.batch_size,
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
