"""One HTML file about a study: the answer, the table of means, its pictures, and how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reslab.records import RunFolder, StudyRecord, write_atomic
from reslab.report.embedding import packed_spec, render, script_json, vega_script
from reslab.report.facts import Fact, Notice, deviations, sections
from reslab.report.figures import Figure, curves_figure, flow_figure
from reslab.report.study.means import means_figure
from reslab.report.study.shattering import depth_figure
from reslab.report.study.table import brief, table_of
from reslab.report.words import in_words, name_of

MANY = 16
"""More runs than these have no curves of their own: nobody can tell so many lines apart."""


def write_study_page(record: StudyRecord, folders: Sequence[RunFolder], path: Path) -> Path:
    """Writes the page, whole or not at all, and returns its path.

    Args:
        record: of the study.
        folders: trainings that are drawn one by one, those of the first seed; none for a study that trains nothing.
        path: of the file.
    """
    undrawn = len(folders) if len(folders) > MANY else 0
    figures = [figure for figure in figures_of(record, [] if undrawn else folders) if figure.spec]
    records = [run.read_run() for run in folders]
    html = render(
        "study.html.j2",
        {
            "title": record.title,
            "lead": record.conclusion,
            "question": record.question,
            "protocol": record.protocol,
            "command": record.command,
            "notices": notices_of(record),
            "results": table_of(brief(record)),
            "more": table_of(more) if (more := brief(record, is_brief=False)).measures else None,
            "words": len(record.rows[0].factors),
            "figures": figures,
            "undrawn": undrawn,
            "names": [run.name for run in folders] or [record.name],
            "sections": sections(records) if records else facts_of(record),
            "deviations": deviations(folders, records) if records else [],
            "specs": script_json({figure.key: packed_spec(figure.spec) for figure in figures if figure.spec}),
            "vega": vega_script(),
        },
    )
    write_atomic(path, html)
    return path


def figures_of(record: StudyRecord, folders: Sequence[RunFolder]) -> list[Figure]:
    """Means of all seeds, then the runs of the first one."""
    own = [means_figure(record)]
    return [*own, curves_figure(folders), flow_figure(folders), depth_figure(folders)] if folders else own


def facts_of(record: StudyRecord) -> dict[str, list[Fact]]:
    """What it was measured on, where no run has a record of its own."""
    found: dict[str, dict[str, Any]] = {"Machine": dict(record.machine), "Versions": dict(record.versions)}
    return {
        heading: [Fact(name_of(key), [in_words(value)]) for key, value in facts.items()]
        for heading, facts in found.items()
    }


def notices_of(record: StudyRecord) -> list[Notice]:
    """What has diverged and why, and what is still to come."""
    found = []
    if waiting := sum(row.waiting for row in record.rows):
        found.append(Notice("running", f"{runs(waiting)} to come; the same command goes on.", []))
    if lost := [(f"{row.name}, seed {seed}", why) for row in record.rows for seed, why in row.failed.items()]:
        found.append(Notice("failed", f"{runs(len(lost))} diverged.", lost))
    return found


def runs(count: int) -> str:
    """How many."""
    return f"{count} run{'s' if count != 1 else ''}"
