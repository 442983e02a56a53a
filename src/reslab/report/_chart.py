"""What all charts are made of: marks drawn from rows, axes, rails for what an axis has no place for, and one look."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from reslab.report._style import ALARM, BAND, CARD, FONT, GRID, INK, QUIET
from reslab.report.figure import DataRow
from reslab.report.profile import is_measured, stages_of
from reslab.report.text import five_digits

Channels = dict[str, Any]
Panel = alt.LayerChart | alt.FacetChart | alt.Chart

FULL_WIDTH, DEPTH_WIDTH = 860, 780
"""Pixels of a page's charts with their axes, and of the panel of a chart along the depth."""
RAIL = 26
"""Height of a rail: the strip for values that a logarithmic axis has no place for."""
MAX_LARGE_DOTS = 28
"""Points of a line up to which each has a large dot; beyond, these would hide the dashes."""
SAME_WIDTH: dict[str, Any] = {"minExtent": 48, "maxExtent": 48}
"""Of vertical axes, so that panels above one another line up."""
MAX_TOLD = 14
"""Lines that the mouse tells of at once."""
DASHES = ([1, 0], [5, 3], [2, 2], [8, 3, 2, 3], [12, 4], [1, 4], [10, 2, 2, 2, 2, 2])
POWERS = (
    "datum.value == 0 || (datum.value >= 0.001 && datum.value < 1e5)"
    " ? format(datum.value, ',~g') : format(datum.value, '.0e')"
)
"""How an axis over many powers of ten writes its numbers, as a Vega expression."""
PICKED = alt.selection_point(name="picked", fields=["label"], bind="legend")
"""The run whose name was clicked in the legend."""


# ---- marks


def mark(kind: str, rows: Iterable[DataRow], **settings: Any) -> alt.Chart:
    """Draw a mark for each row; a setting that is a channel encodes, any other styles the mark."""
    # Altair would check each row, which takes longer than all the rest, and copy a list (not a tuple) row by row.
    data = alt.InlineData(values=())
    data.values = tuple(rows)
    always = ("x", "y", "x2", "y2", "text", "detail", "tooltip")
    channels = {k: value for k, value in settings.items() if k in always or isinstance(value, dict | alt.SchemaBase)}
    style = ({"filled": True, "opacity": 1} if kind == "point" else {}) | settings
    chart = alt.Chart(data)
    styled = getattr(chart, f"mark_{kind}")(**{k: value for k, value in style.items() if k not in channels})
    encoded: alt.Chart = styled.encode(**channels)
    return encoded


def bars(rows: Sequence[DataRow], field: str, *, x: alt.X, y: alt.Y, **settings: Any) -> alt.Chart:
    """Draw a bar from 0 at each ``index``; ``x`` is an axis of ``left``."""
    ends = [rounded(row) | {"left": row["index"] - 0.42, "right": row["index"] + 0.42} for row in rows]
    drawn = [row for row in ends if row[field]]
    return mark("rect", drawn, x=x, x2="right:Q", y=y, y2=alt.datum(0), **({"opacity": 1} | settings))


def label(words: str, *, x: Any = "width", y: Any = 0, color: str = INK, **style: Any) -> alt.Chart:
    """Write words at numbers of pixels, at ``"width"``, the right edge, or at a channel; else at the top right."""
    at = {k: alt.value(v) if isinstance(v, int | float) or v == "width" else v for k, v in (("x", x), ("y", y))}
    corner = {"align": "right", "baseline": "top", "fontSize": 13, "fontWeight": "bold", "dx": -8, "dy": 4}
    look = corner if (x, y) == ("width", 0) else {"fontSize": 12, "align": "right" if x == "width" else "left"}
    return mark("text", [{"words": words, **style.pop("row", {})}], text="words:N", color=color, **(look | at | style))


def rounded(row: DataRow) -> DataRow:
    """Write numbers with five digits, and None for what JSON has no word for."""
    return {key: five_digits(value) if isinstance(value, float) else value for key, value in row.items()}


def number(field: str, title: str = "") -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=title or field, format=".3~g")


def hover_columns(rows: Sequence[DataRow], *tooltip: Any, x: str = "index") -> alt.Chart:
    """An unseen column for each row, up to half way to its neighbours, which says what is there under the mouse."""
    places = [row[x] for row in rows]
    edges = [(one + other) / 2 for one, other in pairwise(places)]
    first, last = (edges[0] - places[0], places[-1] - edges[-1]) if edges else (0.5, 0.5)
    lefts, rights = [places[0] - first, *edges], [*edges, places[-1] + last]
    sides = zip(rows, lefts, rights, strict=True)
    columns = [rounded(row) | {"left": left, "right": right} for row, left, right in sides]
    return mark("rect", columns, opacity=0, clip=True, x="left:Q", x2="right:Q", tooltip=list(tooltip) or ["name:N"])


def hover_table(rows: Sequence[DataRow], value: str, *titles: str, x: str, by: str) -> alt.Chart:
    """The same with one number for each line, which ``by`` names; ``titles``: further fields of a row."""
    lines = list(dict.fromkeys(row[by] for row in rows))[:MAX_TOLD]
    columns: dict[float, DataRow] = {}
    for row in rows:
        blank = {f"line_{place}": "" for place in range(len(lines))}
        column = columns.setdefault(row[x], {key: row[key] for key in (x, *titles)} | blank)
        if row[by] in lines:
            column[f"line_{lines.index(row[by])}"] = f"{row[value]:.4g}"
    told = [alt.Tooltip(f"line_{place}:N", title=line) for place, line in enumerate(lines)]
    return hover_columns([columns[place] for place in sorted(columns)], *(f"{title}:N" for title in titles), *told, x=x)


# ---- axes


def count_axis(field: str, values: Sequence[int], title: str | None) -> alt.X:
    """For counted things: ticks at whole numbers only, a little air at both ends; never empty."""
    low, high = min(values), max(values)
    air = 0.02 * (high - low) or 0.5
    scale = alt.Scale(domain=[low - air, high + air], nice=False, zero=False)
    axis = alt.Axis(tickMinStep=1, tickCount=6, format=",d", grid=False)
    if high - low < 6:
        axis = alt.Axis(values=list(range(low, high + 1)), format="d", grid=False)
    return alt.X(field, title=title, scale=scale, axis=axis)


def order_axis(count: int, title: str | None, *, field: str = "index:Q", **settings: Any) -> alt.X:
    """For things in order of execution or definition, half a place of air at both ends."""
    scale = alt.Scale(domain=[-0.5, count - 0.5], nice=False, zero=False)
    look: Channels = {"tickMinStep": 1, "tickCount": 6, "format": ",d", "grid": False} | settings
    return alt.X(field, title=title, scale=scale, axis=alt.Axis(**look))


def input_to_loss(what: str) -> str:
    return f"\u2190 input\u2003\u2003{what}\u2003\u2003loss \u2192"


def depth_axis(names: Sequence[str], unit: str = "block", *, field: str = "index:Q", labels: bool = True) -> alt.X:
    """Ticks where a stage begins and at the end, and none between: the bands show the rest."""
    last = len(names) - 1
    ticks = [stage.first for stage in stages_of(names)]
    if len(ticks) > 12:
        ticks = list(range(0, last + 1, max(1, last // 8)))
    title = input_to_loss(f"{unit}, in order of execution") if labels else None
    return order_axis(len(names), title, field=field, values=sorted({*ticks, last}), labels=labels)


def stage_bands(
    names: Sequence[str], *, field: str = "index", width: int = DEPTH_WIDTH, named: bool = True
) -> list[Panel]:
    """Every other stage shaded, and the stages' names above where there is room; nothing for a single stage."""
    stages = stages_of(names)
    if len(stages) < 2 and not stages[0].name:
        return []
    shaded = [{"from": stage.first - 0.5, "to": stage.last + 0.5} for stage in stages[1::2]]
    letters = width / len(names) / 6.6  # per block or layer
    words = [
        {field: (stage.first + stage.last) / 2, "stage": stage.name}
        for stage in stages
        if named and stage.name and (stage.last - stage.first + 1) * letters > len(stage.name)
    ]
    bands = mark("rect", shaded, color=BAND, opacity=0.1, x="from:Q", x2="to:Q")
    text = mark("text", words, baseline="bottom", color=QUIET, x=f"{field}:Q", y=alt.value(-4), text="stage:N")
    return [*([bands] if shaded else []), *([text] if words else [])]


def value_axis(field: str, title: str | list[str], low: float, high: float, **settings: Any) -> alt.Y:
    """A linear vertical axis, as wide as all others."""
    axis = alt.Axis(**({"tickCount": 5} | SAME_WIDTH | settings))
    return alt.Y(field, title=title, scale=alt.Scale(domain=[low, high], nice=False), axis=axis)


def log_ticks(low: float, high: float, **settings: Any) -> alt.Axis:
    """At powers of ten, some left out if there are many; on a short axis also at their doubles and fives."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    short = math.log10(high / low) < 2
    stride = 1 if short else math.ceil(len(exponents) / 9)
    ticks = [float(f"{step}e{exponent}") for exponent in exponents[::stride] for step in ((1, 2, 5) if short else (1,))]
    return alt.Axis(values=[tick for tick in ticks if low <= tick <= high], labelExpr=POWERS, **settings)


def log_axis(channel: type[Any], field: str, title: str | list[str], low: float, high: float, **scale: Any) -> Any:
    axis = log_ticks(low, high, **(SAME_WIDTH if channel is alt.Y else {}))
    return channel(field, title=title, scale=alt.Scale(type="log", domain=[low, high], nice=False, **scale), axis=axis)


@dataclass(frozen=True)
class LogAxis:
    """A vertical logarithmic axis on which nothing is clamped: zeros and what is not finite have rails."""

    low: int  # exponents of ten
    high: int
    zeros: bool  # whether a rail for exact zeros lies below
    others: bool  # whether a rail for what is not finite lies above
    height: int

    @classmethod
    def over(cls, values: Iterable[float], *, height: int, more: Iterable[float] = ()) -> LogAxis:
        """Make room for all values, and for those of ``more`` that are measured."""
        values = list(values)
        exponents = [math.log10(value) for value in (*values, *more) if is_measured(value)] or [0.0]
        low = max(math.floor(min(exponents) - 0.03), -300)  # a little air: 0.03 decades
        high = max(math.ceil(max(exponents) + 0.03), low + 1)
        return cls(low, high, zeros=0 in values, others=not all(map(math.isfinite, values)), height=height)

    def y(self, field: str, title: str | list[str]) -> alt.Y:
        ends = {"rangeMin": self.height - (RAIL if self.zeros else 0), "rangeMax": RAIL if self.others else 0}
        axis: alt.Y = log_axis(alt.Y, field, title, 10.0**self.low, 10.0**self.high, **ends)
        return axis

    def line(self, rows: Sequence[DataRow], field: str) -> list[DataRow]:
        """The rows of a line, with gaps where the axis has no place for a value."""
        return [rounded(row) | {field: five_digits(row[field]) if is_measured(row[field]) else None} for row in rows]

    def rails(self, rows: Sequence[DataRow], field: str, **settings: Any) -> list[Panel]:
        """A rail for each kind, and on it a mark for each row that belongs there."""
        low, high = [row for row in rows if row[field] == 0], [row for row in rows if not math.isfinite(row[field])]
        zeros = rail("exactly 0", self.height - RAIL / 2, low, shape="triangle-down", **settings)
        others = rail("not finite", RAIL / 2, high, shape="cross", **settings)
        return [zeros] * self.zeros + [others] * self.others


def rail(
    why: str, y: float, rows: Sequence[DataRow], *, tooltip: Sequence[Any] = ("name:N",), **settings: Any
) -> Panel:
    """A strip with its name where the axis has its labels."""
    line = mark("rule", [{}], color=QUIET, strokeDash=[1, 3], y=alt.value(y))
    name = label(why, x=-6, y=y, color=ALARM, align="right", baseline="middle", fontWeight="bold", fontSize=11)
    look = {"size": 60, "x": "index:Q", "y": alt.value(y), "tooltip": [*tooltip, "why:N"]} | settings
    return alt.layer(
        line, name, *([mark("point", [rounded(row) | {"why": why} for row in rows], **look)] if rows else [])
    )


# ---- colours of lines and parts


def colour(field: str, colours: Mapping[str, str], *, symbol: str = "square", orient: str = "top") -> alt.Color:
    """Colour marks by a field, with a legend."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    look = {"symbolType": symbol} | ({"symbolSize": 500} if symbol == "stroke" else {})
    legend = alt.Legend(orient=orient, **look) if len(colours) > 1 else None  # type: ignore[arg-type]
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)


def series(colours: Mapping[str, str], lines: Sequence[str] = ()) -> Channels:
    """Colour lines by ``label``, and dash them by ``line`` (the first solid and thick) or else by ``label`` too."""
    channels: Channels = {"color": colour("label", colours, symbol="stroke", orient="bottom")}
    names, by = (lines, "line") if lines else (list(colours), "label")
    scale = alt.Scale(domain=list(names), range=[DASHES[place % len(DASHES)] for place in range(len(names))])
    orient: Any = "top" if lines else "bottom"
    legend = alt.Legend(orient=orient, symbolType="stroke", symbolSize=500) if len(names) > 1 else None
    channels["strokeDash"] = alt.StrokeDash(f"{by}:N", title=None, scale=scale, legend=legend)
    thick = alt.when(alt.datum.line == lines[0]) if lines else None
    channels["strokeWidth"] = thick.then(alt.value(2.4)).otherwise(alt.value(1.4)) if thick else alt.value(2.2)
    if len(colours) > 1:
        channels["opacity"] = alt.when(PICKED).then(alt.value(1)).otherwise(alt.value(0.1))
    return channels


def of_dots(channels: Channels, **settings: Any) -> Channels:
    """Those of the lines' channels that dots have too."""
    return {"opacity": 1} | {key: channels[key] for key in ("color", "opacity") if key in channels} | settings


# ---- the whole chart


def panel(layers: Sequence[Panel], *, height: int, width: int = DEPTH_WIDTH, title: Any = "") -> Panel:
    return alt.layer(*layers).properties(width=width, height=height, **({"title": title} if title else {}))


def arrange(panels: Sequence[Panel], *, columns: int = 1, names: Iterable[str] = ()) -> alt.TopLevelMixin:
    """Put panels in rows, in the look of all charts; ``names``: in the legend, if all panels share one."""
    names, letters = list(names), max(map(len, names), default=20)
    first, *others = panels
    first = first.add_params(PICKED) if len(names) > 1 else first
    shown = alt.concat(first, *others, columns=min(columns, len(panels)), spacing=24)
    if names:
        shown = shown.resolve_scale(color="shared", strokeDash="shared")
    words: Channels = {"labelColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    lines: Channels = {"gridColor": GRID, "domainColor": QUIET, "tickColor": QUIET}
    in_a_row = max(1, FULL_WIDTH // (8 * letters + 45))  # 8 pixels for a letter, 45 for the symbol
    chart: alt.TopLevelMixin = shown.configure(
        background=CARD,
        font=FONT,
        axis=alt.AxisConfig(titleColor=INK, labelOverlap=True, **lines, **words),
        legend=alt.LegendConfig(titleColor=QUIET, labelLimit=300, columns=in_a_row, **words),
        title=alt.TitleConfig(color=INK, fontSize=14, anchor="start", offset=16, subtitleColor=QUIET),
        text=alt.MarkConfig(fontSize=11),
        view=alt.ViewConfig(stroke=None),
    )
    return chart
