"""``reslab report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reslab.cli.output import parse, print_json
from reslab.errors import RequestError
from reslab.records import RunFolder


@dataclass
class ReportFlags:
    """One HTML page about one run or several: table, learning curves, gradient flow. One file, offline."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Folders of the runs."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page."""
    title: str = ""
    """Heading; by default the runs' names."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parses, writes the page, says where. Returns the exit code."""
    flags = parse(ReportFlags, arguments, command="report")
    folders = [RunFolder(path) for path in flags.runs]
    if not folders:
        raise RequestError("Name at least one run: reslab report RUN... -o page.html")
    for folder in folders:
        if not folder.run.exists():
            raise RequestError(f"{folder.root} is not a run: it has no run.json.")
    if flags.out.is_dir():
        raise RequestError(f"-o {flags.out} is a folder; name a file, such as {flags.out / 'report.html'}.")

    from reslab.report.page import write_page
    from reslab.report.tables import result_rows

    title = flags.title or " and ".join(
        [", ".join(f.name for f in folders[:-1]), folders[-1].name][len(folders) == 1 :]
    )
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    write_page(folders, flags.out, title=title)
    if flags.json:
        print_json({"page": str(flags.out), "runs": result_rows(folders)})
    else:
        print(f"{flags.out}: {len(folders)} run{'s' if len(folders) > 1 else ''}")
    return 0
