"""The spine: all residual additions of a network in one narrow drawing, runs of equal blocks as one."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from reslab.records import BlockFlowRecord, ReadingRecord
from reslab.report import _svg as svg
from reslab.report._svg import MAX_WIDTH, MEDIUM
from reslab.report.figure import Figure
from reslab.report.profile import stage_of
from reslab.report.structure import plus, shape_text
from reslab.report.text import plural

Blocks = tuple[BlockFlowRecord, ...]

TOP, STEP, AXIS = 34, 46, 130
"""Pixels above the first run, from run to run, and from the left edge to the spine."""
BULGE = 58
"""How far a branch reaches out."""
THIN, THICK, PER_RATIO = 1.5, 22.0, 9.0
"""Pixels of a branch: at least, at most, and where it carries as much as the shortcut."""
PROFILE, MAX_PROFILE = 568, 300
"""Pixels from the left edge to a run's profile, and its width."""
ROW, BARS = 22, 560
"""Unfolded: pixels from block to block, and from the left edge to the bars."""
NOTES = (
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
    return Figure("spine", "Spine", caption, rows=rows, notes=NOTES, svg=draw_spine(runs, caption), parts=parts)


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
    """Pixels of a branch's line.

    Example:
        >>> branch_width(0.0), branch_width(1.0), branch_width(100.0)
        (1.5, 9.0, 22.0)
    """
    return min(max(PER_RATIO * ratio, THIN), THICK)


def draw_spine(runs: Sequence[Blocks], description: str) -> str:
    """Draw a curve, a plus, words and a profile for each run, below one another."""
    end, curves, parts, before = TOP + STEP * len(runs), [], [], ""
    for place, run in enumerate(runs):
        top, stage, known = TOP + STEP * place, stage_of(run[0].name), _known(run)
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
    """Draw the blocks of a run one by one."""
    ratios, parts, room = [ratio_of(block) for block in run], [], MAX_WIDTH - BARS - 12
    for place, (block, ratio) in enumerate(zip(run, ratios, strict=True)):
        level = 0.0 if math.isnan(ratio) else min(ratio / _highest(ratios), 1.0)
        top, right = ROW * place + 4, AXIS + BULGE / 2
        path = f"M{AXIS} {top + 1}C{right:g} {top + 1} {right:g} {top + ROW - 3} {AXIS} {top + ROW - 3}"
        width = min(branch_width(level * _highest(ratios)), ROW / 3)
        parts += [
            svg.element("path", "branch", d=path, stroke_width=width),
            svg.text("ink", AXIS + BULGE, top + 15, block.name, size=MEDIUM),
            svg.text("quiet", BARS - 8, top + 15, _said(ratio), size=MEDIUM, anchor="end"),
            svg.element("rect", "bar", x=BARS, y=top + 4, width=room * level, height=ROW - 8),
        ]
    height = ROW * len(run) + 8
    body = "".join([*parts, svg.line("shortcut", (AXIS, 0), (AXIS, height))])
    return svg.document(MAX_WIDTH, height, body, title=label_of(run), description=_ratio_words(_known(run)))


def _highest(ratios: Sequence[float]) -> float:
    return max((ratio for ratio in ratios if math.isfinite(ratio)), default=0.0) or 1.0


# ---- in words


def label_of(run: Blocks) -> str:
    """Count, kind and shape."""
    count = f"{len(run):,} \N{MULTIPLICATION SIGN} " if len(run) > 1 else ""
    return f"{count}{run[0].kind.replace('_', ' ')}, {shape_text(run[0].shape[1:])}"


def _known(run: Blocks) -> list[float]:
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
