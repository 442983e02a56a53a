"""What a study leaves behind: its record, its table as Markdown, one page, and the picture of its means."""

from __future__ import annotations

from pathlib import Path

from reslab.records import RunFolder, StudyRecord, write_atomic
from reslab.report import study_means, write_study_page
from reslab.report.study_table import markdown_of
from reslab.studies.study import PAGE, PICTURE, RECORD, TABLE, Study, run_name


def write_result(study: Study, record: StudyRecord, out: Path) -> None:
    """All of them; the page draws the runs of the first seed one by one."""
    write_atomic(out / TABLE, markdown_of(record))
    write_atomic(out / RECORD, record.to_json())
    folders = [RunFolder(out / run_name(entry, study.seeds[0])) for entry in study.entries]
    write_study_page(record, [folder for folder in folders if folder.run.exists()], out / PAGE)
    if (means := study_means(record)).is_drawn:
        means.save(out / PICTURE)
