"""What a study leaves behind: its table as Markdown and JSON, and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reslab.records import RunFolder, encode, write_atomic
from reslab.report.page import write_page
from reslab.studies.study import PAGE, RECORD, TABLE, Row, Study, run_name
from reslab.studies.table import markdown_of, plain_of


def write_result(study: Study, rows: Sequence[Row], out: Path) -> Path:
    """All three files; returns the page, which shows the runs of the first seed under the conclusion from all."""
    sentence = study.conclude(rows)
    write_atomic(out / TABLE, markdown_of(study, rows))
    write_atomic(out / RECORD, encode(plain_of(study, rows), indent=2) + "\n")
    folders = [RunFolder(out / run_name(entry, study.seeds[0])) for entry in study.entries]
    return write_page(
        [folder for folder in folders if folder.run.exists()], out / PAGE, title=study.title, lead=sentence
    )
