"""A run of equal blocks as one card: the branch, the shortcut past it, the sign in which they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reslab.records import LAYERS, BlockRecord, LayerRecord, as_short
from reslab.report.boxes import GAP, draw_row, row_width, shorten
from reslab.report.canvas import MAX_WIDTH, MEDIUM, Canvas, Point, text_width, with_times
from reslab.report.labels import junction_note

PAD = 8
CAPTION = 16
LANE = 32
"""Height that the shortcut takes above the branch."""
LANE_BOX = 20
"""Height of a layer on the shortcut."""
FORK = 13
"""From where the way forks to the branch."""
JUNCTION = 10
"""Radius of the sign in which both meet."""
STEP = 4
"""How far a card of a stack looks out behind the one before it."""


@dataclass(frozen=True)
class Card:
    """A run of equal blocks, drawn once.

    Args:
        block: the run.
        height: of the boxes of the branch.
    """

    block: BlockRecord
    height: float

    @property
    def inside(self) -> Fork | Straight:
        """What it frames."""
        if self.block.shortcut == "inside":
            whole = LayerRecord("other", f"{len(self.block.branch)} layers, not told apart")
            return Straight(self.block, (whole,), self.height)
        branch = shorten(self.block.branch, 0.7 * MAX_WIDTH)
        return (Straight if self.block.shortcut == "none" else Fork)(self.block, branch, self.height)

    @property
    def title(self) -> str:
        """Kind, and how many blocks it stands for, if several."""
        kind = self.block.kind if self.block.kind != LAYERS else ""
        return " ".join([kind, f"\N{MULTIPLICATION SIGN}{self.block.count}" * (self.block.count > 1)]).strip()

    @property
    def caption(self) -> str:
        """Size."""
        return f"{as_short(self.block.num_parameters)} parameters" + " each" * (self.block.count > 1)

    @property
    def title_width(self) -> float:
        """Pixels, with the air behind it."""
        return text_width(self.title, size=MEDIUM, bold=True) + 10 if self.title else 0

    @property
    def note(self) -> str:
        """What the sign alone doesn't say about the junction."""
        return junction_note(self.block)

    @property
    def depth(self) -> float:
        """How far the stack looks out on top and to the right."""
        return STEP * min(self.block.count - 1, 2)

    @property
    def inner_width(self) -> float:
        """Pixels of the front card."""
        words = self.title_width + text_width(self.caption)
        return 2 * PAD + max(self.inside.width, words, text_width(self.note))

    @property
    def width(self) -> float:
        """Pixels, with the stack behind it."""
        return self.inner_width + self.depth

    @property
    def rise(self) -> float:
        """Pixels above the axis."""
        return self.inside.rise + CAPTION + PAD + self.depth

    @property
    def fall(self) -> float:
        """Pixels below the axis."""
        return self.height / 2 + PAD + (CAPTION if self.note else 0)

    def draw(self, canvas: Canvas, left: float, axis: float) -> float:
        """The stack, the words, the ways; returns where the way leaves it."""
        right, top = left + self.inner_width, axis - self.rise + self.depth
        height = axis + self.fall - top
        for behind in range(min(self.block.count, 3) - 1, -1, -1):
            canvas.box("card", left + STEP * behind, top - STEP * behind, self.inner_width, height, radius=7)
        if self.title:
            canvas.text(f"{self.inside.tone}-ink", (left + PAD, top + PAD + 9), self.title, size=MEDIUM, bold=True)
        canvas.text("quiet", (left + PAD + self.title_width, top + PAD + 9), self.caption)
        self.inside.draw(canvas, left, right, axis)
        if self.note:
            canvas.text("past-ink", (right - PAD, axis + self.fall - 9), with_times(self.note), anchor="end")
        return right


@dataclass(frozen=True)
class Straight:
    """One way through all layers of a block; where a shortcut would be, words say that there is none.

    Args:
        block: whose.
        branch: what is drawn of its branch.
        height: of the boxes.
    """

    block: BlockRecord
    branch: Sequence[LayerRecord]
    height: float

    @property
    def is_plain(self) -> bool:
        """Whether it is of a block that has nothing to go past its branch."""
        return self.block.shortcut == "none" and self.block.kind != LAYERS

    @property
    def tone(self) -> str:
        """Plain is orange, as on all charts; what is neither plain nor residual is grey."""
        return "plain" if self.is_plain else "way"

    @property
    def layers(self) -> Sequence[LayerRecord]:
        """All in a row."""
        return (*self.block.entry, *self.branch, *self.block.after)

    @property
    def width(self) -> float:
        """Pixels."""
        return row_width(self.layers) + GAP

    @property
    def rise(self) -> float:
        """Pixels above the axis."""
        return self.height / 2 + (LANE if self.is_plain else 8)

    def draw(self, canvas: Canvas, left: float, right: float, axis: float) -> None:
        """Across the card, the layers in its middle."""
        middle = (left + right) / 2
        canvas.line(self.tone, (left, axis), (right, axis))
        draw_row(canvas, self.layers, middle - row_width(self.layers) / 2, axis, self.height)
        if self.is_plain:
            lane = axis - self.height / 2 - LANE / 2 - 1
            canvas.text("plain-ink", (middle, lane + 4), "no shortcut", anchor="middle")


@dataclass(frozen=True)
class Fork:
    """Both ways through a block: the branch, and the shortcut above it.

    Args:
        block: whose.
        branch: what is drawn of its branch.
        height: of the boxes of the branch.
    """

    block: BlockRecord
    branch: Sequence[LayerRecord]
    height: float
    tone = "past"  # residual is blue, as on all charts

    @property
    def entry_width(self) -> float:
        """Pixels before the fork."""
        return row_width(self.block.entry) + GAP if self.block.entry else 0

    @property
    def lane_widths(self) -> list[float]:
        """Pixels of each layer on the shortcut."""
        return [text_width(layer.text) + 12 for layer in self.block.shortcut_layers]

    @property
    def span(self) -> float:
        """Pixels from the fork to the middle of the junction."""
        lane = sum(self.lane_widths) + GAP * len(self.lane_widths) + 30
        return max(FORK + row_width(self.branch) + 8 + JUNCTION, lane if self.lane_widths else 90)

    @property
    def width(self) -> float:
        """Pixels."""
        after = row_width(self.block.after) + GAP if self.block.after else 0
        return self.entry_width + self.span + JUNCTION + GAP + after

    @property
    def rise(self) -> float:
        """Pixels above the axis."""
        return self.height / 2 + LANE

    def draw(self, canvas: Canvas, left: float, right: float, axis: float) -> None:
        """The fork, both ways, and where they meet."""
        fork = left + PAD + self.entry_width
        meet = fork + self.span
        lane = axis - self.height / 2 - LANE / 2 - 1
        canvas.line("way", (left, axis), (right, axis))
        draw_row(canvas, self.block.entry, left + PAD, axis, self.height)
        draw_row(canvas, self.branch, fork + FORK, axis, self.height)
        draw_row(canvas, self.block.after, meet + JUNCTION + GAP, axis, self.height)
        canvas.line("past", (fork, axis), (fork, lane), (meet, lane), (meet, axis - JUNCTION - 5))
        canvas.tip("past-tip", (meet, axis - JUNCTION), down=True)
        canvas.add("circle", "past-tip", cx=fork, cy=axis, r=3)
        draw_junction(canvas, (meet, axis))
        self._draw_lane(canvas, (fork + meet) / 2, lane)

    def _draw_lane(self, canvas: Canvas, middle: float, lane: float) -> None:
        """What stands on the shortcut."""
        words = [layer.text for layer in self.block.shortcut_layers]
        if not words:
            width = text_width("identity")
            canvas.box("hole", middle - width / 2, lane - 8, width, 16)
            canvas.text("past-ink", (middle, lane + 4), "identity", anchor="middle")
            return
        left = middle - (sum(self.lane_widths) + GAP * (len(words) - 1)) / 2
        for word, width in zip(words, self.lane_widths, strict=True):
            canvas.box("past-box", left, lane - LANE_BOX / 2, width, LANE_BOX)
            canvas.text("past-ink", (left + width / 2, lane + 4), with_times(word), anchor="middle")
            left += width + GAP


def draw_junction(canvas: Canvas, at: Point) -> None:
    """A plus in a circle."""
    x, y = at
    canvas.add("circle", "past-box", cx=x, cy=y, r=JUNCTION)
    canvas.line("past", (x - 5, y), (x + 5, y))
    canvas.line("past", (x, y - 5), (x, y + 5))
