"""``reslab study``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from reslab.cli._output import console, parse, print_json, table
from reslab.errors import RequestError, WorkFailed
from reslab.report.text import duration
from reslab.studies.catalog import STUDIES, create_study
from reslab.studies.presets import Choices

if TYPE_CHECKING:
    from reslab.records import StudyRecord
    from reslab.studies.estimate import Estimate
    from reslab.studies.job import Job
    from reslab.studies.study import Study


@dataclass
class StudyFlags:
    """Answer a question by many runs. A study that was interrupted goes on; one that is finished is only read."""

    preset: str = ""
    """Data and size, where a study has several: digits, quick (CIFAR-10), paper; --dry-run tells how long."""
    out: Path | None = None
    """Folder of the runs, of index.html and table.md; by default runs/study-NAME-PRESET."""
    seeds: int = 0
    """Runs of each setting; 0 for the preset's."""
    depths: list[int] = field(default_factory=list)
    """Depths in place of the study's own, each 6n+2."""
    kinds: list[str] = field(default_factory=list)
    """Settings in place of the study's own, by name; a wrong one is answered by all that there are."""
    epochs: int = 0
    """Epochs in place of the preset's."""
    data_dir: str = ""
    """Where named data sets lie."""
    download: bool = False
    """Fetch a named data set that is absent."""
    workers: int = 0
    """Runs at the same time; 0 for one per core."""
    ray: str = ""
    """Run on a Ray cluster instead: its address, or auto for the one that this machine belongs to."""
    budget: float = 0.0
    """Most minutes that it may take; refused if it would take longer. 0 for any."""
    dry_run: bool = False
    """Print the grid and how long it would take, and do nothing."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parse, trains what isn't trained yet under a live table, concludes. Return the exit code."""
    if not arguments:
        list_studies()
        return 0
    if arguments[0] in ("-h", "--help"):
        list_studies()
        parse(StudyFlags, ["--help"], command="study NAME")  # which prints the flags and ends
    if arguments[0].startswith("-"):
        raise RequestError(f"Name the study first: reslab study {' | '.join([*STUDIES, 'claims'])}.")
    name, *rest = arguments
    if name == "claims":
        from reslab.cli import claims

        return claims.run(rest)
    study, flags = chosen(name, rest)
    out = flags.out or Path(f"runs/study-{study.name}")
    if out.is_file():
        raise RequestError(f"--out {out} is a file. Name a folder.")

    from reslab.studies.study import unfinished

    left = unfinished(study.jobs(), out)
    workers = workers_of(study, flags, num_left=len(left))
    if flags.dry_run or (flags.budget and left):
        from reslab.studies.estimate import estimate  # which needs torch

        expected = estimate(left, workers=workers)
        if flags.dry_run:
            show_grid(study, expected, as_json=flags.json)
            return 0
        if expected.minutes > flags.budget:
            raise RequestError(
                f"{len(left)} runs would take about {expected.minutes:.0f} minutes on {expected.where}, more than"
                f" --budget {flags.budget:g}. Take fewer --seeds, --depths or --epochs, or a larger budget."
            )
    started = time.perf_counter()
    if left:
        carry_out(study, left, flags, out, workers=workers)
    record = result_of(study, out, has_changed=bool(left))
    took = f"in {duration(time.perf_counter() - started)}" if left else "all done before"
    show(record, out, told=f"{len(study.jobs())} runs, {took}", as_json=flags.json)
    return 0


def carry_out(study: Study, left: Mapping[str, Job], flags: StudyFlags, out: Path, *, workers: int) -> None:
    """The runs that are left. Where some fail, the page is written of the others all the same.

    Raises:
        RequestError: if they can't begin, for want of data.
        WorkFailed: with the reasons, after the other runs have ended.
        KeyboardInterrupt: with what is still to come.
    """
    from reslab.studies.grid import GOES_ON
    from reslab.studies.study import unfinished

    if flags.download or not flags.ray:  # another machine's data may lie elsewhere
        next(iter(left.values())).check()  # of one run: all have the same data
    grid = executed(left, out, workers=workers, ray=flags.ray)
    where = f"on the cluster at {flags.ray}" if flags.ray else f"{workers} at once"
    try:
        follow(study, left, grid, out, where=where)
    except WorkFailed:
        if out.exists():
            result_of(study, out, has_changed=True)
        raise
    except KeyboardInterrupt:
        still, num_runs = len(unfinished(left, out)), len(study.jobs())
        raise KeyboardInterrupt(f"interrupted, with {still} of {num_runs} runs to come. {GOES_ON}") from None


def list_studies() -> None:
    """What there is to ask."""
    from reslab.cli.claims import ABOUT

    screen = console()
    screen.print(table(["reslab study", "question"], [*map(list, STUDIES.items()), ["claims", ABOUT]]))
    screen.print()


def chosen(name: str, arguments: list[str]) -> tuple[Study, StudyFlags]:
    """The study as asked for."""
    if name not in STUDIES:
        create_study(name, Choices())  # which names the closest
    flags = parse(StudyFlags, arguments, command=f"study {name}")
    if flags.workers < 0 or flags.budget < 0:
        raise RequestError(f"workers and budget start at 0, got {flags.workers} and {flags.budget:g}.")
    if flags.ray and flags.workers:
        raise RequestError("--workers counts processes of this machine, and --ray runs on a cluster. Leave one out.")
    choices = Choices(
        preset=flags.preset,
        seeds=flags.seeds,
        depths=tuple(flags.depths),
        kinds=tuple(flags.kinds),
        epochs=flags.epochs,
        data_dir=str(Path(flags.data_dir).resolve()) if flags.data_dir else "",
        download=flags.download,
    )
    study = create_study(name, choices)
    if flags.ray and not study.together:
        raise RequestError(f"The study {name} measures time and memory of one machine: leave --ray out.")
    if flags.ray and flags.budget:
        raise RequestError("--budget is counted for this machine's cores, and --ray runs on others. Leave one out.")
    return study, flags


def workers_of(study: Study, flags: StudyFlags, *, num_left: int) -> int:
    """Runs at the same time on this machine."""
    if not study.together:
        return 1
    from reslab.studies.grid import num_cores

    return min(flags.workers or num_cores(), max(1, num_left))


def executed(left: Mapping[str, Job], out: Path, *, workers: int, ray: str) -> Iterator[None]:
    """The runs, on this machine or on a cluster."""
    from reslab.studies.cluster import run_on_ray
    from reslab.studies.grid import run_grid

    return run_on_ray(left, out, address=ray) if ray else run_grid(left, out, workers=workers, resume=True)


def show_grid(study: Study, expected: Estimate, *, as_json: bool) -> None:
    """What would be trained, and how long what is left of it takes."""
    names, seconds = list(study.jobs()), expected.seconds
    if as_json:
        lengths = {name: seconds.get(name, 0.0) for name in names}
        print_json({"runs": lengths, "minutes": expected.minutes, "where": expected.where})
        return
    cells = [[name, duration(seconds[name]) if name in seconds else "done"] for name in names]
    console().print(table(["run", "expected"], cells, numeric=["expected"]))
    left = f"{len(seconds)} of {len(names)} runs left"
    console().print(f"\n{left}, about {expected.minutes:.0f} minutes on {expected.where}.")


def follow(study: Study, left: Mapping[str, Job], grid: Iterator[None], out: Path, *, where: str) -> None:
    """Waits for the runs and shows how far they are. Only those that haven't ended are looked at again and again."""
    screen, waiting, shown = Console(stderr=True), dict(left), study.record(out)
    if not screen.is_terminal:
        print(f"{study.name}: {len(left)} runs, {where}", file=sys.stderr, flush=True)
    with Live(console=screen, refresh_per_second=2) if screen.is_terminal else nullcontext() as live:
        for _ in grid:
            still = {name: job for name, job in waiting.items() if job.status(out / name) in ("new", "open")}
            if len(still) < len(waiting):
                waiting, shown = still, study.record(out)
                if live is None:
                    print(f"{len(waiting)} to come", file=sys.stderr, flush=True)
            if live is not None:
                live.update(Group(study_table(shown), "", progress_text(waiting, out, num_runs=len(study.jobs()))))


def progress_text(waiting: Mapping[str, Job], out: Path, *, num_runs: int) -> str:
    """How many runs have ended, and how far those are that have begun."""
    begun = [f"{name} {job.progress(out / name)}" for name, job in waiting.items() if job.status(out / name) == "open"]
    return f"{num_runs - len(waiting)} of {num_runs} runs done" + (f"; {', '.join(begun)}" if begun else "")


def result_of(study: Study, out: Path, *, has_changed: bool) -> StudyRecord:
    """The record; page, table and file are written where runs have ended since, or where they are gone."""
    from reslab.studies.study import PAGE, RECORD, TABLE

    record = study.record(out)
    whole = all((out / name).exists() for name in (PAGE, RECORD, TABLE))
    if not has_changed and whole and (out / RECORD).read_text(encoding="utf-8") == record.to_json():
        return record
    from reslab.studies.result import write_result  # which needs what draws

    write_result(study, record, out)
    return record


def show(record: StudyRecord, out: Path, *, told: str, as_json: bool) -> None:
    """Prints what came out."""
    from reslab.studies.study import PAGE, TABLE

    if as_json:
        print_json({**record.to_plain(), "page": str(out / PAGE)})
        return
    screen = console()
    screen.print(study_table(record))
    screen.print(f"\n{record.conclusion}", soft_wrap=True)
    screen.print(f"\n{told}. {out / PAGE}, {out / TABLE}")


def study_table(record: StudyRecord) -> Table:
    """The table as it stands."""
    from reslab.report.study_table import brief, cells_of, columns_of

    record = brief(record)
    columns = columns_of(record)
    words = {name for name, value in record.rows[0].factors.items() if isinstance(value, str)}
    return table(
        columns, [cells_of(row, record) for row in record.rows], numeric=[name for name in columns if name not in words]
    )
