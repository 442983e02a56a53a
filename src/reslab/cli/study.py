"""``reslab study``: flags to a ``StudySpec``, its runs under a live table, and what they say."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from reslab.cli import claims
from reslab.cli._output import console, parse, print_json, table
from reslab.errors import RequestError, WorkFailed
from reslab.records import StudyRecord
from reslab.report.study_table import brief, cells_of, columns_of
from reslab.report.text import duration
from reslab.studies import STUDIES, StudySpec, create_study, run_locally
from reslab.studies.execution import RESUMES, Estimate, estimate, run_on_ray
from reslab.studies.grid import read_grid
from reslab.studies.runs import StudyRun, num_cores
from reslab.studies.study import PAGE, TABLE, Study, unfinished


@dataclass
class StudyFlags:
    """Answer a question by many runs. An interrupted study continues; a finished one is only read."""

    preset: str = ""
    """Data and size, where a study has several: digits, quick (CIFAR-10), paper; --dry-run says how long each takes."""
    out: Path | None = None
    """Folder of the runs, of index.html and table.md; by default runs/study-NAME-PRESET."""
    seeds: int = 0
    """Runs per setting; 0 for the preset's number."""
    depths: list[int] = field(default_factory=list)
    """Depths in place of the study's own, each 6n+2."""
    kinds: list[str] = field(default_factory=list)
    """Settings in place of the study's own, by name; an unknown name lists the valid ones."""
    epochs: int = 0
    """Epochs in place of the preset's."""
    data_dir: str = ""
    """Folder of the named data sets."""
    download: bool = False
    """Download a named data set that is absent."""
    workers: int = 0
    """Runs at the same time; 0 for one per core."""
    ray: str = ""
    """Run on a Ray cluster instead: its address, or auto for the one that this machine belongs to."""
    budget: float = 0.0
    """Most minutes that the study may take; it is refused if it would take longer. 0 for no limit."""
    dry_run: bool = False
    """Print the runs and how long they would take, and do nothing."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parse, compute what isn't there yet under a live table, conclude. Return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        list_studies()
        if arguments:
            parse(StudyFlags, ["--help"], command="study NAME")  # which prints the flags and ends
        return 0
    name, *rest = arguments
    if name == "claims":
        return claims.run(rest)

    if name.startswith("-"):
        raise RequestError(f"Name the study first: reslab study {' | '.join([*STUDIES, 'claims'])}.")
    study, flags = choose_study(name, rest)
    out = flags.out or Path(f"runs/study-{study.name}")
    if out.is_file():
        raise RequestError(f"--out {out} is a file. Name a folder.")
    left = unfinished(study.runs(), out)
    workers = 1 if study.exclusive else min(flags.workers or num_cores(), max(1, len(left)))
    if flags.dry_run or (flags.budget and left):
        expected = estimate(left, workers=workers)
        if flags.dry_run:
            show_estimate(study, expected, as_json=flags.json)
            return 0
        if expected.minutes > flags.budget:
            raise RequestError(
                f"{len(left)} runs would take about {expected.minutes:.0f} minutes on {expected.where}, more than"
                f" --budget {flags.budget:g}. Use fewer --seeds, --depths or --epochs, or a larger budget."
            )
    started = time.perf_counter()
    if left:
        compute(study, left, flags, out, workers=workers)
    record = study.write(out)
    took = f"took {duration(time.perf_counter() - started)}" if left else "were all done before"
    show_result(record, out, remark=f"{len(study.runs())} runs {took}", as_json=flags.json)
    return 0


def list_studies() -> None:
    """Print what there is to ask."""
    rows = [[name, read_grid(name).summary] for name in STUDIES]
    screen = console()
    screen.print(table(["reslab study", "question"], [*rows, ["claims", claims.SUMMARY]]))
    screen.print()


def choose_study(name: str, arguments: list[str]) -> tuple[Study, StudyFlags]:
    """Plan the study that was asked for, and refuse flags that don't go together."""
    read_grid(name)  # an unknown study is refused before its flags are read
    flags = parse(StudyFlags, arguments, command=f"study {name}")
    if flags.workers < 0 or flags.budget < 0:
        raise RequestError(f"workers and budget must be at least 0, got {flags.workers} and {flags.budget:g}.")
    if flags.ray and flags.workers:
        raise RequestError("--workers counts processes of this machine, and --ray runs on a cluster. Leave one out.")
    if flags.ray and flags.budget:
        raise RequestError("--budget is counted for this machine's cores, and --ray runs on others. Leave one out.")
    chosen = {key: getattr(flags, key) for key in ("preset", "seeds", "epochs", "download")}
    data_dir = str(Path(flags.data_dir).resolve()) if flags.data_dir else ""
    depths, kinds = tuple(flags.depths), tuple(flags.kinds)
    study = create_study(StudySpec(name, depths=depths, kinds=kinds, data_dir=data_dir, **chosen))
    if flags.ray and study.exclusive:
        raise RequestError(f"The study {name} measures time and memory of one machine: leave --ray out.")
    return study, flags


def compute(study: Study, left: Mapping[str, StudyRun], flags: StudyFlags, out: Path, *, workers: int) -> None:
    """Compute the runs that are left. Where some fail, the page is written of the others all the same.

    Raises:
        RequestError: if they can't begin, for want of data.
        WorkFailed: with the reasons, after the other runs have ended.
        KeyboardInterrupt: with what is still to come.
    """
    if flags.download or not flags.ray:  # another machine's data may lie elsewhere
        next(iter(left.values())).check()  # of one run: all have the same data
    where = f"on the cluster at {flags.ray}" if flags.ray else f"{workers} at once"
    if flags.ray:
        ticks = run_on_ray(left, out, address=flags.ray)
    else:
        ticks = run_locally(left, out, workers=workers, resume=True)
    screen, waiting, shown = Console(stderr=True), dict(left), study.record(out)
    if not screen.is_terminal:
        print(f"{study.name}: {len(left)} runs, {where}", file=sys.stderr, flush=True)
    try:
        with Live(console=screen, refresh_per_second=2) if screen.is_terminal else nullcontext() as live:
            for _ in ticks:
                still = {name: run for name, run in waiting.items() if not run.read(out / name).has_ended}
                if len(still) < len(waiting):
                    waiting, shown = still, study.record(out)
                    if live is None:
                        print(f"{len(waiting)} runs to come", file=sys.stderr, flush=True)
                if live is not None:
                    progress = progress_text(waiting, out, num_runs=len(study.runs()))
                    live.update(Group(study_table(shown), "", progress))
    except WorkFailed:
        if out.exists():
            study.write(out)
        raise
    except KeyboardInterrupt:
        still_left, num_runs = len(unfinished(left, out)), len(study.runs())
        raise KeyboardInterrupt(f"interrupted, with {still_left} of {num_runs} runs to come. {RESUMES}") from None


def progress_text(waiting: Mapping[str, StudyRun], out: Path, *, num_runs: int) -> str:
    """Say how many runs have ended, and how far those are that have begun."""
    states = {name: run.read(out / name) for name, run in waiting.items()}
    begun = [f"{name} {state.detail}" for name, state in states.items() if state.status == "open"]
    return f"{num_runs - len(waiting)} of {num_runs} runs done" + (f"; {', '.join(begun)}" if begun else "")


# ---- tables


def show_estimate(study: Study, expected: Estimate, *, as_json: bool) -> None:
    """Print the runs, and how long those that are left take."""
    names, seconds = list(study.runs()), expected.seconds
    if as_json:
        lengths = {name: seconds.get(name, 0.0) for name in names}
        print_json({"runs": lengths, "minutes": expected.minutes, "where": expected.where})
        return
    cells = [[name, duration(seconds[name]) if name in seconds else "done"] for name in names]
    console().print(table(["run", "expected"], cells, numeric=["expected"]))
    left = f"{len(seconds)} of {len(names)} runs left"
    console().print(f"\n{left}, about {expected.minutes:.0f} minutes on {expected.where}.")


def show_result(record: StudyRecord, out: Path, *, remark: str, as_json: bool) -> None:
    """Print the table, what it says, and where the rest is."""
    if as_json:
        print_json({**record.to_plain(), "page": str(out / PAGE)})
        return
    screen = console()
    screen.print(study_table(record))
    screen.print(f"\n{record.conclusion}", soft_wrap=True)
    screen.print(f"\n{remark}. {out / PAGE}, {out / TABLE}")


def study_table(record: StudyRecord) -> Table:
    """The table of a study as it stands."""
    record = brief(record)
    columns = columns_of(record)
    texts = {name for name, value in record.rows[0].factors.items() if isinstance(value, str)}
    numeric = [name for name in columns if name not in texts]
    return table(columns, [cells_of(row, record) for row in record.rows], numeric=numeric)
