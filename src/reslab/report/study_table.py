"""A study's table: for a terminal, for a page, and as Markdown."""

from __future__ import annotations

import math
from dataclasses import replace

from reslab.records import StudyRecord
from reslab.records.study import MeasureRecord, StudyRow
from reslab.records.training import as_percent
from reslab.report.text import duration


def brief(record: StudyRecord, *, is_brief: bool = True) -> StudyRecord:
    """Return the study with the measures of the first table alone, or with those that are left out of it."""
    return replace(record, measures=tuple(measure for measure in record.measures if measure.is_brief == is_brief))


def columns_of(record: StudyRecord) -> list[str]:
    return [*record.rows[0].factors, "n", *(measure.heading for measure in record.measures)]


def cells_of(row: StudyRow, record: StudyRecord) -> list[str]:
    """Return a line of the table; how many runs ended, diverged, and are to come is one cell."""
    lost = f"{len(row.failed)} diverged" if row.failed else ""
    waits = f"{row.waiting} to come" if row.waiting else ""
    counts = ", ".join(filter(None, (str(row.num_ended), lost, waits)))
    return [*map(str, row.factors.values()), counts, *(measure_text(measure, row) for measure in record.measures)]


def measure_text(measure: MeasureRecord, row: StudyRow) -> str:
    """Write mean and deviation in the measure's unit; empty where nothing was measured.

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
    shown, spread = in_unit(measure, row.mean(measure.key)), row.deviation(measure.key)
    if measure.unit in ("count", "seconds", "distance") or len(numbers) < 2 or not math.isfinite(spread):
        return shown
    deviation = f"{100 * spread:.2f}" if measure.unit in ("percent", "points") else f"{spread:.2g}"
    return f"{shown} \N{PLUS-MINUS SIGN} {deviation}"


def in_unit(measure: MeasureRecord, value: float) -> str:
    if not math.isfinite(value):
        return "" if math.isnan(value) else "never" if measure.unit == "distance" else "infinite"
    formats = {"points": f"{100 * value:+.2f}", "count": f"{value:,.0f}", "mib": f"{value:,.1f} MiB"}
    formats |= {"percent": as_percent(value), "seconds": duration(value), "distance": f"{value:.1e}"}
    return formats.get(measure.unit, f"{value:.3g}")


def markdown_of(record: StudyRecord) -> str:
    """Write question, protocol, table and conclusion."""
    columns = columns_of(record)
    table = [columns, ["---"] * len(columns), *(cells_of(row, record) for row in record.rows)]
    lines = [
        *(f"# {record.title}", "", record.question, ""),
        *(f"- {sentence}" for sentence in record.protocol),
        "",
        *(f"| {' | '.join(cells)} |" for cells in table),
        *("", record.conclusion, "", f"{origin_of(record)}.", ""),
    ]
    return "\n".join(lines)


def origin_of(record: StudyRecord) -> str:
    """Say by which command, from how many seeds and on what machine a study was made."""
    machine = ", ".join(str(record.machine[key]) for key in ("processor", "gpu") if record.machine.get(key))
    return f"`{record.command}`, n = {most_runs(record)}, {machine or 'machine not recorded'}"


def most_runs(record: StudyRecord) -> int:
    """Return the number of runs of the setting that has most."""
    return max((row.num_ended for row in record.rows), default=0)
