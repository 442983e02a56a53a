"""``reslab demo``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from reslab.cli._output import console, parse, print_json, table
from reslab.errors import RequestError
from reslab.records import as_percent

if TYPE_CHECKING:
    from reslab.studies.demo import Row


@dataclass
class DemoFlags:
    """Train plain networks and their residual twins on scikit-learn's handwritten digits, offline, and compare them."""

    out: Path = Path("runs/demo")
    """Folder of the runs and of index.html; an earlier demo there is replaced."""
    depths: list[int] = field(default_factory=lambda: [20, 56, 110])
    """Depths, each 6n+2."""
    epochs: int = 15
    """Passes over the training images."""
    seed: int = 0
    """Everything random follows from it."""
    workers: int = 0
    """Networks trained at the same time, one thread each; 0 for one per core."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parse, trains the networks under a live table, concludes. Return the exit code."""
    flags = parse(DemoFlags, arguments, command="demo")
    check_flags(flags)

    from reslab.studies.demo import conclude, demo_configs, run_demo, write_demo_page

    configs = demo_configs(flags.depths, epochs=flags.epochs, seed=flags.seed)
    screen = Console(stderr=True)
    started = time.perf_counter()
    rows: list[Row] = []
    if screen.is_terminal:
        with Live(console=screen, refresh_per_second=2) as live:
            for rows in run_demo(configs, flags.out, workers=flags.workers or None):
                live.update(demo_table(rows, total_epochs=flags.epochs))
    else:
        print(f"training {', '.join(configs)} on digits", file=sys.stderr, flush=True)
        done: set[str] = set()
        for rows in run_demo(configs, flags.out, workers=flags.workers or None):
            for row in rows:
                if row.duration_s is not None and row.name not in done:
                    done.add(row.name)
                    print(f"{row.name} done: training error {as_percent(row.train_error)}", file=sys.stderr, flush=True)
    sentence, page = conclude(rows), write_demo_page(configs, flags.out, rows)
    if flags.json:
        print_json({"rows": [asdict(row) for row in rows], "conclusion": sentence, "page": str(page)})
        return 0
    out = console()
    if not (screen.is_terminal and sys.stdout.isatty()):  # there the live table still stands
        out.print(demo_table(rows, total_epochs=flags.epochs))
    out.print(f"\n{sentence}", soft_wrap=True)
    out.print(f"\n{len(rows)} networks in {time.perf_counter() - started:.0f} s. Pictures: {page}")
    return 0


def check_flags(flags: DemoFlags) -> None:
    """Refuses what can't be trained, before anything starts."""
    from reslab.studies.presets import check_depths

    check_depths(flags.depths)
    if flags.epochs < 1 or flags.workers < 0:
        raise RequestError(f"epochs starts at 1 and workers at 0, got {flags.epochs} and {flags.workers}.")
    if flags.out.is_file():
        raise RequestError(f"--out {flags.out} is a file. Name a folder.")


def demo_table(rows: Sequence[Row], *, total_epochs: int) -> Table:
    """The table as it stands."""
    columns = ["depth", "kind", "parameters", "clean training error", "test error", "seconds"]
    cells = [
        [
            row.depth,
            row.kind,
            "" if row.num_parameters is None else f"{row.num_parameters:,}",
            progress_of(row, total_epochs) if row.train_error is None else as_percent(row.train_error),
            "" if row.test_error is None else as_percent(row.test_error),
            "" if row.duration_s is None else f"{row.duration_s:.0f}",
        ]
        for row in rows
    ]
    return table(columns, cells, numeric=["depth", *columns[2:]])


def progress_of(row: Row, total_epochs: int) -> str:
    """What stands in for the error while the network trains."""
    return "waits" if row.num_parameters is None else f"epoch {row.epochs} of {total_epochs}"
