"""The split bars: which part of each block's gradient came through the shortcut, and which through the branch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import BlockFlowRecord, DepthRecord, ReadingRecord
from reslab.report.diagnosis.axes import MARGIN, WIDTH, bands, depth_axis, inline, number, pointed_at, rounded
from reslab.report.diagnosis.palette import BRANCH, OTHER, SHORTCUT
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.places import Depth
from reslab.report.theme import ALARM, CARD, INK, Panel, Row, dress

KEY, TITLE = "split", "Shortcut or branch"
HEIGHT = 170
PASS, HALO = "#111111", "#FEFEFE"
"""Of the pass-through line, which lies on bars and looks the same on a dark page."""
PARTS = {"shortcut": SHORTCUT, "branch": BRANCH, "other": OTHER}
MANY = 150
"""Blocks beyond which bars become areas."""
COLUMNS = 360
"""Areas have at most so many columns: the extremes of as many runs of blocks stay."""
FURTHEST = 3.0
"""Shares beyond it are cut off, and the axis says so: parts that nearly cancel can be any multiple of the whole."""
DEAD = 1e-6
NOTES = (
    "Signed shares of the gradient at a block's input: each part projected on the whole, over the whole; they add up to"
    " 1, and below 0 lies a part that points against the whole. Thin line: pass-through, the share of the gradient's"
    " energy that the activation after the addition lets through. Diamond: a projection; circle: another shortcut that"
    " is not the identity. Red triangle: no gradient comes through the branch."
)


def split_bars(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """The last reading's split at each residual addition.

    Args:
        readings: of one network; at least one.
        depth: not drawn here.
    """
    blocks = readings[-1].blocks
    if not blocks:
        return Picture(KEY, TITLE, "No residual addition was seen: there is no shortcut to tell from a branch.", None)
    rows = [split_row(place, block) for place, block in enumerate(blocks)]
    chart = dress(alt.vconcat(_panel(blocks, rows)), legend_columns=4)
    return Picture(KEY, TITLE, split_caption(blocks), chart, rows, notes=NOTES)


def split_row(place: int, block: BlockFlowRecord) -> Row:
    """The numbers behind it."""
    return {
        "index": place,
        "name": block.name,
        "kind": block.kind,
        "shortcut": block.shortcut_share,
        "branch": block.branch_share,
        "other": block.other_share,
        "cosine": block.cosine,
        "pass_through": block.pass_through,
    }


def is_dead(block: BlockFlowRecord) -> bool:
    """Whether no gradient comes through its branch, though some comes through the block."""
    return block.grad_norm > 0 and abs(block.branch_norm) <= DEAD * block.grad_norm


# ---- the panel


def _panel(blocks: Sequence[BlockFlowRecord], rows: list[Row]) -> Panel:
    along = Depth(tuple(blocks), "block")
    columns = widened(rows, len(blocks))
    shares = stacked(columns)
    low, high = _domain(shares)
    cut = " (cut off)" if beyond(rows) else ""
    axis = alt.Axis(minExtent=MARGIN - 18, maxExtent=MARGIN - 18, tickCount=5, format="~g")
    y = alt.Y("low:Q", title=f"share{cut}", scale=alt.Scale(domain=[low, high], nice=False), axis=axis)
    layers = [
        *bands(along, named=False),
        _shares(shares, depth_axis(along), y, are_many=len(blocks) > MANY),
        _zero(),
        *_pass_through(rows),
        *_kinds(rows),
        *_dead(blocks),
        _hover(rows),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def widened(rows: list[Row], count: int) -> list[Row]:
    """Where each bar begins and ends; of many blocks those with the extreme branch shares, each up to the next one."""
    if count <= MANY:
        air = 0.06 if count > 40 else 0.12
        return [row | {"left": row["index"] - 0.5 + air, "right": row["index"] + 0.5 - air} for row in rows]
    kept = extremes(rows, COLUMNS)
    starts = [row["index"] - 0.5 for row in kept]
    starts[0] = -0.5
    return [
        row | {"left": left, "right": right}
        for row, left, right in zip(kept, starts, [*starts[1:], count - 0.5], strict=True)
    ]


def extremes(rows: list[Row], columns: int) -> list[Row]:
    """Of each run of rows the two with the least and the greatest branch share, in their order.

    Example:
        >>> rows = [{"index": i, "branch": b} for i, b in enumerate([0.5, 0.0, 0.5, 0.6])]
        >>> [row["index"] for row in extremes(rows, 2)]
        [1, 3]
    """
    width = max(1, math.ceil(len(rows) / max(1, columns // 2)))
    kept = []
    for left in range(0, len(rows), width):
        run = [row for row in rows[left : left + width] if math.isfinite(row["branch"])] or rows[left : left + 1]
        ends = {id(row): row for row in (min(run, key=_branch), max(run, key=_branch))}
        kept += sorted(ends.values(), key=lambda row: int(row["index"]))
    return kept


def _branch(row: Row) -> float:
    return float(row["branch"])


def stacked(columns: list[Row]) -> list[Row]:
    """One row a part: positive parts are piled up from 0, negative ones hang down from it."""
    piled = []
    for column in columns:
        up, down = 0.0, 0.0
        for part in PARTS:
            share = rounded(column[part]) or 0.0
            low, high = (up, up + share) if share >= 0 else (down + share, down)
            up, down = (high, down) if share >= 0 else (up, low)
            ends = {"left": column["left"], "right": column["right"], "part": part}
            piled.append(ends | {"low": round(low, 5), "high": round(high, 5)})
    return piled


def _domain(shares: list[Row]) -> tuple[float, float]:
    low = min([0.0, *(row["low"] for row in shares)])
    high = max([1.0, *(row["high"] for row in shares)])
    return max(low, 1 - FURTHEST), min(high, FURTHEST)


def beyond(rows: Sequence[Row]) -> list[Row]:
    """Those whose bars leave the axis."""
    return [row for row in rows if any(math.isfinite(row[part]) and abs(row[part]) > FURTHEST for part in PARTS)]


def _shares(shares: list[Row], x: alt.X, y: alt.Y, *, are_many: bool) -> Any:
    """Bars; of many blocks steps without gaps, one path a part, which no seams run through."""
    scale = alt.Scale(domain=list(PARTS), range=list(PARTS.values()))
    colour = alt.Color("part:N", title=None, scale=scale, legend=alt.Legend(orient="top", symbolType="square"))
    x.shorthand = "left:Q"
    if are_many:
        end = [{**row, "left": row["right"]} for row in shares[-len(PARTS) :]]
        steps = alt.Chart(inline([*shares, *end])).mark_area(interpolate="step-after", clip=True)
        return steps.encode(x=x, y=y, y2="high:Q", color=colour, opacity=alt.value(1))
    bars = alt.Chart(inline([row for row in shares if row["low"] != row["high"]]))
    return bars.mark_rect(clip=True, opacity=1).encode(x=x, x2="right:Q", y=y, y2="high:Q", color=colour)


def _zero() -> Any:
    line = alt.Chart(inline([{"low": 0}])).mark_rule(color=INK, strokeWidth=1)
    return line.encode(y="low:Q")


def _pass_through(rows: list[Row]) -> list[Any]:
    """Only where some activation holds something back."""
    values = [{"left": row["index"], "low": rounded(row["pass_through"])} for row in rows]
    if all(row["low"] is None or row["low"] >= 0.9999 for row in values):
        return []
    lines = alt.Chart(inline(values)).encode(x="left:Q", y="low:Q")
    if len(rows) > MANY:
        return [lines.mark_line(color=PASS, strokeWidth=0.8)]
    return [lines.mark_line(color=HALO, strokeWidth=3.2, opacity=0.75), lines.mark_line(color=PASS, strokeWidth=1.3)]


def _kinds(rows: list[Row]) -> list[Any]:
    """Above the bars, so that they are seen on any."""
    other = [row for row in rows if row["kind"] != "identity"]
    if not other or len(other) > MANY:
        return []
    values = [{"left": row["index"], "shape": "diamond" if row["kind"] == "projection" else "circle"} for row in other]
    shape = alt.Shape("shape:N", scale=None, legend=None)
    points = alt.Chart(inline(values)).mark_point(filled=True, size=70, color=INK, opacity=1)
    return [points.encode(x="left:Q", y=alt.value(-8), shape=shape)]


def _dead(blocks: Sequence[BlockFlowRecord]) -> list[Any]:
    """A mark under each dead branch, as long as they are exceptions."""
    dead = [{"left": place} for place, block in enumerate(blocks) if is_dead(block)]
    if not dead or len(dead) > max(1, len(blocks) // 4):
        return []
    points = alt.Chart(inline(dead)).mark_point(
        shape="triangle-up", filled=True, size=90, color=ALARM, stroke=CARD, opacity=1
    )
    return [points.encode(x="left:Q", y=alt.value(HEIGHT - 6))]


def _hover(rows: list[Row]) -> alt.Chart:
    told = [{key: value if isinstance(value, str) else rounded(value) for key, value in row.items()} for row in rows]
    shares = [number(part, part) for part in PARTS]
    return pointed_at(
        told, "name:N", "kind:N", *shares, number("cosine", "cosine"), number("pass_through", "pass-through")
    )


# ---- in words


def split_caption(blocks: Sequence[BlockFlowRecord]) -> str:
    """Through what the gradient comes."""
    known = [block for block in blocks if math.isfinite(block.branch_share) and block.grad_norm > 0]
    if not known:
        return "No gradient that can be measured has reached a residual addition."
    shares = [statistics.median(getattr(block, f"{part}_share") for block in known) for part in ("shortcut", "branch")]
    lead = [block for block in known if block.shortcut_share >= block.branch_share]
    sentences = [
        f"In the median block {shares[0]:.0%} of the gradient comes through the shortcut and {shares[1]:.0%} through"
        f" the branch; the shortcut carries more in {len(lead)} of {len(known)} blocks."
    ]
    dead = [block.name for block in known if is_dead(block)]
    if dead:
        sentences.append(f"Through {len(dead)} branch{'es' * (len(dead) != 1)} comes nothing ({', '.join(dead[:3])}).")
    projections = sum(block.kind == "projection" for block in blocks)
    if projections:
        sentences.append(f"{projections} shortcut{'s are projections' if projections > 1 else ' is a projection'}.")
    return " ".join(sentences).replace("%", "\u00a0%")
