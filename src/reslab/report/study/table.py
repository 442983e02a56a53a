"""A study's table: for a terminal and as Markdown."""

from __future__ import annotations

import math
from dataclasses import replace

from reslab.records import MeasureRecord, StudyRecord, StudyRow, as_percent
from reslab.report.tables import Table
from reslab.report.words import duration


def brief(record: StudyRecord, *, is_brief: bool = True) -> StudyRecord:
    """With the measures of the first table alone, or with those that are left out of it."""
    return replace(record, measures=tuple(measure for measure in record.measures if measure.is_brief == is_brief))


def table_of(record: StudyRecord) -> Table:
    """For a page."""
    return Table("", columns_of(record), [cells_of(row, record) for row in record.rows])


def columns_of(record: StudyRecord) -> list[str]:
    """Headings of the table."""
    return [*record.rows[0].factors, "n", *(measure.heading for measure in record.measures)]


def cells_of(row: StudyRow, record: StudyRecord) -> list[str]:
    """A line of the table; how many runs ended, diverged, and are to come stands in one cell."""
    lost = f"{len(row.failed)} diverged" if row.failed else ""
    waits = f"{row.waiting} to come" if row.waiting else ""
    counts = ", ".join(filter(None, (str(row.num_ended), lost, waits)))
    return [*map(str, row.factors.values()), counts, *(measure_text(measure, row) for measure in record.measures)]


def measure_text(measure: MeasureRecord, row: StudyRow) -> str:
    """Mean and deviation, in the measure's unit; empty where nothing was measured.

    Example:
        >>> row = StudyRow("x", {}, {"error": (0.25, 0.27), "half": (1e-4,)}, {}, 0)
        >>> measure_text(MeasureRecord("error", "error", "percent"), row)
        '26.00 % ± 1.41'
        >>> measure_text(MeasureRecord("half", "half", "distance"), row)
        '1.0e-04'
    """
    numbers = row.values.get(measure.key, ())
    if not numbers:
        return ""
    mean, spread = row.mean(measure.key), row.deviation(measure.key)
    if measure.unit in ("count", "seconds", "distance"):
        return in_unit(measure, mean)
    shown = in_unit(measure, mean)
    scale = 100 if measure.unit in ("percent", "points") else 1
    digits = ".2f" if scale == 100 else ".2g"
    return (
        shown
        if len(numbers) < 2 or not math.isfinite(spread)
        else f"{shown} \N{PLUS-MINUS SIGN} {scale * spread:{digits}}"
    )


def in_unit(measure: MeasureRecord, value: float) -> str:
    """One number of a measure."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else "never" if measure.unit == "distance" else "infinite"
    if measure.unit == "percent":
        return as_percent(value)
    if measure.unit == "points":
        return f"{100 * value:+.2f}"
    if measure.unit == "count":
        return f"{value:,.0f}"
    if measure.unit == "seconds":
        return duration(value)
    if measure.unit == "mib":
        return f"{value:,.1f} MiB"
    return f"{value:.1e}" if measure.unit == "distance" else f"{value:.3g}"


def markdown_of(record: StudyRecord) -> str:
    """Question, protocol, table and conclusion."""
    columns = columns_of(record)
    lines = [
        f"# {record.title}",
        "",
        record.question,
        "",
        *(f"- {sentence}" for sentence in record.protocol),
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
        *(f"| {' | '.join(cells_of(row, record))} |" for row in record.rows),
        "",
        record.conclusion,
        "",
        f"{origin_of(record)}.",
        "",
    ]
    return "\n".join(lines)


def origin_of(record: StudyRecord) -> str:
    """Command, seeds and machine."""
    machine = ", ".join(str(record.machine[key]) for key in ("processor", "gpu") if record.machine.get(key))
    return f"`{record.command}`, n = {most_runs(record)}, {machine or 'machine not recorded'}"


def most_runs(record: StudyRecord) -> int:
    """Runs of the setting that has most."""
    return max((row.num_ended for row in record.rows), default=0)
