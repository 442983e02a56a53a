"""``reslab demo``."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from reslab.cli._output import console, parse, print_json, table
from reslab.errors import RequestError
from reslab.records.training import as_percent
from reslab.studies.demo import States, plan_demo, run_demo, write_demo_page
from reslab.studies.study import Study


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
    """Parse, train the networks under a live table, conclude. Return the exit code."""
    flags = parse(DemoFlags, arguments, command="demo")
    if not flags.depths or flags.epochs < 1 or flags.workers < 0:
        raise RequestError("--depths takes at least one depth, --epochs starts at 1 and --workers at 0.")
    if flags.out.is_file():
        raise RequestError(f"--out {flags.out} is a file. Name a folder.")

    study = plan_demo(flags.depths, epochs=flags.epochs)
    started, screen, done = time.perf_counter(), Console(stderr=True), set[str]()
    if not screen.is_terminal:
        print(f"training {', '.join(one.name for one in study.settings)} on digits", file=sys.stderr, flush=True)
    with Live(console=screen, refresh_per_second=2) if screen.is_terminal else nullcontext() as live:
        for states in run_demo(study, flags.out, seed=flags.seed, workers=flags.workers or None):
            if live is not None:
                live.update(demo_table(study, states))
                continue
            for name, state in states.items():
                if state.status == "done" and name not in done:
                    done.add(name)
                    error = as_percent(state.values["train_error"])
                    print(f"{name} done: training error {error}", file=sys.stderr, flush=True)
    sentence, page = write_demo_page(study, states, flags.out)
    if flags.json:
        keys, rows = ("num_parameters", "train_error", "test_error", "duration_s"), []
        for one in study.settings:
            values = {key: states[one.name].values[key] for key in keys}
            rows.append({"name": one.name, **one.factors, "epochs": flags.epochs, **values})
        print_json({"rows": rows, "conclusion": sentence, "page": str(page)})
        return 0
    out = console()
    if not (screen.is_terminal and sys.stdout.isatty()):  # there the live table still stands
        out.print(demo_table(study, states))
    out.print(f"\n{sentence}", soft_wrap=True)
    out.print(f"\n{len(states)} networks in {time.perf_counter() - started:.0f} s. Pictures: {page}")
    return 0


def demo_table(study: Study, states: States) -> Table:
    """The table as it stands; how far a network is stands in for its error."""
    columns = ["depth", "kind", "parameters", "clean training error", "test error", "seconds"]
    rows = []
    for setting in study.settings:
        state, values = states[setting.name], states[setting.name].values
        cells = ["", state.detail or "waiting", "", ""]
        if state.status == "done":
            errors = [as_percent(values[key]) for key in ("train_error", "test_error")]
            cells = [f"{values['num_parameters']:,.0f}", *errors, f"{values['duration_s']:.0f}"]
        rows.append([setting.factors["depth"], setting.factors["kind"], *cells])
    return table(columns, rows, numeric=["depth", *columns[2:]])
