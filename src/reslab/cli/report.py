"""``reslab report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reslab.cli._output import parse, print_json
from reslab.errors import RequestError
from reslab.records import RunFolder


@dataclass
class ReportFlags:
    """One HTML page about one run or several: table, learning curves, gradient flow. Or several diagnoses side by side.
    One file, offline.
    """

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Folders of the runs, or pages that `reslab diagnose -o` wrote."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page."""
    title: str = ""
    """Heading; by default the runs' names."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parse, write the page, say where. Return the exit code."""
    flags = parse(ReportFlags, arguments, command="report")
    if not flags.runs:
        raise RequestError("Name at least one run: reslab report RUN... -o page.html")
    if flags.out.is_dir():
        raise RequestError(f"-o {flags.out} is a folder; name a file, such as {flags.out / 'report.html'}.")
    if any(path.suffix == ".html" for path in flags.runs):
        return compare(flags)
    folders = [RunFolder(path) for path in flags.runs]
    for folder in folders:
        if not folder.run.exists():
            raise RequestError(f"{folder.root} is not a run: it has no run.json.")

    from reslab.report import result_rows, write_run_page

    title = flags.title or " and ".join(
        [", ".join(f.name for f in folders[:-1]), folders[-1].name][len(folders) == 1 :]
    )
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    write_run_page(folders, flags.out, title=title)
    if flags.json:
        print_json({"page": str(flags.out), "runs": result_rows(folders)})
    else:
        print(f"{flags.out}: {len(folders)} run{'s' if len(folders) > 1 else ''}")
    return 0


def compare(flags: ReportFlags) -> int:
    """Write the page of several diagnoses side by side."""
    others = [path for path in flags.runs if path.suffix != ".html"]
    if others:
        raise RequestError(
            f"{others[0]} is not a page: runs and pages of diagnoses can't be on one page. For a run's page:"
            f" reslab diagnose {others[0]} -o page.html"
        )

    from reslab.report.diagnosis_page import read_diagnoses, write_comparison_page

    diagnoses = [diagnosis for path in flags.runs for diagnosis in read_diagnoses(path)]
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    write_comparison_page(diagnoses, flags.out, title=flags.title)
    if flags.json:
        verdicts = [{"name": each.name, "verdict": each.judged.verdict} for each in diagnoses]
        print_json({"page": str(flags.out), "diagnoses": verdicts})
    else:
        print(f"{flags.out}: {len(diagnoses)} diagnoses")
    return 0
