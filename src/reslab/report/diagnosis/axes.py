"""The axes that pictures along the depth share: stages as bands, decades with rails, and the mouse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import altair as alt

from reslab.report.diagnosis.palette import BAND
from reslab.report.diagnosis.places import Depth, is_measured, stages_of
from reslab.report.theme import ALARM, QUIET, Panel, Row, log_ticks

WIDTH = 780
MARGIN = 58
"""Pixels that the vertical axis and its title take, so that pictures above one another line up."""
RAIL = 26
"""Height of a rail: the strip for values that a logarithmic axis has no place for."""
AIR = 0.03
"""Decades between the outermost value and the end of its axis, at least."""
LETTER = 6.6
"""Pixels of a letter of a stage's name."""


@dataclass(frozen=True)
class Decades:
    """A logarithmic axis, with rails for exact zeros and for what is not finite where there are any.

    Args:
        low: exponent of ten at the bottom.
        high: exponent of ten at the top.
        zeros: whether a rail for exact zeros lies below.
        others: whether a rail for what is not finite lies above.
        height: pixels of the panel.
    """

    low: int
    high: int
    zeros: bool
    others: bool
    height: int

    def axis(self, field: str, title: str | list[str]) -> alt.Y:
        """Ticks at powers of ten; nothing is clamped."""
        low, high = 10.0**self.low, 10.0**self.high
        bottom, top = self.height - (RAIL if self.zeros else 0), RAIL if self.others else 0
        scale = alt.Scale(type="log", domain=[low, high], rangeMin=bottom, rangeMax=top, nice=False)
        ticks = log_ticks(low, high)
        ticks.minExtent = ticks.maxExtent = MARGIN - 18
        return alt.Y(f"{field}:Q", title=title, scale=scale, axis=ticks)

    def rails(self, rows: Sequence[Row], inks: dict[str, str]) -> list[Panel]:
        """A strip for each kind, and on it a mark for each value that belongs there; ``inks``: field to colour."""
        drawn: list[Panel] = []
        if self.zeros:
            zeros = {ink: [row for row in rows if row[field] == 0] for field, ink in inks.items()}
            drawn.append(rail("exactly 0", self.height - RAIL / 2, zeros, shape="triangle-down"))
        if self.others:
            others = {ink: [row for row in rows if not math.isfinite(row[field])] for field, ink in inks.items()}
            drawn.append(rail("not finite", RAIL / 2, others, shape="cross"))
        return drawn


def inline(rows: Sequence[Row]) -> alt.InlineData:
    """Data of a chart, not checked by altair, which would take longer than all the rest.

    A tuple, because altair copies lists row by row, many times for a layered chart.
    """
    data = alt.InlineData(values=())
    data.values = tuple(rows)
    return data


def decades_of(values: Iterable[float], *, height: int) -> Decades:
    """The axis on which all of these have a place."""
    values = list(values)
    exponents = [math.log10(value) for value in values if is_measured(value)] or [0.0]
    low = max(math.floor(min(exponents) - AIR), -300)
    high = max(math.ceil(max(exponents) + AIR), low + 1)
    return Decades(low, high, zeros=0 in values, others=not all(map(math.isfinite, values)), height=height)


def for_log_axis(row: Row, *fields: str) -> Row:
    """Five digits, or a gap in the line where the axis has no place for a value: its rail shows it."""
    return row | {field: rounded(row[field]) if is_measured(row[field]) else None for field in fields}


def rounded(value: float) -> float | None:
    """Five digits; None for what JSON has no word for."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def rail(text: str, y: float, marked: dict[str, list[Row]], *, shape: str) -> Panel:
    """A strip with its name where the axis has its labels; ``marked``: colour to the rows that have a mark on it."""
    line = alt.Chart(inline([{}])).mark_rule(color=QUIET, strokeDash=[1, 3]).encode(y=alt.value(y))
    words = alt.Chart(inline([{}])).mark_text(
        align="right", baseline="middle", color=ALARM, fontWeight="bold", fontSize=11
    )
    named = words.encode(x=alt.value(-6), y=alt.value(y), text=alt.value(text))
    drawn: list[alt.Chart] = [line, named]
    for colour, rows in marked.items():
        at = alt.Chart(inline([{"index": row["index"], "name": row["name"], "why": text} for row in rows]))
        marks = at.mark_point(shape=shape, filled=True, size=60, color=colour, opacity=1)
        drawn += [marks.encode(x="index:Q", y=alt.value(y), tooltip=["name:N", "why:N"])] if rows else []
    return alt.layer(*drawn)


# ---- along the depth


def depth_axis(depth: Depth, *, labels: bool = True) -> alt.X:
    """Ticks where a stage begins and at the end, and none between: the bands tell where one is."""
    last = len(depth.places) - 1
    ticks = [stage.first for stage in stages_of(depth.names)]
    if len(ticks) > 12:
        ticks = list(range(0, last + 1, max(1, last // 8)))
    named = f"\u2190 input\u2003\u2003{depth.unit}, in order of execution\u2003\u2003loss \u2192"
    scale = alt.Scale(domain=[-0.5, last + 0.5], nice=False, zero=False)
    axis = alt.Axis(values=sorted({*ticks, last}), format=",d", grid=False, labels=labels)
    return alt.X("index:Q", title=named if labels else None, scale=scale, axis=axis)


def bands(depth: Depth, *, named: bool = True) -> list[alt.Chart]:
    """Every other stage shaded, and the stages' names above where there is room; nothing for a single stage."""
    stages = stages_of(depth.names)
    if len(stages) < 2 and not stages[0].name:
        return []
    rows = [{"from": stage.first - 0.5, "to": stage.last + 0.5} for stage in stages[1::2]]
    shaded = alt.Chart(inline(rows)).mark_rect(color=BAND, opacity=0.1).encode(x="from:Q", x2="to:Q")
    per_place = WIDTH / len(depth.places)
    labels = [
        {"index": (stage.first + stage.last) / 2, "stage": stage.name}
        for stage in stages
        if stage.name and (stage.last - stage.first + 1) * per_place > LETTER * len(stage.name)
    ]
    words = alt.Chart(inline(labels)).mark_text(baseline="bottom", color=QUIET, fontSize=11)
    text = words.encode(x="index:Q", y=alt.value(-4), text="stage:N")
    return [*([shaded] if rows else []), *([text] if named and labels else [])]


def pointed_at(rows: Sequence[Row], *tooltip: str | alt.Tooltip) -> alt.Chart:
    """An unseen column for each place, which says what is there when the mouse is on it."""
    columns = [{**row, "left": row["index"] - 0.5, "right": row["index"] + 0.5} for row in rows]
    chart = alt.Chart(inline(columns)).mark_rect(opacity=0, tooltip=True)
    placed: alt.Chart = chart.encode(x="left:Q", x2="right:Q", tooltip=list(tooltip))
    return placed


def number(field: str, title: str) -> alt.Tooltip:
    """A number in a tooltip."""
    return alt.Tooltip(f"{field}:Q", title=title, format=".3~g")
