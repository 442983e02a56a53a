"""The loss along a random direction through the weights: lines, what they say, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import altair as alt

from reslab.errors import RequestError
from reslab.records import SliceRecord
from reslab.report.portraits import OKABE_ITO, RAMPS, are_paired, twin_of
from reslab.report.surface import (
    ASK_LOG,
    AXIS_TITLE,
    NEAR,
    READ_TO,
    TIMES,
    centre_of,
    circumstances,
    drawn,
    names_of,
)
from reslab.report.theme import ALARM, FULL_WIDTH, PANEL_HEIGHT, QUIET, Panel, Row, dress, log_ticks
from reslab.report.words import ratio


def slice_chart(records: Sequence[SliceRecord], *, titles: Sequence[str] | None = None) -> alt.TopLevelMixin:
    """The loss of each network along its direction, over one another; the networks themselves are in the middle.

    Records of the same name, such as several directions, share a colour. Points that are not finite are crosses at the
    upper edge.

    Args:
        records: at least one.
        titles: names in the legend, in place of the records'.

    Raises:
        RequestError: if there is no record, or nothing finite.
    """
    names = names_of(records, titles)
    finite = [loss for record in records for loss in record.losses if math.isfinite(loss)]
    if not finite:
        raise RequestError(f"No loss of {', '.join(dict.fromkeys(names))} is finite: there is no slice to draw.")
    axis = loss_axis(records, finite)
    rows = [row | {"line": place} for place, row in drawn_rows(records, names)]
    span = max(max(record.positions) for record in records)
    x = alt.X(
        "position:Q", title=AXIS_TITLE, scale=alt.Scale(domain=[-span, span], nice=False), axis=alt.Axis(tickCount=9)
    )
    tooltip = [alt.Tooltip("network:N"), alt.Tooltip("position:Q", format=".3~g"), alt.Tooltip("loss:Q", format=".4~g")]
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x, color=colours_of(names), detail="line:N", tooltip=tooltip)
    lines = base.mark_line(strokeWidth=2.4, clip=True).encode(y=axis)
    crosses = base.transform_filter("!isValid(datum.loss)").mark_point(shape="cross", filled=True, size=60, opacity=1)
    layers = [middle(x), lines]
    if len(finite) < len(rows):
        layers += [crosses.encode(y=alt.value(8)), not_finite()]
    title = alt.TitleParams("Loss along a random direction", subtitle=circumstances(records), subtitleColor=QUIET)
    return dress(alt.vconcat(alt.layer(*layers).properties(width=FULL_WIDTH, height=PANEL_HEIGHT, title=title)))


def drawn_rows(records: Sequence[SliceRecord], names: Sequence[str]) -> list[tuple[int, Row]]:
    """What is drawn, each with the place of its record; five digits, and a gap where the axis has no place."""
    return [
        (place, {"network": name, "position": position, "loss": drawn(loss)})
        for place, (record, name) in enumerate(zip(records, names, strict=True))
        for position, loss in zip(record.positions, record.losses, strict=True)
    ]


def loss_axis(records: Sequence[SliceRecord], finite: Sequence[float]) -> alt.Y:
    """Logarithmic where the losses ask for it; what lies far above the networks' own is not shown, which it says."""
    low, high = min(finite), max(finite)
    centres = [loss for record in records if math.isfinite(loss := centre_of(record))]
    top = READ_TO * max(centres) if centres and max(centres) > 0 else high
    cut = f", above {ratio(top)} not shown" if high > top else ""
    high = min(high, top)
    title = f"loss{cut}"
    if low > 0 and high > ASK_LOG * low:
        scale = alt.Scale(type="log", domain=[low / 1.2, high * 1.2], nice=False)
        return alt.Y("loss:Q", title=title, scale=scale, axis=log_ticks(low / 1.2, high * 1.2))
    air = 0.06 * (high - low) or 0.5
    return alt.Y("loss:Q", title=title, scale=alt.Scale(domain=[low - air, high + air], zero=False, nice=False))


def colours_of(names: Sequence[str]) -> alt.Color:
    """Plain networks warm and residual ones cool where both are there, else one after another."""
    shown = list(dict.fromkeys(names))
    twins = [twin_of(name) for name in shown]
    families = [twin.family for twin in twins if twin]
    if are_paired(twins) and sorted(families) == ["plain", "residual"] and len(shown) == 2:
        range_ = [RAMPS[family][1] for family in families]
    else:
        range_ = [OKABE_ITO[place % len(OKABE_ITO)] for place in range(len(shown))]
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=4, columns=6)
    return alt.Color("network:N", title=None, scale=alt.Scale(domain=shown, range=range_), legend=legend)


def middle(x: alt.X) -> Panel:
    """A line where the networks themselves are."""
    base = alt.Chart(alt.InlineData(values=[{"position": 0.0, "words": "the network itself"}])).encode(x=x)
    rule = base.mark_rule(color=QUIET, strokeDash=[4, 3])
    words = base.mark_text(align="left", baseline="top", dx=6, fontSize=12, color=QUIET)
    return alt.layer(rule, words.encode(y=alt.value(4), text="words:N"))


def not_finite() -> alt.Chart:
    """The name of the upper edge, where the axis has its labels."""
    base = alt.Chart(alt.InlineData(values=[{}]))
    name = base.mark_text(align="right", baseline="middle", color=ALARM, fontWeight="bold")
    named: alt.Chart = name.encode(x=alt.value(-8), y=alt.value(8), text=alt.value("not finite"))
    return named


def slice_caption(records: Sequence[SliceRecord], *, titles: Sequence[str] | None = None) -> str:
    """By how much the loss rises, and how wide the bowl around each network is."""
    return " ".join(slice_sentence(*pair) for pair in zip(records, names_of(records, titles), strict=True))


def slice_sentence(record: SliceRecord, name: str) -> str:
    """One network's."""
    centre, far = centre_of(record), min(NEAR, max(record.positions))
    if not math.isfinite(centre):
        return f"{name}: the loss of the network itself is not finite."
    risen = fmean((loss_at(record, -far), loss_at(record, far)))
    end = f"{risen:.3g} (mean of both sides)" if math.isfinite(risen) else "values that are not finite"
    times = f", {ratio(risen / centre)} {TIMES}" if math.isfinite(risen) and centre > 0 else ""
    text = f"{name}: at a distance of {far:.3g} the loss goes from {centre:.3g} to {end}{times}"
    return f"{text}{bowl_words(record, centre)}{lower_words(record, centre)}."


def bowl_words(record: SliceRecord, centre: float) -> str:
    """How far it is to twice the loss."""
    if centre <= 0:
        return ""
    left, right = bowl_of(record)
    if (left, right) == (record.positions[0], record.positions[-1]):
        return f"; it stays below twice its value up to {right:.3g}"
    return f"; it is below twice its value from {left:.2g} to {right:.2g}"


def lower_words(record: SliceRecord, centre: float) -> str:
    """Whether the network stands in the lowest place, or there is a clearly lower one."""
    finite = [pair for pair in zip(record.losses, record.positions, strict=True) if math.isfinite(pair[0])]
    loss, position = min(finite)
    return f"; it is lower elsewhere, {loss:.3g} at {position:.2g}" if loss < centre - 0.1 * abs(centre) else ""


def slice_rows(records: Sequence[SliceRecord], *, titles: Sequence[str] | None = None) -> list[Row]:
    """The numbers, one row a point: ``network``, ``norms``, ``seed``, ``position``, ``loss``."""
    return [
        {"network": name, "norms": record.norms, "seed": record.seed, "position": position, "loss": loss}
        for record, name in zip(records, names_of(records, titles), strict=True)
        for position, loss in zip(record.positions, record.losses, strict=True)
    ]


def bowl_of(record: SliceRecord) -> tuple[float, float]:
    """Between which positions around the middle the loss is below twice that of the network.

    Between two points it is taken for linear; the ends of the slice are the farthest. A point that is not finite is a
    wall.

    Example:
        >>> bowl_of(SliceRecord("", (-2.0, -1.0, 0.0, 1.0, 2.0), (9.0, 1.5, 1.0, 3.0, 9.0), "batch", 0))
        (-1.0666666666666667, 0.5)
    """
    half, limit = len(record.positions) // 2, 2 * centre_of(record)
    right = _edge(record.positions[half:], record.losses[half:], limit)
    left = _edge(record.positions[half::-1], record.losses[half::-1], limit)
    return left, right


def _edge(positions: Sequence[float], losses: Sequence[float], limit: float) -> float:
    for place in range(1, len(positions)):
        before, after = losses[place - 1], losses[place]
        if not math.isfinite(after):
            return positions[place - 1]
        if after >= limit:
            share = (limit - before) / (after - before)
            return positions[place - 1] + share * (positions[place] - positions[place - 1])
    return positions[-1]


def loss_at(record: SliceRecord, position: float) -> float:
    """There, linear between two points."""
    pairs = list(zip(record.positions, record.losses, strict=True))
    for (start, before), (end, after) in pairwise(pairs):
        if start <= position <= end:
            share = (position - start) / (end - start)
            return before if share == 0 else after if share == 1 else before + share * (after - before)
    raise AssertionError(f"{position} is not on the slice")
