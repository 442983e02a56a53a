"""The flow strip: the gradient at each block, from the loss back to the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import DepthRecord, ReadingRecord
from reslab.report.diagnosis.axes import (
    WIDTH,
    bands,
    decades_of,
    depth_axis,
    for_log_axis,
    inline,
    number,
    pointed_at,
    rounded,
)
from reslab.report.diagnosis.palette import LINE, OTHER, TWIN
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.places import FEW, Depth, Slope, depth_of, is_measured, slope_of
from reslab.report.diagnosis.reference import SHARES, reference
from reslab.report.theme import DASHED, FEW_DOTS, INK, QUIET, SOLID, Panel, Row, dress
from reslab.report.words import ratio

KEY, TITLE = "flow", "Gradient flow"
HEIGHT = 290
HERE, CUT = "this network", "the same, shortcuts cut"
NOTES = (
    "Norm of one sample's gradient at each place's input, root mean square over the batch; shaded around it 10 to 90 %"
    " of the samples, where they can be told apart. The axis is in decades and nothing is clamped: exact zeros and"
    " values that are not finite have rails of their own. Grey: where 5 to 95 % of healthy residual networks lie, as"
    " measured of those of the clinic, set to this one's end at the loss."
)


def flow_strip(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """The last reading's gradient along the depth, on a logarithmic axis; the input left, the loss right.

    Args:
        readings: of one network; at least one.
        depth: its twin without shortcuts is drawn beside it.
    """
    along = depth_of(readings[-1])
    if not along.places:
        return Picture(KEY, TITLE, "No gradient along the depth was read: there is neither a block nor a layer.", None)
    rows = flow_rows(along, depth)
    chart = dress(alt.vconcat(flow_panel(along, rows)), legend_columns=2)
    return Picture(KEY, TITLE, flow_caption(along, rows), chart, rows, notes=NOTES)


def flow_rows(along: Depth, depth: DepthRecord | None) -> list[Row]:
    """The numbers behind it."""
    twin = depth.twin.grad_norms if depth and depth.twin and along.unit == "block" else ()
    rows: list[Row] = [
        {"index": index, "name": place.name, "grad_norm": place.grad_norm} for index, place in enumerate(along.places)
    ]
    for row, place in zip(rows, along.places, strict=True):
        low, high = (getattr(place, f"grad_norm_{end}", math.nan) for end in ("low", "high"))
        if math.isfinite(low) and math.isfinite(high):
            row |= {"low": low, "high": high}
    if len(twin) == len(rows):
        rows = [row | {"cut": norm} for row, norm in zip(rows, twin, strict=True)]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key, math.nan) for key in keys} for row in rows]


# ---- the panel


def flow_panel(along: Depth, rows: list[Row], *, title: str | None = None, frame: Any = None) -> Panel:
    """Bands, a line with its range over samples, the twin's line, the fitted slope, and the rails."""
    has_twin, has_range = "cut" in rows[0], "low" in rows[0]
    values = [row[key] for row in rows for key in ("grad_norm", "cut") if key in row]
    ends = [row[key] for row in rows for key in ("low", "high") if has_range and is_measured(row[key])]
    healthy = healthy_rows(along)
    usual = [row[end] for row in healthy for end in ("norm", "to")]
    frame = frame or decades_of([*values, *ends, *usual], height=HEIGHT)
    x, y = depth_axis(along), frame.axis("norm", "gradient norm")
    layers: list[Any] = [*bands(along), *_healthy_band(healthy, x, y)]
    if has_range:
        layers.append(_range_of_samples(rows, x, y))
    layers += [*_lines(rows, x, y, has_twin=has_twin), *_fitted(slope_of(along), y), _direction()]
    layers += [_hover(rows, has_twin=has_twin)]
    layers += frame.rails(rows, {"grad_norm": LINE, **({"cut": TWIN} if has_twin else {})})
    panel = alt.layer(*layers).properties(width=WIDTH, height=frame.height)
    return panel.properties(title=title) if title else panel


def _lines(rows: list[Row], x: alt.X, y: alt.Y, *, has_twin: bool) -> list[Any]:
    drawn = {HERE: "grad_norm", **({CUT: "cut"} if has_twin else {})}
    long = [row for line, key in drawn.items() for row in line_rows(line, [row[key] for row in rows])]
    legend = alt.Legend(orient="top", symbolType="stroke", symbolSize=500, symbolStrokeWidth=3) if has_twin else None
    inks, dashes = dict(zip(drawn, (LINE, TWIN), strict=False)), dict(zip(drawn, (SOLID, DASHED), strict=False))
    colour = alt.Scale(domain=list(inks), range=list(inks.values()))
    dash = alt.Scale(domain=list(dashes), range=list(dashes.values()))
    base = alt.Chart(inline(long)).encode(x=x, y=y)
    lines = base.mark_line(strokeWidth=2).encode(
        color=alt.Color("line:N", title=None, scale=colour, legend=legend),
        strokeDash=alt.StrokeDash("line:N", title=None, scale=dash, legend=legend),
    )
    few = len(rows) <= FEW_DOTS
    dotted = base.transform_filter("isValid(datum.norm)" if few else "datum.alone")
    dots = [
        dotted.transform_filter(alt.datum.line == line).mark_point(
            filled=True, opacity=1, color=ink, shape=shape, size=30 if few else 12
        )
        for (line, ink), shape in zip(inks.items(), ("circle", "square"), strict=False)
    ]
    return [lines, *dots]


def line_rows(line: str, norms: Sequence[float]) -> list[Row]:
    """Points of one line; ``alone``: between two gaps, where no line shows it."""
    known = [False, *map(is_measured, norms), False]
    return [
        {
            "index": index,
            "line": line,
            "norm": rounded(norm) if known[index + 1] else None,
            "alone": known[index + 1] and not known[index] and not known[index + 2],
        }
        for index, norm in enumerate(norms)
    ]


def _range_of_samples(rows: list[Row], x: alt.X, y: alt.Y) -> Any:
    values = [
        for_log_axis({"index": row["index"], "norm": row["low"], "to": row["high"]}, "norm", "to") for row in rows
    ]
    values = [row for row in values if row["norm"] and row["to"]]
    return alt.Chart(inline(values)).mark_area(color=LINE, opacity=0.18).encode(x=x, y=y, y2="to:Q")


def healthy_rows(along: Depth) -> list[Row]:
    """Where healthy networks lie along this depth; none where places are few, or the last one has no norm.

    Among layers the last place is the head, which is like none before it: there the fitted line's end is taken.
    """
    slope = slope_of(along) if along.unit == "layer" else None
    last = 10.0 ** slope.at(slope.last) if slope else along.norms[-1]
    if len(along.places) < FEW or not is_measured(last):
        return []
    known = reference()
    ends = zip(SHARES, known.low, known.high, strict=True)
    rows: list[Row] = [
        {"index": share * (len(along.places) - 1), "norm": last * 10.0**low, "to": last * 10.0**high}
        for share, low, high in ends
    ]
    return [row for row in rows if is_measured(row["norm"]) and is_measured(row["to"])]


def _healthy_band(rows: list[Row], x: alt.X, y: alt.Y) -> list[Any]:
    if not rows:
        return []
    values = [{key: float(f"{value:.5g}") for key, value in row.items()} for row in rows]
    band = alt.Chart(inline(values)).mark_area(color=OTHER, opacity=0.25, clip=True).encode(x=x, y=y, y2="to:Q")
    words = alt.Chart(inline([{**values[0], "words": "healthy networks"}]))
    text = words.mark_text(align="left", baseline="bottom", color=QUIET, fontSize=11, dx=4, dy=-3, clip=True)
    return [band, text.encode(x="index:Q", y=y, text="words:N")]


def _fitted(slope: Slope | None, y: alt.Y) -> list[Any]:
    """The fitted line, and its slope in words."""
    if slope is None:
        return []
    ends = [{"index": place, "norm": 10.0 ** slope.at(place)} for place in (slope.first, slope.last)]
    values = [{**end, "norm": float(f"{end['norm']:.5g}")} for end in ends if is_measured(end["norm"])]
    line = alt.Chart(inline(values)).mark_line(color=INK, strokeDash=[2, 3], strokeWidth=2, clip=True)
    return [line.encode(x="index:Q", y=y), _slope_words(slope)]


def _slope_words(slope: Slope) -> Any:
    words = f"{times(slope.factor)} per {slope.unit}  (R\u00b2 {slope.fit:.2f})"
    text = alt.Chart(inline([{"words": words}]))
    placed = text.mark_text(align="right", baseline="top", color=INK, fontSize=13, fontWeight="bold", dx=-8, dy=8)
    return placed.encode(x=alt.value("width"), y=alt.value(0), text="words:N")


def _direction() -> Any:
    text = alt.Chart(inline([{"words": "\u25c4\u2500\u2500 gradient flows this way"}]))
    placed = text.mark_text(align="right", baseline="bottom", color=QUIET, fontSize=12)
    return placed.encode(x=alt.value("width"), y=alt.value(-20), text="words:N")


def _hover(rows: list[Row], *, has_twin: bool) -> alt.Chart:
    told = [
        {
            "index": row["index"],
            "name": row["name"],
            "norm": _told(row["grad_norm"]),
            **({"cut": _told(row["cut"])} if has_twin else {}),
        }
        for row in rows
    ]
    extra = [alt.Tooltip("cut:N", title="shortcuts cut")] if has_twin else []
    return pointed_at(told, "name:N", number("index", "place"), alt.Tooltip("norm:N", title="gradient norm"), *extra)


def _told(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


# ---- in words


def times(factor: float) -> str:
    """A factor with its sign.

    Example:
        >>> [times(factor)[1:] for factor in (1.184, 0.5, 1.0014)]
        ['1.18', '0.50', '1.0014']
    """
    if 0.01 <= factor < 100:  # many blocks make much of little
        return f"\N{MULTIPLICATION SIGN}{factor:.{4 if 1e-4 < abs(factor - 1) < 0.01 else 2}f}"
    return f"\N{MULTIPLICATION SIGN}{factor:.2g}"


def flow_caption(along: Depth, rows: Sequence[Row]) -> str:
    """What becomes of the gradient on its way to the input."""
    sentences = [_end_to_end(along), _straightness(slope_of(along)), _odd(along)]
    if rows and "cut" in rows[0]:
        sentences.append(_twin_words([row["cut"] for row in rows], along))
    return " ".join(filter(None, sentences))


def _end_to_end(along: Depth) -> str:
    first, last = along.norms[0], along.norms[-1]
    if len(along.places) == 1:
        norm = f"its norm at {along.names[0]} is {_told(first)}"
        return f"There is a single {along.unit} to follow the gradient through: {norm}."
    if not (is_measured(first) and is_measured(last)):
        return (
            f"The gradient can't be followed from the loss to the first {along.unit}: an end of it is 0 or not finite."
        )
    growth = math.log10(first) - math.log10(last)
    places = f"{len(along.places):,} {along.unit}{'s' * (len(along.places) != 1)}"
    if abs(growth) < 0.3:
        return f"From the loss to the input the gradient keeps its size through {places}: {times(first / last)} in all."
    verb, factor = ("grows", first / last) if growth > 0 else ("shrinks", last / first)
    return (
        f"From the loss to the input the gradient {verb} {ratio(factor)}-fold through {places}"
        f" ({abs(growth):.1f} decades)."
    )


def _straightness(slope: Slope | None) -> str:
    if slope is None:
        return ""
    where = "In the half nearer to the loss" if slope.per == 1 else "All the way"
    straight = "a straight line, so the change is exponential" if slope.fit >= 0.95 else "no straight line"
    if abs(slope.slope * slope.per) < 0.02:
        straight = "hardly a slope"
    return f"{where} that is {times(slope.factor)} per {slope.unit}: {straight} (R\u00b2 {slope.fit:.2f})."


def _odd(along: Depth) -> str:
    zeros = [name for name, norm in zip(along.names, along.norms, strict=True) if norm == 0]
    others = [name for name, norm in zip(along.names, along.norms, strict=True) if not math.isfinite(norm)]
    told = [
        f"{len(names)} of {len(along.names)} are {word} ({names[0]} first)."
        for names, word in ((zeros, "exactly 0"), (others, "not finite"))
        if names
    ]
    return " ".join(told)


def _twin_words(cut: Sequence[float], along: Depth) -> str:
    first, last = cut[0], cut[-1]
    if not (is_measured(first) and is_measured(last)):
        return "With its shortcuts cut, no gradient that can be measured arrives at the input."
    return f"With its shortcuts cut, the first {along.unit} gets {ratio(first / last)} times the last one's gradient."
