"""Shortcut or branch: which part of each block's gradient came through which, as bars and as the spine of a network."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import altair as alt

from reslab.records import ReadingRecord
from reslab.records.diagnosis import BlockFlowRecord
from reslab.report import _chart as ch
from reslab.report import _svg as svg
from reslab.report._style import ALARM, BLUE, BRANCH, CARD, INK, OTHER
from reslab.report._svg import MAX_WIDTH, MEDIUM
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import stage_of
from reslab.report.structure import plus, shape_text
from reslab.report.text import five_digits, percent, plural

BARS_HEIGHT = 170
PARTS = {"shortcut": BLUE, "branch": BRANCH, "other": OTHER}
PASS_THROUGH, HALO = "#111111", "#FEFEFE"
"""Of the pass-through line, which lies on bars and looks the same on a dark page."""
MAX_BARS = 150
"""Blocks beyond which bars have no gaps, and signs of their kind no room."""
MAX_SHARE = 3.0
"""Where the axis is cut off, which it says: parts that nearly cancel can be any multiple of the whole."""
SPLIT_NOTES = (
    "Signed shares of the gradient at a block's input: each part projected on the whole, over the whole; they add up to"
    " 1, and below 0 lies a part that points against the whole. Thin line: pass-through, the fraction of the gradient's"
    " energy that the activation after the addition lets through. Diamond: a projection; circle: another shortcut that"
    " is not the identity. Red triangle: no gradient comes through the branch."
)


def split_figure(reading: ReadingRecord) -> Figure:
    """Draw the split at each residual addition of one reading."""
    key, title = "split", "Shortcut or branch"
    blocks = reading.blocks
    if not blocks:
        return Figure(key, title, "No residual addition was seen: there is no shortcut to separate from a branch.")
    rows: list[DataRow] = [
        {"index": place, "name": block.name, "kind": block.kind}
        | {part: getattr(block, f"{part}_share") for part in PARTS}
        | {"cosine": block.cosine, "pass_through": block.pass_through}
        for place, block in enumerate(blocks)
    ]
    return Figure(key, title, split_caption(blocks), ch.arrange([_bars_panel(blocks, rows)]), rows, SPLIT_NOTES)


def is_dead(block: BlockFlowRecord) -> bool:
    """Whether no gradient comes through its branch, though some comes through the block."""
    return block.grad_norm > 0 and abs(block.branch_norm) <= 1e-6 * block.grad_norm


def _bars_panel(blocks: Sequence[BlockFlowRecord], rows: list[DataRow]) -> ch.Panel:
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
        *_kind_signs(blocks),
        ch.hover_columns(rows, "kind:N", *map(ch.number, PARTS), ch.number("cosine"), ch.number("pass_through")),
    ]
    return ch.panel(layers, height=BARS_HEIGHT)


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


def _kind_signs(blocks: Sequence[BlockFlowRecord]) -> list[ch.Panel]:
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
        drawn.append(ch.mark("point", dead, **look, x="left:Q", y=alt.value(BARS_HEIGHT - 6)))
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


# ---- the spine: all residual additions in one narrow drawing, runs of equal blocks as one

Blocks = tuple[BlockFlowRecord, ...]

TOP, STEP, AXIS = 34, 46, 130
"""Pixels above the first run, from run to run, and from the left edge to the spine."""
BULGE = 58
"""How far a branch reaches out."""
THIN, THICK, PER_RATIO = 1.5, 22.0, 9.0
"""Pixels of a branch: at least, at most, and where it carries as much as the shortcut."""
PROFILE, MAX_PROFILE = 568, 300
"""Pixels from the left edge to a run's profile, and its width."""
UNFOLDED_ROW, UNFOLDED = 22, 560
"""Unfolded: pixels from block to block, and from the left edge to the bars."""
SPINE_NOTES = (
    "From the input, above, to the loss. Straight down: the shortcut; the curve: the branch, as wide as the ratio of"
    " the branch's part of the gradient to the shortcut's; diamond: a projection; circle: another shortcut that is not"
    " the identity. On the right the same ratio of each block of the run, from 0 to its greatest."
)


def spine_figure(reading: ReadingRecord) -> Figure:
    """Draw the residual additions of one reading; runs of equal ones unfold on the page."""
    blocks = reading.blocks
    if not blocks:
        return Figure("spine", "Spine", "No residual addition was seen: the network has no spine.")
    runs = runs_of(blocks)
    caption = spine_caption(blocks, len(runs))
    rows = [
        {"index": place, "name": block.name, "kind": block.kind, "branch_over_shortcut": ratio_of(block)}
        for place, block in enumerate(blocks)
    ]
    several = [run for run in runs if len(run) > 1]
    parts = [(f"{run[0].name} to {run[-1].name}: {label_of(run)}", draw_unfolded(run)) for run in several]
    return Figure("spine", "Spine", caption, rows=rows, notes=SPINE_NOTES, svg=draw_spine(runs, caption), parts=parts)


def runs_of(blocks: Sequence[BlockFlowRecord]) -> list[Blocks]:
    """Group neighbours of one stage, kind and shape."""
    keyed = itertools.groupby(blocks, key=lambda block: (stage_of(block.name), block.kind, block.shape))
    return [tuple(run) for _, run in keyed]


def ratio_of(block: BlockFlowRecord) -> float:
    """The branch's part of the gradient over the shortcut's; infinite where nothing comes through the shortcut."""
    if not block.shortcut_norm > 0:
        return math.inf if block.branch_norm > 0 else math.nan
    return block.branch_norm / block.shortcut_norm


def branch_width(ratio: float) -> float:
    return min(max(PER_RATIO * ratio, THIN), THICK)


def draw_spine(runs: Sequence[Blocks], description: str) -> str:
    """Draw a curve, a plus, words and a profile for each run, below one another."""
    end, curves, parts, before = TOP + STEP * len(runs), [], [], ""
    for place, run in enumerate(runs):
        top, stage, known = TOP + STEP * place, stage_of(run[0].name), _known_ratios(run)
        low, high, right = top + 4, top + STEP - 8, AXIS + BULGE
        path = f"M{AXIS} {low}C{right} {low} {right} {high} {AXIS + 7} {high}"
        width = branch_width(statistics.median(known) if known else 0.0)
        curves.append(svg.element("path", "branch", d=path, stroke_width=width))
        if stage and stage != before:
            parts.append(svg.text("ink", AXIS - 34, top + 27, stage, size=MEDIUM, bold=True, anchor="end"))
        parts.append(plus(AXIS, high, radius=8))
        if run[0].kind == "projection":
            corners = f"{AXIS},{top + 12} {AXIS + 7},{top + 20} {AXIS},{top + 28} {AXIS - 7},{top + 20}"
            parts.append(svg.element("polygon", "shortcut-arrow", points=corners))
        elif run[0].kind != "identity":
            parts.append(svg.element("circle", "shortcut-arrow", cx=AXIS, cy=top + 20, r=5.5))
        parts.append(svg.text("ink", right + 30, top + 19, svg.with_times(label_of(run)), size=MEDIUM, bold=True))
        parts.append(svg.text("quiet", right + 30, top + 35, _ratio_words(known)))
        parts += [_profile([ratio_of(block) for block in run], top + 6)] if len(run) > 1 else []
        before = stage
    body = [
        svg.text("quiet", AXIS, 18, "input", size=MEDIUM, anchor="middle"),
        svg.text("quiet", PROFILE, 18, "branch / shortcut, block by block"),
        *curves,
        svg.line("shortcut", (AXIS, 24), (AXIS, end + 6)),
        *parts,
        svg.arrow("shortcut-arrow", AXIS, end + 14, down=True),
        svg.text("quiet", AXIS, end + 30, "loss", size=MEDIUM, anchor="middle"),
    ]
    return svg.document(MAX_WIDTH, end + 42, "".join(body), title="Spine", description=description)


def _profile(ratios: Sequence[float], top: float) -> str:
    """A step for each block, as high as its ratio."""
    high = _highest(ratios)
    base, step = top + STEP - 16, min(MAX_PROFILE / len(ratios), 12.0)
    levels = (0.0 if math.isnan(ratio) else min(ratio / high, 1.0) for ratio in ratios)
    path = "".join(f"V{base - (STEP - 16) * level:.4g}h{step:.3g}" for level in levels)
    bars = svg.element("path", "bar", d=f"M{PROFILE} {base:g}{path}V{base:g}z")
    return bars + svg.line("base", (PROFILE, base), (PROFILE + step * len(ratios), base))


def draw_unfolded(run: Blocks) -> str:
    ratios, parts, room = [ratio_of(block) for block in run], [], MAX_WIDTH - UNFOLDED - 12
    for place, (block, ratio) in enumerate(zip(run, ratios, strict=True)):
        level = 0.0 if math.isnan(ratio) else min(ratio / _highest(ratios), 1.0)
        top, right = UNFOLDED_ROW * place + 4, AXIS + BULGE / 2
        path = (
            f"M{AXIS} {top + 1}C{right:g} {top + 1} {right:g} {top + UNFOLDED_ROW - 3} {AXIS} {top + UNFOLDED_ROW - 3}"
        )
        width = min(branch_width(level * _highest(ratios)), UNFOLDED_ROW / 3)
        parts += [
            svg.element("path", "branch", d=path, stroke_width=width),
            svg.text("ink", AXIS + BULGE, top + 15, block.name, size=MEDIUM),
            svg.text("quiet", UNFOLDED - 8, top + 15, _said(ratio), size=MEDIUM, anchor="end"),
            svg.element("rect", "bar", x=UNFOLDED, y=top + 4, width=room * level, height=UNFOLDED_ROW - 8),
        ]
    height = UNFOLDED_ROW * len(run) + 8
    body = "".join([*parts, svg.line("shortcut", (AXIS, 0), (AXIS, height))])
    return svg.document(MAX_WIDTH, height, body, title=label_of(run), description=_ratio_words(_known_ratios(run)))


def _highest(ratios: Sequence[float]) -> float:
    return max((ratio for ratio in ratios if math.isfinite(ratio)), default=0.0) or 1.0


# ---- in words


def label_of(run: Blocks) -> str:
    """Count, kind and shape."""
    count = f"{len(run):,} \N{MULTIPLICATION SIGN} " if len(run) > 1 else ""
    return f"{count}{run[0].kind.replace('_', ' ')}, {shape_text(run[0].shape[1:])}"


def _known_ratios(run: Blocks) -> list[float]:
    return [ratio for ratio in map(ratio_of, run) if not math.isnan(ratio)]


def _said(ratio: float) -> str:
    return f"{ratio:.2g}".replace("inf", "\N{INFINITY}").replace("nan", "\N{EN DASH}")


def _ratio_words(known: Sequence[float]) -> str:
    if not known:
        return "no gradient that could be split"
    span = f", {_said(min(known))} to {_said(max(known))}" if len(known) > 1 else ""
    return f"branch / shortcut {_said(statistics.median(known))}{span}"


def spine_caption(blocks: Sequence[BlockFlowRecord], num_runs: int) -> str:
    """Say how the network is made, and where the branches carry most."""
    known = [(ratio_of(block), block.name) for block in blocks if math.isfinite(ratio_of(block))]
    count = f"{plural(len(blocks), 'residual addition')} in {plural(num_runs, 'run')} of equal ones."
    if not known:
        return f"{count} None of their gradients could be split."
    (ratio, name), middle = max(known), statistics.median(found for found, _ in known)
    return (
        f"{count} The median branch passes back {middle:.2g} times the shortcut's gradient, most at {name}"
        f" ({ratio:.2g}); {sum(found > 1 for found, _ in known)} of {len(known)} pass back more than their shortcut."
    )
