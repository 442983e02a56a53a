"""Means of a study: against depth where there is one, and otherwise a line for each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import MeasureRecord, StudyRecord, StudyRow
from reslab.report.figures import Figure, spec_of
from reslab.report.portraits import OKABE_ITO, RAMPS
from reslab.report.study.table import in_unit
from reslab.report.theme import INK, QUIET, Panel, Row, dress, log_ticks

AXES = ("depth", "blocks")
"""Factors that are drawn along an axis, if they are numbers."""
FEW = 5
"""Up to so many settings, each has a colour."""
WIDE = 30.0
"""A measure whose greatest mean is so many times its least is drawn on a logarithmic axis."""
SHADES = RAMPS["residual"]
"""Of dots where a line has several: deeper is darker."""
COLOURS = {"plain": RAMPS["plain"][1], "residual": RAMPS["residual"][1]}
"""Of families; other settings take what is left of the palette."""


def means_figure(record: StudyRecord) -> Figure:
    """The chart of means with what it says."""
    key, title = "means", "Means over the seeds"
    chart, measures = means_chart(record), charted(record)
    if chart is None:
        return Figure(key, title, "No run has ended yet, so there is nothing to draw.", None, [])
    zeros = [label_of(row) for row in record.rows if any(is_lost(record, row, measure) for measure in measures)]
    lost = f" Exactly 0, for which a logarithmic axis has no place: {'; '.join(zeros)}." if zeros else ""
    caption = " ".join(caption_of(record, measure) for measure in measures) + lost
    return Figure(key, title, caption, spec_of(chart, caption), [])


def means_chart(record: StudyRecord) -> alt.TopLevelMixin | None:
    """Mean of each charted measure, with every seed as a small ring, so that the spread is seen and not computed.

    Lines over depth where the study has one, and else a line for each setting, with a dot for each depth where there
    are many kinds of network. None if no run has ended.
    """
    measures = charted(record)
    if not measures:
        return None
    axis = next((name for name in AXES if is_axis(record, name)), "")
    if not axis:
        shade = next((name for name in AXES if is_shade(record, name)), "")
        lines = (in_lines(record, measure, shade) for measure in measures)
        return dress(alt.concat(*lines, columns=1, spacing=24), legend_columns=len(SHADES))
    sheets = {sheet_of(row, axis): None for row in record.rows}
    panels = [against(record, measure, axis, sheet) for sheet in sheets for measure in measures]
    joined = alt.concat(*panels, columns=2, spacing=24).resolve_scale(color="shared")
    return dress(joined, legend_columns=FEW)


def charted(record: StudyRecord) -> list[MeasureRecord]:
    """Measures that are drawn."""
    return [measure for measure in record.measures if measure.charted and any(finite(record, measure))]


def finite(record: StudyRecord, measure: MeasureRecord) -> list[float]:
    """All numbers of a measure that can be drawn."""
    return [number for row in record.rows for number in row.values.get(measure.key, ()) if math.isfinite(number)]


def is_axis(record: StudyRecord, name: str) -> bool:
    """Whether a factor has several numbers, and few lines would be drawn over them."""
    places = [row.factors.get(name) for row in record.rows]
    lines = {line_of(row, name) for row in record.rows}
    return all(isinstance(place, int) for place in places) and len(set(places)) > 1 and len(lines) <= FEW


def is_shade(record: StudyRecord, name: str) -> bool:
    """Whether the settings are few numbers of one factor for each of many settings of another."""
    places = [row.factors.get(name) for row in record.rows]
    several = 1 < len(set(places)) <= len(SHADES)
    return several and all(
        isinstance(place, int) and len(row.factors) == 2 for place, row in zip(places, record.rows, strict=True)
    )


def line_of(row: StudyRow, axis: str) -> str:
    """The last factor beside the axis: which line a row belongs to."""
    return next((str(value) for name, value in reversed(row.factors.items()) if name != axis), "")


def sheet_of(row: StudyRow, axis: str) -> str:
    """The factors beside axis and line: which panel a row belongs to."""
    names = [name for name in row.factors if name != axis][:-1]
    return ", ".join(f"{name} {row.factors[name]}" for name in names)


def label_of(row: StudyRow) -> str:
    """All that a row stands for."""
    return ", ".join(map(str, row.factors.values())) or row.name


def means_of(rows: Sequence[StudyRow], measure: MeasureRecord, axis: str, *, is_log: bool) -> list[Row]:
    """A point for each row."""
    return [
        point | {"n": len(row.values[measure.key])}
        for row in rows
        for point in points(row, [row.mean(measure.key)], measure, axis, is_log=is_log)
    ]


def seeds_of(rows: Sequence[StudyRow], measure: MeasureRecord, axis: str, *, is_log: bool) -> list[Row]:
    """A point for each seed of each row."""
    return [
        point for row in rows for point in points(row, row.values.get(measure.key, ()), measure, axis, is_log=is_log)
    ]


def points(row: StudyRow, numbers: Sequence[float], measure: MeasureRecord, axis: str, *, is_log: bool) -> list[Row]:
    """Numbers of a row where they are drawn; shares in percent. A logarithm has no place for 0."""
    label = line_of(row, axis) if axis else label_of(row)
    base: Row = {"label": label, "name": row.name, "place": row.factors.get(axis, 0)}
    scale = 100 if measure.unit in ("percent", "points") else 1
    return [
        base | {"value": float(f"{scale * number:.5g}"), "told": in_unit(measure, number)}
        for number in numbers
        if math.isfinite(number) and (number > 0 or not is_log)
    ]


def is_wide(record: StudyRecord, measure: MeasureRecord) -> bool:
    """Whether a linear axis would flatten the lesser numbers; errors in percent have one all the same."""
    numbers = [number for number in finite(record, measure) if number > 0]
    return measure.unit not in ("percent", "points") and bool(numbers) and max(numbers) > WIDE * min(numbers)


def is_lost(record: StudyRecord, row: StudyRow, measure: MeasureRecord) -> bool:
    """Whether the mean is 0 on an axis that has no 0."""
    return is_wide(record, measure) and row.mean(measure.key) == 0


def percent_top(most: float) -> int:
    """End of an axis of errors in percent: a round number, and no magnifying glass over tenths of a percent.

    Example:
        >>> [percent_top(most) for most in (0.2, 1.46, 4.1, 58.2, 91.7)]
        [2, 2, 5, 60, 100]
    """
    tops: list[int] = [2, 5, *range(10, 101, 10)]
    return next(top for top in tops if top >= most)


def value_axis(record: StudyRecord, measure: MeasureRecord) -> dict[str, Any]:
    """The measure's axis, upright or not."""
    unit = {"percent": " (%)", "points": " (points)", "mib": " (MiB)"}.get(measure.unit, "")
    heading = f"{measure.heading}{unit}"
    if measure.unit == "percent":  # one axis for training and test
        shares = [share for other in charted(record) if other.unit == "percent" for share in finite(record, other)]
        scale = alt.Scale(domain=[0, percent_top(100 * max(shares))], nice=False)
        return {"title": heading, "scale": scale, "axis": alt.Axis(tickCount=6)}
    if not is_wide(record, measure):
        return {"title": heading, "scale": alt.Scale(zero=True, nice=True), "axis": alt.Axis(tickCount=6)}
    numbers = [number for number in finite(record, measure) if number > 0]
    low, high = 10 ** math.floor(math.log10(min(numbers))), 10 ** math.ceil(math.log10(max(numbers)))
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return {"title": heading, "scale": scale, "axis": log_ticks(low, high)}


def colour_of(labels: Sequence[str]) -> alt.Color:
    """Plain networks warm and residual ones cool, as on every chart."""
    spare = [colour for colour in OKABE_ITO if colour not in COLOURS.values()]
    colours = [COLOURS.get(label) or spare.pop(0) for label in labels]
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=4)
    return alt.Color("label:N", title=None, scale=alt.Scale(domain=list(labels), range=colours), legend=legend)


def against(record: StudyRecord, measure: MeasureRecord, axis: str, sheet: str) -> Panel:
    """Lines over a factor that is a number; ``sheet`` says of which rows."""
    rows = [row for row in record.rows if sheet_of(row, axis) == sheet]
    is_log = is_wide(record, measure)
    means, seeds = (find(rows, measure, axis, is_log=is_log) for find in (means_of, seeds_of))
    places = sorted({float(row.factors[axis]) for row in record.rows})
    scale = alt.Scale(zero=False, padding=14, nice=False)
    if places[-1] > 10 * places[0]:
        scale = alt.Scale(type="log", domain=[0.9 * places[0], 1.1 * places[-1]], nice=False)
    x = alt.X("place:Q", title=axis, scale=scale, axis=alt.Axis(values=places, format="d", grid=False))
    y = alt.Y("value:Q", **value_axis(record, measure))
    colour = colour_of(list(dict.fromkeys(line_of(row, axis) for row in record.rows)))
    base = alt.Chart(alt.InlineData(values=means)).encode(x=x, y=y, color=colour)
    lines = base.mark_line(strokeWidth=2.4).encode(detail="label:N")
    dots = base.mark_circle(size=70, opacity=1).encode(tooltip=tooltip_of(measure))
    each = each_seed(seeds).encode(x=x, y=y, color=colour)
    return alt.layer(lines, dots, each).properties(title=sheet, width=340, height=270)


def in_lines(record: StudyRecord, measure: MeasureRecord, shade: str) -> Panel:
    """A line for each setting; those that differ by the factor ``shade`` alone share one, and have no words."""
    is_log = is_wide(record, measure)
    means, seeds = (find(record.rows, measure, shade, is_log=is_log) for find in (means_of, seeds_of))
    order = list(dict.fromkeys(line_of(row, shade) if shade else label_of(row) for row in record.rows))
    y = alt.Y("label:N", title=None, sort=order, scale=alt.Scale(domain=order), axis=alt.Axis(labelLimit=260))
    x = alt.X("value:Q", **value_axis(record, measure))
    base = alt.Chart(alt.InlineData(values=means)).encode(x=x, y=y)
    dots = base.mark_circle(size=90, color=SHADES[1], opacity=1).encode(tooltip=tooltip_of(measure))
    each = each_seed(seeds).encode(x=x, y=y)
    if shade:
        places = sorted({int(row.factors[shade]) for row in record.rows})
        scale, legend = alt.Scale(domain=places, range=SHADES[: len(places)]), alt.Legend(orient="top")
        dots = dots.encode(color=alt.Color("place:O", title=shade, scale=scale, legend=legend))
        return alt.layer(each, dots).properties(width=560, height=18 * len(order))
    words = alt.Chart(alt.InlineData(values=words_of(means, seeds))).mark_text(
        align="left", dx=10, color=INK, fontSize=11
    )
    words = words.encode(x=x, y=y, text="told:N")
    return alt.layer(each, dots, words).properties(width=560, height=24 * len(order))


def words_of(means: list[Row], seeds: list[Row]) -> list[Row]:
    """Each mean as text, right of the last ring of its line, so that it is written over none."""
    word = "mean " if len(seeds) > len(means) else ""
    found = []
    for mean in means:
        last = max(one["value"] for one in (mean, *seeds) if one["label"] == mean["label"])
        found.append(mean | {"told": f"{word}{mean['told']}", "value": last})
    return found


def each_seed(seeds: list[Row]) -> alt.Chart:
    """Small rings, so that the spread is seen."""
    rings = alt.Chart(alt.InlineData(values=seeds))
    drawn: alt.Chart = rings.mark_point(size=26, filled=False, color=QUIET, opacity=0.9, strokeWidth=1)
    return drawn


def tooltip_of(measure: MeasureRecord) -> list[Any]:
    """What a mean says of itself."""
    return ["name:N", alt.Tooltip("told:N", title=measure.heading), "n:Q"]


def caption_of(record: StudyRecord, measure: MeasureRecord) -> str:
    """The least and the greatest mean."""
    ended = [row for row in record.rows if math.isfinite(row.mean(measure.key))]
    if not ended:
        return ""
    least, most = (find(ended, key=lambda row: row.mean(measure.key)) for find in (min, max))
    heading = f"{measure.heading[0].upper()}{measure.heading[1:]}"
    low, high = in_unit(measure, least.mean(measure.key)), in_unit(measure, most.mean(measure.key))
    if low == high:
        return f"{heading}: {low} everywhere."
    return f"{heading}: from {low} ({label_of(least)}) to {high} ({label_of(most)})."
