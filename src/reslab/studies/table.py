"""A study's table: for a terminal, as Markdown, and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reslab.records import as_percent
from reslab.studies.study import Row, Study, deviation_of, mean_of


def columns_of(study: Study) -> list[str]:
    """Headings of the table."""
    return [*study.entries[0].factors, "parameters", "n", "clean training error", "test error", "minutes a run"]


def cells_of(row: Row) -> list[str]:
    """A line of the table."""
    return [
        *map(str, row.entry.factors.values()),
        "" if row.num_parameters is None else f"{row.num_parameters:,}",
        str(len(row.train_errors)),
        error_text(row.train_errors, row),
        error_text(row.test_errors, row),
        f"{mean_of(row.durations_s) / 60:.1f}" if row.durations_s else "",
    ]


def error_text(errors: Sequence[float], row: Row) -> str:
    """Mean and deviation in percent; what has diverged, or hasn't ended."""
    lost = f"{len(row.diverged)} diverged" if row.diverged else ""
    waits = f"{row.waiting} to come" if row.waiting else ""
    mean = f"{as_percent(mean_of(errors))} \N{PLUS-MINUS SIGN} {100 * deviation_of(errors):.2f}" if errors else ""
    return ", ".join(filter(None, (mean, lost, waits)))


def markdown_of(study: Study, rows: Sequence[Row]) -> str:
    """Question, protocol, table and conclusion."""
    columns = columns_of(study)
    lines = [
        f"# {study.title}",
        "",
        study.question,
        "",
        *(f"- {sentence}" for sentence in study.protocol),
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
        *(f"| {' | '.join(cells_of(row))} |" for row in rows),
        "",
        study.conclude(rows),
        "",
    ]
    return "\n".join(lines)


def plain_of(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """For programs."""
    return {
        "study": study.name,
        "question": study.question,
        "protocol": list(study.protocol),
        "seeds": list(study.seeds),
        "conclusion": study.conclude(rows),
        "rows": [{**asdict(row), "entry": row.entry.name, **row.entry.factors} for row in rows],
    }
