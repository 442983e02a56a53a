"""What a study leaves behind: its table as Markdown and JSON, and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reslab.records import encode, write_atomic
from reslab.report.page import write_page
from reslab.studies.study import PAGE, RECORD, TABLE, Row, Study
from reslab.studies.table import markdown_of, plain_of


def write_result(study: Study, rows: Sequence[Row], out: Path) -> Path:
    """All three files; returns the page, which shows the runs of the first seed beside the table's means."""
    sentence = study.conclude(rows)
    write_atomic(out / TABLE, markdown_of(study, rows))
    write_atomic(out / RECORD, encode(plain_of(study, rows), indent=2) + "\n")
    folders = [folder for _, seed, folder in study.folders(out) if seed == study.seeds[0] and folder.run.exists()]
    return write_page(folders, out / PAGE, title=study.title, lead=sentence)
