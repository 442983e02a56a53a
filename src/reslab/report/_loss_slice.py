"""The loss along a random direction through the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import altair as alt

from reslab.records.depth import DepthRecord, SliceRecord
from reslab.report import _chart as ch
from reslab.report._depth import missing
from reslab.report._style import ALARM, QUIET, name_colours
from reslab.report.figure import DataRow, Figure
from reslab.report.text import TIMES, five_digits, ratio

KEY, TITLE = "surface", "The loss around the weights"
NORMS = {"batch": "batch norm with the batch's statistics", "frozen": "batch norm with stored statistics"}
LOG_RATIO = 20.0
"""Losses that differ by more than this factor have a logarithmic axis."""
READ_TO = 1e4
"""The axis ends at this many times the loss of the networks themselves."""
DISTANCE = 0.5
"""At which captions say how far the loss has risen."""


def surface_figure(depth: DepthRecord | None) -> Figure:
    """Draw the loss along one random direction in the space of the weights.

    Reference:
        Li et al. 2018, arXiv:1712.09913, section 4.
    """
    if depth is None or depth.slice is None:
        return missing(KEY, TITLE, "slice", depth)
    figure = slices_figure({depth.slice.name or "the network": depth.slice})
    if depth.curvature is None or not depth.curvature.has_converged or not figure.is_drawn:
        return figure
    return replace(
        figure, caption=f"{figure.caption} The greatest curvature of the loss is {depth.curvature.largest:.3g}."
    )


def slices_figure(records: dict[str, SliceRecord]) -> Figure:
    """Draw the loss of several networks, by name, over one another; the networks themselves are in the middle.

    Points that are not finite are crosses at the upper edge.
    """
    if not any(math.isfinite(loss) for record in records.values() for loss in record.losses):
        return Figure(KEY, TITLE, "No loss along the direction is finite.")
    rows: list[DataRow] = [
        {"network": name, "norms": record.norms, "seed": record.seed, "position": position, "loss": loss}
        for name, record in records.items()
        for position, loss in zip(record.positions, record.losses, strict=True)
    ]
    norms = " or ".join(dict.fromkeys(NORMS.get(record.norms, record.norms) for record in records.values()))
    seeds = ", ".join(dict.fromkeys(str(record.seed) for record in records.values()))
    notes = (
        "Each filter of a random direction is scaled to the norm of the filter that it moves (Li et al. 2018). At 0 is"
        " the network itself; at 1 it is as far from it as its weights are from 0. Measured with"
        f" {norms}, seed {seeds}."
    )
    caption = " ".join(slice_sentence(name, record) for name, record in records.items())
    return Figure(KEY, TITLE, caption, _chart(records, rows), rows, notes)


def centre_of(record: SliceRecord) -> float:
    return record.losses[len(record.positions) // 2]


def _chart(records: dict[str, SliceRecord], rows: Sequence[DataRow]) -> alt.TopLevelMixin:
    colours, span = name_colours(list(records)), max(max(record.positions) for record in records.values())
    channels, middle = ch.series(colours), {"position": 0.0}
    drawn = [{"label": row["network"], "position": row["position"], "loss": five_digits(row["loss"])} for row in rows]
    scale = alt.Scale(domain=[-span, span], nice=False)
    x = alt.X("position:Q", title="distance from the network", scale=scale, axis=alt.Axis(tickCount=9))
    at = {"x": x, "y": loss_axis(list(records.values())), "clip": True}
    odd = [row for row in drawn if row["loss"] is None]
    layers: list[ch.Panel] = [
        ch.mark("rule", [middle], color=QUIET, strokeDash=[4, 3], x=x),
        ch.label("the network itself", x=x, y=4, row=middle, color=QUIET, baseline="top", dx=6),
        ch.mark("line", drawn, detail="label:N", **at, **channels),
        ch.hover_table(rows, "loss", x="position", by="network"),
    ]
    if odd:
        look = {"shape": "cross", "size": 60, "color": channels["color"]}
        layers.append(ch.mark("point", odd, x=x, y=alt.value(8), **look))
        layers.append(
            ch.label("not finite", x=-8, y=8, color=ALARM, align="right", baseline="middle", fontWeight="bold")
        )
    return ch.arrange([ch.panel(layers, height=270)], names=colours)


def loss_axis(records: Sequence[SliceRecord]) -> alt.Y:
    """Logarithmic where the losses ask for it; what lies far above the networks' own is not shown, which it says."""
    finite = [loss for record in records for loss in record.losses if math.isfinite(loss)]
    low, high = min(finite), max(finite)
    centres = [loss for record in records if math.isfinite(loss := centre_of(record))]
    top = READ_TO * max(centres) if centres and max(centres) > 0 else high
    title = f"loss, above {ratio(top)} not shown" if high > top else "loss"
    high = min(high, top)
    if low > 0 and high > LOG_RATIO * low:
        low, high = low / 1.2, high * 1.2
        axis: alt.Y = ch.log_axis(alt.Y, "loss:Q", title, low, high)
        return axis
    air = 0.06 * (high - low) or 0.5
    return ch.value_axis("loss:Q", title, low - air, high + air)


# ---- in words


def slice_sentence(name: str, record: SliceRecord) -> str:
    """Say by how much the loss rises, how wide the bowl around the network is, and whether a lower place is near."""
    centre, far = centre_of(record), min(DISTANCE, max(record.positions))
    if not math.isfinite(centre):
        return f"{name}: the loss of the network itself is not finite."
    risen = fmean((loss_at(record, -far), loss_at(record, far)))
    end = f"{risen:.3g} (mean of both sides)" if math.isfinite(risen) else "values that are not finite"
    times = f", {ratio(risen / centre)} {TIMES}" if math.isfinite(risen) and centre > 0 else ""
    text = f"{name}: at a distance of {far:.3g} the loss goes from {centre:.3g} to {end}{times}"
    if centre > 0:
        left, right = bowl_of(record)
        is_whole = (left, right) == (record.positions[0], record.positions[-1])
        span = f"stays below twice its value up to {right:.3g}"
        text += f"; it {span if is_whole else f'is below twice its value from {left:.2g} to {right:.2g}'}"
    loss, position = min(pair for pair in zip(record.losses, record.positions, strict=True) if math.isfinite(pair[0]))
    lower = f"; it is lower elsewhere, {loss:.3g} at {position:.2g}" if loss < centre - 0.1 * abs(centre) else ""
    return f"{text}{lower}."


def bowl_of(record: SliceRecord) -> tuple[float, float]:
    """Return between which positions around the middle the loss is below twice that of the network.

    Between two points it is taken for linear; the ends of the slice are the farthest. A point that is not finite is a
    wall.
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
    """Return the loss at a position, linear between two points."""
    pairs = list(zip(record.positions, record.losses, strict=True))
    for (start, before), (end, after) in pairwise(pairs):
        if start <= position <= end:
            share = (position - start) / (end - start)
            return before if share == 0 else after if share == 1 else before + share * (after - before)
    raise AssertionError(f"{position} is not on the slice")
