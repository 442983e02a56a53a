"""The split: which part of each block's gradient came through the shortcut, and which through the branch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import altair as alt

from reslab.records import BlockFlowRecord, ReadingRecord
from reslab.report import _chart as ch
from reslab.report._style import ALARM, BLUE, BRANCH, CARD, INK, OTHER
from reslab.report.figure import DataRow, Figure
from reslab.report.text import five_digits, percent, plural

KEY, TITLE = "split", "Shortcut or branch"
HEIGHT = 170
PARTS = {"shortcut": BLUE, "branch": BRANCH, "other": OTHER}
PASS_THROUGH, HALO = "#111111", "#FEFEFE"
"""Of the pass-through line, which lies on bars and looks the same on a dark page."""
MAX_BARS = 150
"""Blocks beyond which bars have no gaps, and signs of their kind no room."""
MAX_SHARE = 3.0
"""Where the axis is cut off, which it says: parts that nearly cancel can be any multiple of the whole."""
NOTES = (
    "Signed shares of the gradient at a block's input: each part projected on the whole, over the whole; they add up to"
    " 1, and below 0 lies a part that points against the whole. Thin line: pass-through, the fraction of the gradient's"
    " energy that the activation after the addition lets through. Diamond: a projection; circle: another shortcut that"
    " is not the identity. Red triangle: no gradient comes through the branch."
)


def split_figure(reading: ReadingRecord) -> Figure:
    """Draw the split at each residual addition of one reading."""
    blocks = reading.blocks
    if not blocks:
        return Figure(KEY, TITLE, "No residual addition was seen: there is no shortcut to separate from a branch.")
    rows: list[DataRow] = [
        {"index": place, "name": block.name, "kind": block.kind}
        | {part: getattr(block, f"{part}_share") for part in PARTS}
        | {"cosine": block.cosine, "pass_through": block.pass_through}
        for place, block in enumerate(blocks)
    ]
    return Figure(KEY, TITLE, split_caption(blocks), ch.arrange([_panel(blocks, rows)]), rows, NOTES)


def is_dead(block: BlockFlowRecord) -> bool:
    """Whether no gradient comes through its branch, though some comes through the block."""
    return block.grad_norm > 0 and abs(block.branch_norm) <= 1e-6 * block.grad_norm


def _panel(blocks: Sequence[BlockFlowRecord], rows: list[DataRow]) -> ch.Panel:
    names, shares = [block.name for block in blocks], stacked(rows)
    low, high = min([0.0, *(row["low"] for row in shares)]), max([1.0, *(row["high"] for row in shares)])
    is_cut = any(math.isfinite(row[part]) and abs(row[part]) > MAX_SHARE for row in rows for part in PARTS)
    x = ch.depth_axis(names, field="left:Q")
    title = "share (cut off)" if is_cut else "share"
    y = ch.value_axis("low:Q", title, max(low, 1 - MAX_SHARE), min(high, MAX_SHARE), format="~g")
    shown = [row for row in shares if row["low"] != row["high"]]
    look = {"clip": True, "opacity": 1, "color": ch.colour("part", PARTS)}
    layers = [
        *ch.stage_bands(names, named=False),
        ch.mark("rect", shown, x=x, x2="right:Q", y=y, y2="high:Q", **look),
        ch.mark("rule", [{"low": 0}], color=INK, strokeWidth=1, y="low:Q"),
        *_pass_through(rows),
        *_signs(blocks),
        ch.hover_columns(rows, "kind:N", *map(ch.number, PARTS), ch.number("cosine"), ch.number("pass_through")),
    ]
    return ch.panel(layers, height=HEIGHT)


def stacked(rows: list[DataRow]) -> list[DataRow]:
    """One bar for each part: positive parts are piled up from 0, negative ones hang down from it."""
    air = 0.12 if len(rows) <= 40 else 0.06 if len(rows) <= MAX_BARS else -0.05  # an overlap, against seams
    piled: list[DataRow] = []
    for row in rows:
        up, down = 0.0, 0.0
        for part in PARTS:
            share = five_digits(row[part]) or 0.0
            low, high = (up, up + share) if share >= 0 else (down + share, down)
            up, down = (high, down) if share >= 0 else (up, low)
            bar = {"left": row["index"] - 0.5 + air, "right": row["index"] + 0.5 - air, "part": part}
            piled.append(bar | {"low": round(low, 5), "high": round(high, 5)})
    return piled


def _pass_through(rows: list[DataRow]) -> list[ch.Panel]:
    """Only where some activation holds something back."""
    values = [{"left": row["index"], "low": five_digits(row["pass_through"])} for row in rows]
    if all(row["low"] is None or row["low"] >= 0.9999 for row in values):
        return []
    halo = ch.mark("line", values, color=HALO, strokeWidth=3.2, opacity=0.75, x="left:Q", y="low:Q")
    return [halo, ch.mark("line", values, color=PASS_THROUGH, strokeWidth=1.3, x="left:Q", y="low:Q")]


def _signs(blocks: Sequence[BlockFlowRecord]) -> list[ch.Panel]:
    """What kind of shortcut, above the bars; dead branches below: both as long as they are exceptions."""
    shapes = {"identity": "", "projection": "diamond"}
    kinds = [{"left": place, "shape": shapes.get(block.kind, "circle")} for place, block in enumerate(blocks)]
    kinds = [row for row in kinds if row["shape"]]
    dead = [{"left": place} for place, block in enumerate(blocks) if is_dead(block)]
    drawn: list[ch.Panel] = []
    if 0 < len(kinds) <= MAX_BARS:
        shape = alt.Shape("shape:N", scale=None, legend=None)
        drawn.append(ch.mark("point", kinds, size=70, color=INK, shape=shape, x="left:Q", y=alt.value(-8)))
    if 0 < len(dead) <= max(1, len(blocks) // 4):
        look = {"shape": "triangle-up", "size": 90, "color": ALARM, "stroke": CARD}
        drawn.append(ch.mark("point", dead, **look, x="left:Q", y=alt.value(HEIGHT - 6)))
    return drawn


def split_caption(blocks: Sequence[BlockFlowRecord]) -> str:
    """Say through what the gradient comes."""
    known = [block for block in blocks if math.isfinite(block.branch_share) and block.grad_norm > 0]
    if not known:
        return "No gradient that can be measured has reached a residual addition."
    shares = (statistics.median(getattr(block, f"{part}_share") for block in known) for part in list(PARTS)[:2])
    shortcut, branch = map(percent, shares)
    lead = sum(block.shortcut_share >= block.branch_share for block in known)
    sentences = [
        f"In the median block {shortcut} of the gradient comes through the shortcut and {branch} through the branch;"
        f" the shortcut carries more in {lead} of {plural(len(known), 'block')}."
    ]
    if dead := [block.name for block in known if is_dead(block)]:
        sentences.append(f"No gradient comes through {plural(len(dead), 'branch')} ({', '.join(dead[:3])}).")
    if projections := sum(block.kind == "projection" for block in blocks):
        sentences.append(f"{projections} shortcut{'s are projections' if projections > 1 else ' is a projection'}.")
    return " ".join(sentences)
