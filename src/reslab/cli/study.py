"""``reslab study``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from reslab.cli.output import console, parse, print_json, table
from reslab.errors import RequestError, unknown
from reslab.report.words import duration

if TYPE_CHECKING:
    from reslab.config import RunConfig
    from reslab.studies.study import Row, Study

STUDIES = {"degradation": "deeper networks with and without shortcuts, by clean training error"}


@dataclass
class StudyFlags:
    """Answer a question by many runs: degradation (deeper networks with and without shortcuts). A study that was
    interrupted goes on; one that is finished is only read.
    """

    preset: str = "digits"
    """How large: digits (minutes), quick (CIFAR-10, an hour), paper (days; for a GPU)."""
    out: Path | None = None
    """Folder of the runs, of index.html and table.md; by default runs/study-NAME-PRESET."""
    seeds: int = 3
    """Runs of each network."""
    depths: list[int] = field(default_factory=list)
    """Depths in place of the preset's, each 6n+2."""
    kinds: list[str] = field(default_factory=list)
    """Kinds in place of the preset's: plain, residual, pre-activation, plain without norm, residual without norm."""
    epochs: int = 0
    """Epochs in place of the preset's."""
    data_dir: str = ""
    """Where named data sets lie."""
    workers: int = 0
    """Runs at the same time, one thread each; 0 for one per core."""
    budget: float = 0.0
    """Most minutes that it may take; refused if it would take longer. 0 for any."""
    dry_run: bool = False
    """Print the grid and how long it would take, and do nothing."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parses, trains what isn't trained yet under a live table, concludes. Returns the exit code."""
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise RequestError(f"Name the study first: reslab study {' | '.join(STUDIES)}.")
        parse(StudyFlags, arguments or ["--help"], command="study NAME")
    name, *rest = arguments
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    flags = parse(StudyFlags, rest, command=f"study {name}")
    if flags.workers < 0 or flags.budget < 0:
        raise RequestError(f"workers and budget start at 0, got {flags.workers} and {flags.budget:g}.")

    from reslab.studies.degradation import degradation
    from reslab.studies.study import PAGE, unfinished

    study = degradation(
        flags.preset,
        seeds=flags.seeds,
        depths=flags.depths,
        kinds=flags.kinds,
        epochs=flags.epochs,
        data_dir=flags.data_dir,
    )
    out = flags.out or Path(f"runs/study-{study.name}")
    if out.is_file():
        raise RequestError(f"--out {out} is a file. Name a folder.")
    left = unfinished(study.configs(), out)
    workers = min(flags.workers or os.cpu_count() or 1, max(1, len(left)))
    if flags.dry_run or (flags.budget and left):
        from reslab.studies.estimate import makespan_s, run_seconds  # which need torch

        seconds = run_seconds(left)
        minutes = makespan_s(seconds.values(), workers=workers) / 60
        if flags.dry_run:
            show_grid(study, seconds, minutes=minutes, workers=workers, as_json=flags.json)
            return 0
        if minutes > flags.budget:
            raise RequestError(
                f"{len(left)} runs would take about {minutes:.0f} minutes on {workers} cores, more than --budget"
                f" {flags.budget:g}. Take fewer --seeds, --depths or --epochs, or a larger budget."
            )
    started = time.perf_counter()
    rows = train_all(study, left, out, workers=workers) if left else study.rows(out)
    if left or not (out / PAGE).exists():
        from reslab.studies.result import write_result  # which needs what draws

        write_result(study, rows, out)
    show(study, rows, out, seconds=time.perf_counter() - started, as_json=flags.json)
    return 0


def show_grid(study: Study, seconds: dict[str, float], *, minutes: float, workers: int, as_json: bool) -> None:
    """What would be trained; ``seconds`` is the expected length of each run that is left."""
    names = list(study.configs())
    if as_json:
        print_json({"runs": {name: seconds.get(name, 0.0) for name in names}, "minutes": minutes, "workers": workers})
        return
    cells = [[name, duration(seconds[name]) if name in seconds else "done"] for name in names]
    console().print(table(["run", "expected"], cells, numeric=["expected"]))
    console().print(f"\n{len(seconds)} of {len(names)} runs left, about {minutes:.0f} minutes on {workers} cores.")


def train_all(study: Study, left: dict[str, RunConfig], out: Path, *, workers: int) -> list[Row]:
    """Trains what is left, and shows how far it is."""
    from reslab.studies.grid import run_grid

    screen = Console(stderr=True)
    grid = run_grid(left, out, workers=workers, resume=True, may_diverge=True)
    if screen.is_terminal:
        with Live(console=screen, refresh_per_second=2) as live:
            for _ in grid:
                live.update(study_table(study, study.rows(out)))
        return study.rows(out)
    print(f"training {len(left)} runs of {study.name}, {workers} at once", file=sys.stderr, flush=True)
    waiting = len(left)
    for _ in grid:
        now = sum(row.waiting for row in study.rows(out))
        if now < waiting:
            waiting = now
            print(f"{waiting} runs left", file=sys.stderr, flush=True)
    return study.rows(out)


def show(study: Study, rows: Sequence[Row], out: Path, *, seconds: float, as_json: bool) -> None:
    """Prints what came out."""
    from reslab.studies.study import PAGE, TABLE
    from reslab.studies.table import plain_of

    if as_json:
        print_json({**plain_of(study, rows), "page": str(out / PAGE)})
        return
    screen = console()
    screen.print(study_table(study, rows))
    screen.print(f"\n{study.conclude(rows)}", soft_wrap=True)
    screen.print(f"\n{len(rows) * len(study.seeds)} runs, {duration(seconds)}. {out / PAGE}, {out / TABLE}")


def study_table(study: Study, rows: Sequence[Row]) -> Table:
    """The table as it stands."""
    from reslab.studies.table import cells_of, columns_of

    columns = columns_of(study)
    return table(columns, [cells_of(row) for row in rows], numeric=[name for name in columns if name != "kind"])
