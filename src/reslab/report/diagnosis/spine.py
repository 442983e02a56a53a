"""The folded spine: all residual additions of a network in one narrow drawing, runs of equal blocks as one."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.records import BlockFlowRecord, DepthRecord, ReadingRecord
from reslab.report.canvas import BLUE, LOOKS, MAX_WIDTH, MEDIUM, SKY, SMALL, Canvas, with_times
from reslab.report.diagnosis.palette import BRANCH, DARK
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.places import stage_of
from reslab.report.labels import shape_text
from reslab.report.theme import CARD, QUIET, Row

KEY, TITLE = "spine", "Spine"
TOP, STEP, AXIS = 34, 46, 130
"""Pixels above the first run, from run to run, and from the left edge to the spine."""
BUMP = 58
"""How far a branch reaches out."""
THIN, THICK, PER_RATIO = 1.5, 22.0, 9.0
"""Pixels of a branch: at least, at most, and where it carries as much as the shortcut."""
MAX_STRIP = 300
"""Pixels of a run's profile."""
PROFILE = MAX_WIDTH - MAX_STRIP - 12
"""Pixels from the left edge to it."""
ROW, BARS = 22, 560
"""Unfolded: pixels from block to block, and from the left edge to the bars."""
SPINE_LOOKS = {
    **LOOKS,
    "bump": (f"fill:none;stroke:{BRANCH}", f"fill:none;stroke:{DARK[BRANCH]}"),
    "bar": (f"fill:{BRANCH}", f"fill:{DARK[BRANCH]}"),
    "bar-most": (f"fill:{BRANCH};fill-opacity:.45", f"fill:{DARK[BRANCH]};fill-opacity:.45"),
    "base": (f"fill:none;stroke:{QUIET};stroke-width:1", f"fill:none;stroke:{DARK[QUIET]};stroke-width:1"),
    "ring": (
        f"fill:{CARD};stroke:{BLUE};stroke-width:1.6",
        f"fill:{DARK[CARD]};stroke:{SKY};stroke-width:1.6",
    ),
}
NOTES = (
    "From the input, above, to the loss. Straight down: the shortcut; the bump: the branch, as wide as the ratio of the"
    " branch's part of the gradient to the shortcut's; diamond: a projection; circle: another shortcut that is not the"
    " identity. On the right the same ratio of each block of the run, from 0 to its greatest."
)


@dataclass(frozen=True)
class Run:
    """Blocks in a row that are equal but for their weights.

    Args:
        blocks: of one stage, kind and shape.
    """

    blocks: tuple[BlockFlowRecord, ...]

    @property
    def first(self) -> BlockFlowRecord:
        """Of the run."""
        return self.blocks[0]

    @property
    def ratios(self) -> list[float]:
        """Branch over shortcut, of each block; NaN where it can't be said."""
        return [ratio_of(block) for block in self.blocks]

    @property
    def known(self) -> list[float]:
        """Those that can be said."""
        return [ratio for ratio in self.ratios if not math.isnan(ratio)]

    @property
    def middle(self) -> float:
        """Their median; 0 where none can be said."""
        return statistics.median(self.known) if self.known else 0.0

    @property
    def label(self) -> str:
        """Count, kind and shape."""
        count = f"{len(self.blocks):,} \N{MULTIPLICATION SIGN} " if len(self.blocks) > 1 else ""
        return f"{count}{self.first.kind.replace('_', ' ')}, {shape_text(self.first.shape[1:])}"

    @property
    def title(self) -> str:
        """Where it is, and its label."""
        return f"{self.first.name} to {self.blocks[-1].name}: {self.label}"


def ratio_of(block: BlockFlowRecord) -> float:
    """The branch's part of the gradient over the shortcut's; infinite where nothing comes through the shortcut."""
    if not block.shortcut_norm > 0:
        return math.inf if block.branch_norm > 0 else math.nan
    return block.branch_norm / block.shortcut_norm


def runs_of(blocks: Sequence[BlockFlowRecord]) -> list[Run]:
    """Neighbours of one stage, kind and shape."""
    keyed = itertools.groupby(blocks, key=lambda block: (stage_of(block.name), block.kind, block.shape))
    return [Run(tuple(run)) for _, run in keyed]


def spine(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """The last reading's residual additions.

    Args:
        readings: of one network; at least one.
        depth: not drawn here.
    """
    blocks = readings[-1].blocks
    if not blocks:
        return Picture(KEY, TITLE, "No residual addition was seen: the network has no spine.", None)
    runs = runs_of(blocks)
    rows: list[Row] = [
        {"index": place, "name": block.name, "kind": block.kind, "branch_over_shortcut": ratio_of(block)}
        for place, block in enumerate(blocks)
    ]
    caption = spine_caption(blocks, runs)
    parts = [(run.title, draw_unfolded(run)) for run in runs if len(run.blocks) > 1]
    return Picture(KEY, TITLE, caption, None, rows, svg=draw_spine(runs, caption), parts=parts, notes=NOTES)


def draw_spine(runs: Sequence[Run], description: str) -> str:
    """The drawing as SVG, which follows the reader's light or dark surrounding."""
    canvas = Canvas(MAX_WIDTH, looks=SPINE_LOOKS)
    canvas.text("quiet", (AXIS, 18), "input", size=MEDIUM, anchor="middle")
    y: float = TOP
    for place, run in enumerate(runs):
        _bump(canvas, TOP + STEP * place, bump_width(run.middle))
    canvas.line("past", (AXIS, 24), (AXIS, TOP + STEP * len(runs) + 6))
    canvas.text("quiet", (PROFILE, 18), "branch / shortcut, block by block")
    stages = [stage_of(run.first.name) for run in runs]
    for place, run in enumerate(runs):
        if stages[place] and (place == 0 or stages[place] != stages[place - 1]):
            canvas.text("ink", (AXIS - 34, y + 27), stages[place], size=MEDIUM, bold=True, anchor="end")
        draw_run(canvas, run, y)
        y += STEP
    canvas.tip("past-tip", (AXIS, y + 14), down=True)
    canvas.text("quiet", (AXIS, y + 30), "loss", size=MEDIUM, anchor="middle")
    return canvas.svg(y + 42, title="Spine", description=description)


def draw_run(canvas: Canvas, run: Run, top: float) -> None:
    """The sign of the addition, what the blocks are, and a profile of their ratios."""
    canvas.add("circle", "ring", cx=AXIS, cy=top + STEP - 8, r=6.5)
    canvas.line("past", (AXIS - 4, top + STEP - 8), (AXIS + 4, top + STEP - 8))
    canvas.line("past", (AXIS, top + STEP - 12), (AXIS, top + STEP - 4))
    if run.first.kind != "identity":
        _mark(canvas, run.first.kind, AXIS, top + 20)
    text = AXIS + BUMP + 30
    canvas.text("ink", (text, top + 19), with_times(run.label), size=MEDIUM, bold=True)
    canvas.text("quiet", (text, top + 35), _ratio_words(run.known), size=SMALL)
    if len(run.blocks) > 1:
        _profile(canvas, run.ratios, PROFILE, top + 6)


def draw_unfolded(run: Run) -> str:
    """The blocks of a run one by one, as the spine has runs."""
    canvas = Canvas(MAX_WIDTH, looks=SPINE_LOOKS)
    finite = [ratio for ratio in run.ratios if math.isfinite(ratio)]
    high = max(finite, default=0.0) or 1.0
    width = MAX_WIDTH - BARS - 12
    for place, (block, ratio) in enumerate(zip(run.blocks, run.ratios, strict=True)):
        top = ROW * place + 4
        middle, known = top + ROW / 2, 0.0 if math.isnan(ratio) else min(ratio, high)
        low, bottom, right = top + 1, top + ROW - 3, AXIS + BUMP / 2
        path = f"M{AXIS} {low:g}C{right} {low:g} {right} {bottom:g} {AXIS} {bottom:g}"
        canvas.add("path", "bump", d=path, stroke_width=min(bump_width(known), ROW / 3))
        canvas.text("ink", (AXIS + BUMP, middle + 4), block.name, size=MEDIUM)
        canvas.text("quiet", (BARS - 8, middle + 4), _ratio_text(ratio), size=MEDIUM, anchor="end")
        canvas.add("rect", "bar", x=float(BARS), y=top + 4.0, width=width * known / high, height=ROW - 8.0)
    canvas.line("past", (AXIS, 0), (AXIS, ROW * len(run.blocks) + 8))
    return canvas.svg(ROW * len(run.blocks) + 8, title=run.label, description=_ratio_words(run.known))


def _ratio_text(ratio: float) -> str:
    return "\N{EN DASH}" if math.isnan(ratio) else f"{ratio:.2g}".replace("inf", "\N{INFINITY}")


def bump_width(ratio: float) -> float:
    """Pixels of a branch's line.

    Example:
        >>> bump_width(0.0), bump_width(1.0), bump_width(100.0)
        (1.5, 9.0, 22.0)
    """
    return min(max(PER_RATIO * ratio, THIN), THICK)


def _bump(canvas: Canvas, top: float, width: float) -> None:
    low, high, right = top + 4, top + STEP - 8, AXIS + BUMP
    path = f"M{AXIS} {low:g}C{right} {low:g} {right} {high:g} {AXIS + 7} {high:g}"
    canvas.add("path", "bump", d=path, stroke_width=float(width))


def _mark(canvas: Canvas, kind: str, x: float, y: float) -> None:
    if kind == "projection":
        canvas.add("polygon", "past-tip", points=f"{x},{y - 8} {x + 7},{y} {x},{y + 8} {x - 7},{y}")
    else:
        canvas.add("circle", "past-tip", cx=float(x), cy=float(y), r=5.5)


def _ratio_words(known: Sequence[float]) -> str:
    if not known:
        return "no gradient that could be split"
    low, high = min(known), max(known)
    span = f", {low:.2g} to {high:.2g}" if len(known) > 1 else ""
    return f"branch / shortcut {statistics.median(known):.2g}{span}".replace("inf", "\N{INFINITY}")


def _profile(canvas: Canvas, ratios: Sequence[float], left: float, top: float) -> None:
    """A bar a block, or for many the greatest and the least of each pixel."""
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
    high = max(finite, default=0.0) or 1.0
    height, count = STEP - 16, len(ratios)
    step = min(MAX_STRIP / count, 12.0)
    size = max(1, math.ceil(1 / step))
    bars = []
    for start in range(0, count, size):
        run = [min(ratio, high) for ratio in ratios[start : start + size] if not math.isnan(ratio)]
        if run:
            bars.append((start * step, height * max(run) / high, height * min(run) / high))
    wide = max(step * size * (0.8 if step > 3 else 1.0), 0.8)
    most = "".join(f"M{left + x:.4g} {top + height:g}v{-up:.4g}h{wide:.3g}v{up:.4g}z" for x, up, _ in bars)
    least = "".join(f"M{left + x:.4g} {top + height:g}v{-up:.4g}h{wide:.3g}v{up:.4g}z" for x, _, up in bars)
    if size > 1:
        canvas.add("path", "bar-most", d=most)
    canvas.add("path", "bar", d=least if size > 1 else most)
    canvas.line("base", (left, top + height), (left + step * count, top + height))


def spine_caption(blocks: Sequence[BlockFlowRecord], runs: Sequence[Run]) -> str:
    """How the network is made, and where the branches carry most."""
    known = [(ratio_of(block), block.name) for block in blocks if math.isfinite(ratio_of(block))]
    count = f"{len(blocks):,} residual addition{'s' * (len(blocks) != 1)}"
    text = f"{count} in {len(runs)} run{'s' * (len(runs) != 1)} of equal ones."
    if not known:
        return f"{text} None of their gradients could be split."
    ratio, name = max(known)
    middle = statistics.median(found for found, _ in known)
    more = sum(found > 1 for found, _ in known)
    return (
        f"{text} The median branch hands back {middle:.2g} times the shortcut's gradient, most at {name} ({ratio:.2g});"
        f" {more} of {len(known)} hand back more than their shortcut."
    )
