"""The look that all charts share: inks and fonts, axes, the legend, panels side by side, and PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from reslab.records import write_atomic
from reslab.report.portraits import Portrait

Row = dict[str, Any]
Panel = alt.LayerChart | alt.FacetChart

VEGALITE_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""Which Vega-Lite draws, in PNG files and on the page: the one whose schema altair writes."""

INK, QUIET, ALARM, CARD = "#222222", "#595959", "#B00020", "#FFFFFF"
"""Words, lesser words, what went wrong, and what they stand on; page.html.j2 gives its cards the same."""
SOLID, DASHED = [1, 0], [5, 3]
PANEL_HEIGHT = 270
FULL_WIDTH = 860
"""Pixels of a chart as wide as the page, and of the legend."""
FEW_DOTS = 28
"""Up to so many epochs or blocks, the dot of each reading is large; beyond, large ones would hide the dashes."""
POWERS = (
    "datum.value == 0 || (datum.value >= 0.001 && datum.value < 1e5)"
    " ? format(datum.value, ',~g') : format(datum.value, '.0e')"
)
"""How an axis over many powers of ten writes its numbers, as a Vega expression."""


@dataclass(frozen=True)
class Ink:
    """How lines are told apart, the same on all panels of a figure.

    Args:
        colour: which run or family.
        dash: which of its two lines.
        width: the dashed one is thinner.
        fade: all but the run that was picked in the legend.
        picked: the click on the legend.
        columns: how many names the legend has in a row.
    """

    colour: alt.Color
    dash: alt.StrokeDash
    width: Any
    fade: Any
    picked: alt.Parameter
    columns: int


def ink_of(faces: Sequence[Portrait], *, solid: str, dashed: str) -> Ink:
    """Colours by ``label``; ``solid`` and ``dashed`` are the two values of ``line``."""
    legend = {face.label: face.colour for face in faces}
    picked = alt.selection_point(name="picked", fields=["label"], bind="legend")
    colour = alt.Color(
        "label:N",
        title=None,
        scale=alt.Scale(domain=list(legend), range=list(legend.values())),
        legend=alt.Legend(orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=4),
    )
    dash = alt.StrokeDash(
        "line:N",
        title=None,
        scale=alt.Scale(domain=[solid, dashed], range=[SOLID, DASHED]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolSize=500),
    )
    width = alt.when(alt.datum.line == solid).then(alt.value(2.4)).otherwise(alt.value(1.4))
    fade = alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1))
    columns = max(1, FULL_WIDTH // (8 * max(map(len, legend)) + 45))  # 8 pixels a letter, 45 for the symbol
    return Ink(colour, dash, width, fade, picked, columns)


def count_axis(field: str, values: Sequence[int], *, title: str | None) -> alt.X:
    """For counted things: ticks at whole numbers only, a little air at both ends.

    Never empty, so that a single reading has an axis too.
    """
    low, high = min(values), max(values)
    air = 0.02 * (high - low) or 0.5
    scale = alt.Scale(domain=[low - air, high + air], nice=False, zero=False)
    axis = alt.Axis(tickMinStep=1, tickCount=6, format=",d", grid=False)
    if high - low < 6:
        axis = alt.Axis(values=list(range(low, high + 1)), format="d", grid=False)
    return alt.X(field, title=title, scale=scale, axis=axis)


def log_ticks(low: float, high: float) -> alt.Axis:
    """At powers of ten, some left out if there are many; on a short axis also at their doubles and fives."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    short = math.log10(high / low) < 2
    steps = (1, 2, 5) if short else (1,)
    stride = 1 if short else math.ceil(len(exponents) / 9)
    ticks = [float(f"{step}e{exponent}") for exponent in exponents[::stride] for step in steps]
    return alt.Axis(values=[tick for tick in ticks if low <= tick <= high], labelExpr=POWERS)


def side_by_side(panels: list[Panel], ink: Ink, *, columns: int) -> alt.TopLevelMixin:
    """Panels in rows under one legend."""
    first, *others = panels
    row = alt.concat(first.add_params(ink.picked), *others, columns=min(columns, len(panels)), spacing=24)
    return dress(row.resolve_scale(color="shared", strokeDash="shared"), legend_columns=ink.columns)


def dress(chart: alt.ConcatChart | alt.VConcatChart, *, legend_columns: int = 1) -> alt.TopLevelMixin:
    """Fonts and inks; dark on white, also on a dark page, where charts lie on a light card."""
    dressed: alt.TopLevelMixin = chart.configure(
        background=CARD,
        font="system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
        axis=alt.AxisConfig(
            labelColor=INK,
            titleColor=INK,
            gridColor="#E8E8E8",
            domainColor=QUIET,
            tickColor=QUIET,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelOverlap=True,
        ),
        legend=alt.LegendConfig(
            labelColor=INK,
            titleColor=QUIET,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=300,
            columns=legend_columns,
        ),
        title=alt.TitleConfig(color=INK, fontSize=14, anchor="start", offset=16),
        view=alt.ViewConfig(stroke=None),
    )
    return dressed


def save_png(chart: alt.TopLevelMixin, path: Path, *, scale: float = 2.0) -> None:
    """Writes a chart as a picture, offline and whole or not at all.

    Args:
        chart: from this room.
        path: of the file.
        scale: pixels of the file per pixel of the chart.
    """
    write_atomic(path, vl_convert.vegalite_to_png(chart.to_dict(), vl_version=VEGALITE_VERSION, scale=scale))
