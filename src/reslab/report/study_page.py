"""The page of a study: the answer, the table of means, its figures, and how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from reslab.records import RunFolder, StudyRecord
from reslab.records.study import MeasureRecord, StudyRow
from reslab.report import _chart as ch
from reslab.report._depth import shattering_of_runs
from reslab.report._page import Notice, Section, Table, figure_sections, write_page
from reslab.report._style import INK, QUIET, RAMPS, RUN_COLOURS
from reslab.report.curves import learning_curves
from reslab.report.figure import DataRow, Figure
from reslab.report.flow import gradient_flow
from reslab.report.run_page import PICK, about_sections, facts_table
from reslab.report.study_table import brief, cells_of, columns_of, in_unit
from reslab.report.text import plural

MAX_RUNS = 16
"""Runs up to which each has curves of its own: nobody can distinguish more lines."""
AXES = ("depth", "blocks")
"""Factors that are drawn along an axis, if they are numbers."""
MAX_LINES = 5
"""Settings up to which each has a colour."""
LOG_RATIO = 30.0
"""A measure whose greatest value is this many times its least has a logarithmic axis."""
UNITS = {"percent": " (%)", "points": " (points)", "mib": " (MiB)"}
FAMILY_COLOURS = {family: ramp[3] for family, ramp in RAMPS.items()}


def write_study_page(record: StudyRecord, folders: Sequence[RunFolder], path: Path | str) -> Path:
    """Write the page of a study, whole or not at all, and return its path.

    Args:
        record: of the study.
        folders: trainings that are drawn one by one, those of the first seed; none for a study that trains nothing.
        path: of the file.

    Raises:
        RequestError: if the file can't be written.
    """
    is_large = len(folders) > MAX_RUNS
    waiting = sum(row.waiting for row in record.rows)
    lost = [(f"{row.name}, seed {seed}", why) for row in record.rows for seed, why in row.failed.items()]
    notices = [Notice("running", f"{plural(waiting, 'run')} to come; the same command resumes.")] if waiting else []
    notices += [Notice("failed", f"{plural(len(lost), 'run')} diverged.", lost)] if lost else []
    more = brief(record, is_brief=False)
    tables = [means_table(brief(record), fold=f"The table of {len(record.rows)} settings" if is_large else "")]
    tables += [means_table(more, fold="What else was measured")] if more.measures else []
    figures = [figure for figure in figures_of(record, [] if is_large else folders) if figure.is_drawn]
    named = "`reslab report RUN RUN -o page.html` draws those that you name."
    too_many = f"{len(folders)} runs are too many for curves of each. {named}" if is_large else ""
    about = [
        Section(title, "tables", [facts_table([record.name], [dict(facts)])])
        for title, facts in (("Machine", record.machine), ("Versions", record.versions))
    ]
    return write_page(
        path,
        title=record.title,
        lead=record.conclusion,
        notices=notices,
        sections=[
            Section(
                record.question,
                "tables",
                tables,
                "Means over the seeds \N{PLUS-MINUS SIGN} sample deviation. n: runs that ended.",
            ),
            Section("How it was done", "lists", [("", [*record.protocol, f"Repeat it with: {record.command}"])]),
            *figure_sections(figures[:1], hint=too_many),
            *figure_sections(figures[1:], hint=f"Runs of the first seed. {PICK}"),
            *(about_sections(folders, [run.read_run() for run in folders]) if folders else about),
        ],
    )


def means_table(record: StudyRecord, *, fold: str = "") -> Table:
    words = len(record.rows[0].factors)
    return Table(columns_of(record), [cells_of(row, record) for row in record.rows], words=words, fold=fold)


def figures_of(record: StudyRecord, folders: Sequence[RunFolder]) -> list[Figure]:
    """Means of all seeds, then the runs of the first one."""
    own = [study_means(record)]
    return [*own, learning_curves(folders), gradient_flow(folders), shattering_of_runs(folders)] if folders else own


# ---- the chart of means


def study_means(record: StudyRecord) -> Figure:
    """Draw the mean of each charted measure, with every seed as a small ring, so that the spread is seen.

    Lines over depth where the study has one, and else a line for each setting, with a dot for each depth where there
    are many kinds of network.
    """
    key, title = "means", "Means over the seeds"
    measures = [measure for measure in record.measures if measure.charted and numbers_of(record, measure)]
    if not measures:
        return Figure(key, title, "No run has ended yet, so there is nothing to draw.")
    axis = next((name for name in AXES if is_axis(record, name)), "")
    shade = next((name for name in AXES if is_shade(record, name)), "")
    if axis:
        sheets = dict.fromkeys(sheet_of(row, axis) for row in record.rows)
        panels = [_against(record, measure, axis, sheet) for sheet in sheets for measure in measures]
        names = list(dict.fromkeys(line_of(row, axis) for row in record.rows))
        chart = ch.arrange(panels, columns=2, names=names)
    else:
        chart = ch.arrange([_in_lines(record, measure, shade) for measure in measures])
    lost = [
        label_of(row)
        for row in record.rows
        if any(row.mean(measure.key) == 0 and is_wide(record, measure) for measure in measures)
    ]
    zeros = f" Exactly 0, for which a logarithmic axis has no place: {'; '.join(lost)}." if lost else ""
    caption = " ".join(measure_sentence(record, measure) for measure in measures) + zeros
    rows = [
        {"setting": label_of(row), "measure": measure.heading, "run": place, "value": number}
        for measure in measures
        for row in record.rows
        for place, number in enumerate(row.values.get(measure.key, ()))
    ]
    return Figure(key, title, caption, chart, rows)


def numbers_of(record: StudyRecord, measure: MeasureRecord) -> list[float]:
    """All numbers of a measure that can be drawn."""
    return [number for row in record.rows for number in row.values.get(measure.key, ()) if math.isfinite(number)]


def places_of(record: StudyRecord, name: str) -> list[int]:
    """The numbers that a factor has; none if it has other values too."""
    values = {row.factors.get(name) for row in record.rows}
    numbers = {value for value in values if isinstance(value, int)}
    return sorted(numbers) if len(numbers) == len(values) else []


def is_axis(record: StudyRecord, name: str) -> bool:
    """Whether a factor has several numbers, and few lines would be drawn over them."""
    lines = {line_of(row, name) for row in record.rows}
    return len(places_of(record, name)) > 1 and len(lines) <= MAX_LINES


def is_shade(record: StudyRecord, name: str) -> bool:
    """Whether the settings are few numbers of one factor for each of many settings of another."""
    return 1 < len(places_of(record, name)) <= 3 and all(len(row.factors) == 2 for row in record.rows)


def line_of(row: StudyRow, axis: str) -> str:
    """The last factor beside the axis: which line a row belongs to."""
    return next((str(value) for name, value in reversed(row.factors.items()) if name != axis), "")


def sheet_of(row: StudyRow, axis: str) -> str:
    """The factors beside axis and line: which panel a row belongs to."""
    names = [name for name in row.factors if name != axis][:-1]
    return ", ".join(f"{name} {row.factors[name]}" for name in names)


def label_of(row: StudyRow) -> str:
    return ", ".join(map(str, row.factors.values())) or row.name


def is_wide(record: StudyRecord, measure: MeasureRecord) -> bool:
    """Whether a linear axis would flatten the lesser numbers; errors in percent have one all the same."""
    numbers = [number for number in numbers_of(record, measure) if number > 0]
    return measure.unit not in ("percent", "points") and bool(numbers) and max(numbers) > LOG_RATIO * min(numbers)


def _points(
    record: StudyRecord, measure: MeasureRecord, axis: str, sheet: str | None = None
) -> tuple[list[DataRow], ...]:
    """Means, and single seeds; percentages as such. A logarithm has no place for 0."""
    scale, is_log = 100 if measure.unit in ("percent", "points") else 1, is_wide(record, measure)
    found: tuple[list[DataRow], ...] = [], []
    for row in record.rows:
        numbers = row.values.get(measure.key, ())
        if sheet is not None and sheet_of(row, axis) != sheet:
            continue
        name = line_of(row, axis) if axis else label_of(row)
        base = {"label": name, "name": row.name, "place": row.factors.get(axis, 0), "n": len(numbers)}
        for rows, values in zip(found, ([row.mean(measure.key)], numbers), strict=True):
            for number in values:
                if math.isfinite(number) and (number > 0 or not is_log):
                    rows.append(base | {"value": float(f"{scale * number:.5g}"), "said": in_unit(measure, number)})
    return found


def _value_axis(channel: type[Any], record: StudyRecord, measure: MeasureRecord) -> Any:
    title = f"{measure.heading}{UNITS.get(measure.unit, '')}"
    if is_wide(record, measure):
        numbers = [math.log10(number) for number in numbers_of(record, measure) if number > 0]
        return ch.log_axis(channel, "value:Q", title, 10.0 ** math.floor(min(numbers)), 10.0 ** math.ceil(max(numbers)))
    scale = alt.Scale(zero=True, nice=True)
    if measure.unit == "percent":  # one axis for training and test, and no magnifying glass over tenths of a percent
        charted = [other for other in record.measures if other.charted and other.unit == "percent"]
        most = 100 * max(number for other in charted for number in numbers_of(record, other))
        scale = alt.Scale(domain=[0, percent_top(most)], nice=False)
    return channel("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6))


def percent_top(most: float) -> int:
    """Return the end of an axis of errors in percent: a round number.

    Example:
        >>> [percent_top(most) for most in (0.2, 1.46, 4.1, 58.2, 91.7)]
        [2, 2, 5, 60, 100]
    """
    tops: list[int] = [2, 5, *range(10, 101, 10)]
    return next(top for top in tops if top >= most)


def _tooltip(measure: MeasureRecord) -> list[Any]:
    return ["name:N", alt.Tooltip("said:N", title=measure.heading), "n:Q"]


def _rings(seeds: list[DataRow], **at: Any) -> ch.Panel:
    return ch.mark("point", seeds, size=26, filled=False, opacity=0.9, strokeWidth=1, **({"color": QUIET} | at))


def _against(record: StudyRecord, measure: MeasureRecord, axis: str, sheet: str) -> ch.Panel:
    """Lines over a factor that is a number; ``sheet`` says of which rows."""
    means, seeds = _points(record, measure, axis, sheet)
    places = places_of(record, axis)
    scale = alt.Scale(zero=False, padding=14, nice=False)
    if places[-1] > 10 * places[0]:
        scale = alt.Scale(type="log", domain=[0.9 * places[0], 1.1 * places[-1]], nice=False)
    x = alt.X("place:Q", title=axis, scale=scale, axis=alt.Axis(values=places, format="d", grid=False))
    names = list(dict.fromkeys(line_of(row, axis) for row in record.rows))
    spare = iter(RUN_COLOURS[1:])
    channels = ch.series({name: FAMILY_COLOURS.get(name) or next(spare) for name in names})  # type: ignore[call-overload]
    at = {"x": x, "y": _value_axis(alt.Y, record, measure)}
    dots = ch.mark("circle", means, tooltip=_tooltip(measure), **at, **ch.of_dots(channels, size=70))
    layers = [ch.mark("line", means, **at, **channels), dots, _rings(seeds, color=channels["color"], **at)]
    return ch.panel(layers, width=340, height=270, title=sheet)


def _in_lines(record: StudyRecord, measure: MeasureRecord, shade: str) -> ch.Panel:
    """A line for each setting; those that differ by the factor ``shade`` alone share one, and have no words."""
    means, seeds = _points(record, measure, shade)
    order = list(dict.fromkeys(line_of(row, shade) if shade else label_of(row) for row in record.rows))
    y = alt.Y("label:N", title=None, sort=order, scale=alt.Scale(domain=order), axis=alt.Axis(labelLimit=260))
    at = {"x": _value_axis(alt.X, record, measure), "y": y}
    colour: Any = FAMILY_COLOURS["residual"]
    if shade:
        places = places_of(record, shade)
        shades = alt.Scale(domain=places, range=[RAMPS["residual"][place] for place in (0, 3, 6)][: len(places)])
        colour = alt.Color("place:O", title=shade, scale=shades, legend=alt.Legend(orient="top"))
    layers = [
        _rings(seeds, **at),
        ch.mark("circle", means, size=90, opacity=1, color=colour, tooltip=_tooltip(measure), **at),
    ]
    if not shade:  # right of the last ring of its line, so that it is written over none
        word = "mean " if len(seeds) > len(means) else ""
        words = [
            mean
            | {
                "said": f"{word}{mean['said']}",
                "value": max(each["value"] for each in (mean, *seeds) if each["label"] == mean["label"]),
            }
            for mean in means
        ]
        layers.append(ch.mark("text", words, align="left", dx=10, color=INK, text="said:N", **at))
    return ch.panel(layers, width=560, height=(18 if shade else 24) * len(order))


def measure_sentence(record: StudyRecord, measure: MeasureRecord) -> str:
    """Say which settings have the least and the greatest mean."""
    ended = sorted(
        (row for row in record.rows if math.isfinite(row.mean(measure.key))), key=lambda row: row.mean(measure.key)
    )
    if not ended:
        return ""
    heading = f"{measure.heading[0].upper()}{measure.heading[1:]}"
    low, high = (in_unit(measure, row.mean(measure.key)) for row in (ended[0], ended[-1]))
    if low == high:
        return f"{heading}: {low} everywhere."
    return f"{heading}: from {low} ({label_of(ended[0])}) to {high} ({label_of(ended[-1])})."
