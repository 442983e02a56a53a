"""Draws a network from its record: a folded spine, read line by line like text, with every shortcut beside its branch.

From bottom to top: words are measured, layers become boxes, a run of equal blocks becomes one card, cards and rows of
layers are set in lines, a stage is a band of lines, and a way leads through all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from xml.sax.saxutils import escape, quoteattr

import vl_convert

from reslab.errors import RequestError
from reslab.records import LAYERS, BlockRecord, LayerRecord, StageRecord, StructureRecord, as_short, write_atomic
from reslab.report.portraits import OKABE_ITO
from reslab.report.theme import CARD, INK, QUIET

Point = tuple[float, float]

SUFFIXES = (".svg", ".png")
FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
"""The one of all charts."""
MAX_WIDTH = 880
"""Pixels: as wide as a README's column, and A4 at 106 dots an inch."""
SMALL, MEDIUM, LARGE = 11, 13, 22
"""Sizes of letters, in pixels."""

BLUE, ORANGE, SKY = OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[5]
LOOKS: dict[str, tuple[str, str]] = {
    # class: its style in a light and in a dark surrounding
    "ground": (f"fill:{CARD}", "fill:#202024"),
    "band": ("fill:#F3F4F6", "fill:#2A2A2F"),
    "hole": (f"fill:{CARD}", "fill:#35353C"),
    "card": (f"fill:{CARD};stroke:#C4C7CC", "fill:#35353C;stroke:#5C5C66"),
    "ink": (f"fill:{INK}", "fill:#ECECF0"),
    "quiet": (f"fill:{QUIET}", "fill:#B8B8C2"),
    "conv": ("fill:#DCE5EF", "fill:#40536A"),
    "linear": ("fill:#DCE5EF", "fill:#40536A"),
    "norm": ("fill:#E4E4E4", "fill:#4C4C55"),
    "activation": ("fill:#CDE9DF", "fill:#1F5A49"),
    "pool": ("fill:#D5EBF8", "fill:#24536E"),
    "attention": ("fill:#F3DAE8", "fill:#6B3A58"),
    "other": ("fill:#F0E6D2", "fill:#5A4E36"),
    "way": (f"fill:none;stroke:{QUIET};stroke-width:1.6", "fill:none;stroke:#B8B8C2;stroke-width:1.6"),
    "tip": (f"fill:{QUIET}", "fill:#B8B8C2"),
    "past": (f"fill:none;stroke:{BLUE};stroke-width:2.6", f"fill:none;stroke:{SKY};stroke-width:2.6"),
    "past-tip": (f"fill:{BLUE}", f"fill:{SKY}"),
    "past-box": (f"fill:{CARD};stroke:{BLUE};stroke-width:1.4", f"fill:#35353C;stroke:{SKY};stroke-width:1.4"),
    "past-ink": (f"fill:{BLUE}", "fill:#8CCBF2"),
    "plain": (f"fill:none;stroke:{ORANGE};stroke-width:2.6", "fill:none;stroke:#E69F00;stroke-width:2.6"),
    "plain-ink": ("fill:#A84300", "fill:#F0B340"),
    "many-past": (f"fill:{BLUE}", f"fill:{BLUE}"),
    "many-plain": ("fill:#A84300", "fill:#A84300"),
    "many-way": (f"fill:{QUIET}", "fill:#6A6A74"),
    "many-ink": ("fill:#FFFFFF", "fill:#FFFFFF"),
}


def save_structure(record: StructureRecord, path: Path | str) -> None:
    """Draws a network into a file, whole or not at all.

    Args:
        record: of the network.
        path: ends in .svg, which follows the reader's light or dark surrounding, or in .png, which is light.

    Raises:
        RequestError: for another ending, or a place that can't be written.
    """
    path = Path(path)
    check_path(path)
    svg = draw_structure(record)
    try:
        write_atomic(path, svg if path.suffix.lower() == ".svg" else vl_convert.svg_to_png(svg, scale=2))
    except OSError as error:
        raise RequestError(f"Can't write {path}: {error.strerror or error}.") from None


def check_path(path: Path) -> None:
    """Refuses a picture that can't be written, before any work is done."""
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"Can't draw into {str(path)!r}: expected a name that ends in {' or '.join(SUFFIXES)}.")
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file, such as {path / 'network.svg'}.")
    if not path.parent.is_dir():
        raise RequestError(f"There is no folder {path.parent} to write {path.name} into.")


# ---- canvas


def with_times(words: str) -> str:
    """The x between numbers as a multiplication sign; everywhere else it is a letter."""
    return re.sub(r"(?<=\d)x(?=\d)| x (?=[\d.])", lambda found: found[0].replace("x", "\N{MULTIPLICATION SIGN}"), words)


def text_width(words: str, *, size: float = SMALL, bold: bool = False) -> float:
    """An upper estimate in pixels, after the widest of the usual fonts (DejaVu Sans)."""
    return size * (1.1 if bold else 1.0) * sum(map(_letter_width, words))


def _letter_width(letter: str) -> float:
    if letter in "ijlI.,:;'|()[]ft/- r\N{MIDDLE DOT}":
        return 0.40
    if letter in "mwMW":
        return 0.97
    return 0.72 if letter.isupper() else 0.62


@dataclass
class Canvas:
    """Collects shapes and writes them as SVG. A ``look`` is a name of ``LOOKS``.

    Args:
        width: of the picture.
        shapes: so far.
    """

    width: float
    shapes: list[str] = field(default_factory=list)

    def add(self, tag: str, look: str, content: str = "", **attributes: float | str) -> None:
        """One shape."""
        written = "".join(
            f" {key.replace('_', '-')}={quoteattr(f'{value:g}' if isinstance(value, float) else str(value))}"
            for key, value in attributes.items()
        )
        self.shapes.append(f'<{tag} class="{look}"{written}' + (f">{content}</{tag}>" if content else "/>"))

    def box(self, look: str, left: float, top: float, width: float, height: float, *, radius: float = 4) -> None:
        """A rectangle with round corners."""
        self.add("rect", look, x=left, y=top, width=width, height=height, rx=radius)

    def text(
        self, look: str, at: Point, words: str, *, size: int = SMALL, bold: bool = False, anchor: str = "start"
    ) -> None:
        """A line of text; ``at`` is on its base line."""
        weight = {"font_weight": "bold"} if bold else {}
        self.add("text", look, escape(words), x=at[0], y=at[1], font_size=size, text_anchor=anchor, **weight)

    def turned_text(self, look: str, centre: Point, words: str) -> None:
        """A line of text from bottom to top, centred."""
        x, y = centre[0] + 0.36 * SMALL, centre[1]
        turn = f"rotate(-90 {x:g} {y:g})"
        self.add("text", look, escape(words), x=x, y=y, font_size=SMALL, text_anchor="middle", transform=turn)

    def line(self, look: str, *points: Point, radius: float = 8) -> None:
        """A line with round corners."""
        steps = [f"M{points[0][0]:g} {points[0][1]:g}"]
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            near, far = _towards(corner, before, radius), _towards(corner, after, radius)
            steps.append(f"L{near[0]:g} {near[1]:g}Q{corner[0]:g} {corner[1]:g} {far[0]:g} {far[1]:g}")
        steps.append(f"L{points[-1][0]:g} {points[-1][1]:g}")
        self.add("path", look, d="".join(steps))

    def tip(self, look: str, at: Point, *, down: bool = False) -> None:
        """The head of an arrow that points right or down."""
        x, y = at
        corners = [(x, y), (x - 4, y - 7), (x + 4, y - 7)] if down else [(x, y), (x - 7, y - 4), (x - 7, y + 4)]
        self.add("polygon", look, points=" ".join(f"{a:g},{b:g}" for a, b in corners))

    def svg(self, height: float, *, title: str, description: str) -> str:
        """The whole picture."""
        light, dark = ("".join(f".{name}{{{style[side]}}}" for name, style in LOOKS.items()) for side in (0, 1))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" height="{height:g}"'
            f' viewBox="0 0 {self.width:g} {height:g}" role="img" font-family={quoteattr(FONT)}>\n'
            f"<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n"
            f"<style>{light}@media (prefers-color-scheme:dark){{{dark}}}</style>\n"
            f'<rect class="ground" width="{self.width:g}" height="{height:g}"/>\n'
            + "\n".join(self.shapes)
            + "\n</svg>\n"
        )


def _towards(start: Point, goal: Point, distance: float) -> Point:
    """The point that lies so far on the way, or half way if that is shorter; lines are upright or level."""
    across, down = goal[0] - start[0], goal[1] - start[1]
    share = min(distance / max(abs(across) + abs(down), 1e-9), 0.5)
    return start[0] + share * across, start[1] + share * down


# ---- layers


GAP = 3
SLAB = 15
"""Width of a norm or activation, whose name is written from bottom to top."""
LANE_BOX = 20
"""Height of a layer on the shortcut."""


def is_slab(layer: LayerRecord) -> bool:
    """Whether a layer is drawn narrow."""
    short = layer.kind == "other" and len(layer.text) <= 12
    return layer.kind in ("norm", "activation", "attention") or short


def box_lines(layer: LayerRecord) -> list[str]:
    """What stands in a box.

    Example:
        >>> box_lines(LayerRecord("conv", "3x3 conv, 64, 32 groups, /2"))
        ['3x3 conv', '64, /2', '32 groups']
    """
    name, *parts = layer.text.split(", ")
    strides = [part for part in parts if part.startswith("/")]
    others = [part for part in parts if part not in strides]
    if not parts:
        return name.split(" ", 1)
    return [name, ", ".join(others[:1] + strides), *others[1:]]


def layer_width(layer: LayerRecord) -> float:
    """Pixels."""
    if is_slab(layer):
        return SLAB
    return max(text_width(line, bold=place == 0) for place, line in enumerate(box_lines(layer))) + 8


def row_width(layers: Sequence[LayerRecord]) -> float:
    """Pixels of layers in a row."""
    return sum(map(layer_width, layers)) + GAP * max(len(layers) - 1, 0)


def row_height(layers: Iterable[LayerRecord]) -> float:
    """Pixels that the words of these layers need."""
    needs = [text_width(layer.text) + 10 if is_slab(layer) else 14 * len(box_lines(layer)) + 10 for layer in layers]
    return max(needs, default=0)


def draw_row(canvas: Canvas, layers: Sequence[LayerRecord], left: float, axis: float, height: float) -> float:
    """Layers in a row, centred on the axis; returns where the row ends."""
    for layer in layers:
        width = layer_width(layer)
        canvas.box(layer.kind, left, axis - height / 2, width, height, radius=3)
        if is_slab(layer):
            canvas.turned_text("ink", (left + width / 2, axis), with_times(layer.text))
        else:
            lines = box_lines(layer)
            for place, line in enumerate(lines):
                base = axis + 4 + 14 * (place - (len(lines) - 1) / 2)
                canvas.text("ink", (left + width / 2, base), with_times(line), anchor="middle", bold=place == 0)
        left += width + GAP
    return left - GAP if layers else left


def shorten(layers: Sequence[LayerRecord], room: float) -> Sequence[LayerRecord]:
    """Leaves out the middle of a row that is wider than the room for it, and says how many."""
    for keep in range((len(layers) - 1) // 2, 0, -1):
        if row_width(layers) <= room:
            break
        more = LayerRecord("other", f"{len(layers) - 2 * keep} more layers")
        shorter = (*layers[:keep], more, *layers[-keep:])
        if row_width(shorter) <= room:
            return shorter
    return layers


# ---- what stands in a line


class Item(Protocol):
    """What a line is made of; the way goes through it at the height of its axis."""

    @property
    def width(self) -> float:
        """Pixels."""
        ...

    @property
    def rise(self) -> float:
        """Pixels above the axis."""
        ...

    @property
    def fall(self) -> float:
        """Pixels below the axis."""
        ...

    def draw(self, canvas: Canvas, left: float, axis: float) -> float:
        """Draws it; returns where the way leaves it."""
        ...


@dataclass(frozen=True)
class Row:
    """Layers in a row, without a frame: a stem or a head.

    Args:
        layers: in executed order.
        height: of the boxes.
    """

    layers: Sequence[LayerRecord]
    height: float

    @property
    def width(self) -> float:
        """Pixels."""
        return row_width(self.layers)

    @property
    def rise(self) -> float:
        """Pixels above the axis."""
        return self.height / 2

    @property
    def fall(self) -> float:
        """Pixels below the axis."""
        return self.height / 2

    def draw(self, canvas: Canvas, left: float, axis: float) -> float:
        """Boxes on the way."""
        canvas.line("way", (left, axis), (left + self.width, axis))
        return draw_row(canvas, self.layers, left, axis, self.height)


PAD = 8
CAPTION = 16
LANE = 32
"""Height that the shortcut takes above the branch."""
FORK = 13
"""From where the way forks to the branch."""
JUNCTION = 10
"""Radius of the sign in which both meet."""
STEP = 4
"""How far a card of a stack looks out behind the one before it."""


@dataclass(frozen=True)
class Card:
    """A run of equal blocks, drawn once: the branch, the shortcut past it, the sign in which they meet.

    Args:
        block: the run.
        height: of the boxes of the branch.
    """

    block: BlockRecord
    height: float

    @property
    def has_shortcut(self) -> bool:
        """Whether something goes past the branch."""
        return self.block.shortcut not in ("none", "inside")

    @property
    def is_plain(self) -> bool:
        """Whether it is a block that has nothing to go past its branch."""
        return self.block.shortcut == "none" and self.block.kind != LAYERS

    @property
    def branch(self) -> Sequence[LayerRecord]:
        """What is drawn of it."""
        if self.block.shortcut == "inside":
            return (LayerRecord("other", f"{len(self.block.branch)} layers, not told apart"),)
        return shorten(self.block.branch, 0.7 * MAX_WIDTH)

    @property
    def caption(self) -> str:
        """Kind and size."""
        size = f"{as_short(self.block.num_parameters)} parameters" + " each" * (self.block.count > 1)
        return f"{self.block.kind} \N{MIDDLE DOT} {size}" if self.block.kind != LAYERS else size

    @property
    def badge(self) -> str:
        """How many blocks it stands for, if several."""
        return f"\N{MULTIPLICATION SIGN}{self.block.count}" if self.block.count > 1 else ""

    @property
    def badge_width(self) -> float:
        """Pixels."""
        return text_width(self.badge, size=MEDIUM, bold=True) + 14 if self.badge else 0

    @property
    def depth(self) -> float:
        """How far the stack looks out on top and to the right."""
        return STEP * min(self.block.count - 1, 2)

    @property
    def note(self) -> str:
        """What the sign alone doesn't say about the junction."""
        return self.block.junction.removeprefix("add").removeprefix(", ")

    @property
    def lane_widths(self) -> list[float]:
        """Pixels of each layer on the shortcut."""
        return [text_width(layer.text) + 12 for layer in self.block.shortcut_layers]

    @property
    def fork_width(self) -> float:
        """Pixels from the fork to the middle of the junction."""
        lane = sum(self.lane_widths) + GAP * len(self.lane_widths) + 30
        return max(FORK + row_width(self.branch) + 8 + JUNCTION, lane if self.lane_widths else 90)

    @property
    def inner_width(self) -> float:
        """Pixels of the front card."""
        entry, after = (row_width(part) + GAP if part else 0 for part in (self.block.entry, self.block.after))
        middle = self.fork_width + JUNCTION + GAP if self.has_shortcut else row_width(self.branch) + GAP
        words = text_width(self.caption) + self.badge_width + 8
        return max(2 * PAD + entry + middle + after, 2 * PAD + words, 2 * PAD + text_width(self.note))

    @property
    def width(self) -> float:
        """Pixels, with the stack behind it."""
        return self.inner_width + self.depth

    @property
    def rise(self) -> float:
        """Pixels above the axis."""
        return self.height / 2 + (LANE if self.has_shortcut or self.is_plain else 8) + CAPTION + PAD + self.depth

    @property
    def fall(self) -> float:
        """Pixels below the axis."""
        return self.height / 2 + PAD + (CAPTION if self.note else 0)

    def draw(self, canvas: Canvas, left: float, axis: float) -> float:
        """The stack, the words, the branch, the shortcut."""
        top, height = axis - self.rise + self.depth, self.rise - self.depth + self.fall
        for behind in range(min(self.block.count, 3) - 1, -1, -1):
            canvas.box("card", left + STEP * behind, top - STEP * behind, self.inner_width, height, radius=7)
        self._draw_words(canvas, left, top)
        if self.has_shortcut:
            self._draw_ways(canvas, left, axis)
        else:
            self._draw_way(canvas, left, axis)
        if self.note:
            canvas.text(
                "past-ink", (left + self.inner_width - PAD, axis + self.fall - 9), with_times(self.note), anchor="end"
            )
        return left + self.inner_width

    @property
    def tone(self) -> str:
        """Residual is blue, plain is orange, as on all charts; neither is grey."""
        if self.has_shortcut:
            return "past"
        return "plain" if self.is_plain else "way"

    def _draw_words(self, canvas: Canvas, left: float, top: float) -> None:
        canvas.text("quiet", (left + PAD, top + PAD + 8), self.caption)
        if self.badge:
            right = left + self.inner_width - 6
            canvas.box(f"many-{self.tone}", right - self.badge_width, top + 5, self.badge_width, 20, radius=10)
            middle = (right - self.badge_width / 2, top + 5 + 14.5)
            canvas.text("many-ink", middle, self.badge, size=MEDIUM, bold=True, anchor="middle")

    def _draw_way(self, canvas: Canvas, left: float, axis: float) -> None:
        """One way through everything; where a shortcut would be, words say that there is none."""
        canvas.line(self.tone, (left, axis), (left + self.inner_width, axis))
        layers = (*self.block.entry, *self.branch, *self.block.after)
        middle = left + self.inner_width / 2
        draw_row(canvas, layers, middle - row_width(layers) / 2, axis, self.height)
        if self.is_plain:
            lane = axis - self.height / 2 - LANE / 2 - 1
            canvas.text("plain-ink", (middle, lane + 4), "no shortcut", anchor="middle")

    def _draw_ways(self, canvas: Canvas, left: float, axis: float) -> None:
        """The fork, both ways, and where they meet."""
        entry = row_width(self.block.entry)
        fork = left + PAD + (entry + GAP if entry else 0)
        meet = fork + self.fork_width
        lane = axis - self.height / 2 - LANE / 2 - 1
        canvas.line("way", (left, axis), (left + self.inner_width, axis))
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


# ---- lines, bands, and the way through them


MARGIN = 12
START = 14
"""From the edge of a band to where the way comes down."""
INDENT = 32
"""From the edge of a band to its first item."""
OUTLET = 15
"""From its last item to its other edge."""
HEADER = 32
BETWEEN = 20
"""Pixels between items and between the lines of a band."""
BAND_GAP = 36


@dataclass
class Way:
    """The way through the network while it is drawn.

    Args:
        canvas: to draw on.
        at: where it ends so far.
        fresh: whether it comes from the picture of an input, and not out of an item.
    """

    canvas: Canvas
    at: Point
    fresh: bool = True

    def go_to(self, left: float, axis: float, *, level: float, label: str = "") -> None:
        """Down to the left edge and into the next line; ``level`` is the height of the label on the way."""
        down = MARGIN + START
        turn = [(self.at[0] + 12, self.at[1]), (self.at[0] + 12, level)] if not self.fresh else []
        self.canvas.line("way", self.at, *turn, (down, level), (down, axis), (left - 3, axis))
        self.canvas.tip("tip", (left, axis))
        if label:
            draw_shape(self.canvas, (max((down + self.at[0]) / 2, down + 24 + shape_width(label) / 2), level), label)

    def go_on(self, left: float, axis: float) -> None:
        """Straight on."""
        self.canvas.line("way", self.at, (left - 3, axis))
        self.canvas.tip("tip", (left, axis))


def shape_width(label: str) -> float:
    """Pixels of a picture of a shape."""
    return text_width(label, bold=True) + 18


def draw_shape(canvas: Canvas, middle: Point, label: str) -> None:
    """Channels and resolution, on the way."""
    width = shape_width(label)
    canvas.box("card", middle[0] - width / 2, middle[1] - 11, width, 22, radius=11)
    canvas.text("ink", (middle[0], middle[1] + 4), with_times(label), bold=True, anchor="middle")


Lines = list[list[Item]]
"""The lines of a band."""


def draw_structure(record: StructureRecord) -> str:
    """The picture as SVG.

    A line is read from left to right; its end leads to the beginning of the next one. Each stage is a band. On the way
    from one band to the next stand channels and resolution.
    """
    height = max(52.0, row_height(layer for stage in record.stages for layer in drawn_layers(stage)))
    bands = [(stage, make_lines(stage, height)) for stage in record.stages]
    canvas = Canvas(picture_width(record, bands))
    canvas.text("ink", (MARGIN, 32), record.name, size=LARGE, bold=True)
    canvas.text("quiet", (MARGIN, 54), summary(record), size=MEDIUM)
    bottom = 66.0
    label = f"input {shape_text(record.in_shape)}"
    start = (MARGIN + START + 24, bottom + BAND_GAP / 2)
    way = Way(canvas, start)
    for stage, lines in bands:
        bottom = draw_band(canvas, way, stage, lines, top=bottom + BAND_GAP)
    draw_shape(canvas, (start[0] + shape_width(label) / 2, start[1]), label)
    draw_end(canvas, way, end_text(record))
    return canvas.svg(bottom + MARGIN, title=record.name, description=summary(record))


def make_lines(stage: StageRecord, height: float) -> Lines:
    """What stands in a stage's band."""
    room = MAX_WIDTH - 2 * MARGIN - INDENT - OUTLET
    if stage.layers:
        return [[Row(shorten(stage.layers, room - 120), height)]]
    return list(set_lines([Card(block, height) for block in stage.blocks], room))


def picture_width(record: StructureRecord, bands: Sequence[tuple[StageRecord, Lines]]) -> float:
    """As narrow as the contents allow, but never too narrow for the words."""
    inner = [line_width(line) for _, lines in bands for line in lines] + [
        line_width(bands[-1][1][-1]) + 26 + shape_width(end_text(record))
    ]
    words = [text_width(stage.name, size=MEDIUM, bold=True) + 10 + text_width(stage_facts(stage)) for stage, _ in bands]
    titles = [text_width(record.name, size=LARGE, bold=True), text_width(summary(record), size=MEDIUM)]
    return 2 * MARGIN + max(INDENT + OUTLET + max(inner + words), *titles)


def draw_end(canvas: Canvas, way: Way, label: str) -> None:
    """What comes out."""
    left = way.at[0] + 26
    way.go_on(left, way.at[1])
    draw_shape(canvas, (left + shape_width(label) / 2, way.at[1]), label)


def end_text(record: StructureRecord) -> str:
    """Of what comes out."""
    return f"output {shape_text(record.stages[-1].out_shape)}"


def drawn_layers(stage: StageRecord) -> list[LayerRecord]:
    """All layers of a stage but those of shortcuts."""
    rows = [stage.layers, *(part for block in stage.blocks for part in (block.entry, block.branch, block.after))]
    return [layer for row in rows for layer in row]


def draw_band(canvas: Canvas, way: Way, stage: StageRecord, lines: Lines, *, top: float) -> float:
    """One stage; returns its lower edge."""
    inner = sum(map(line_height, lines)) + BETWEEN * (len(lines) - 1)
    bottom = top + HEADER + inner + PAD
    canvas.box("band", MARGIN, top, canvas.width - 2 * MARGIN, bottom - top, radius=10)
    canvas.text("ink", (MARGIN + INDENT, top + 20), stage.name, size=MEDIUM, bold=True)
    after_name = MARGIN + INDENT + text_width(stage.name, size=MEDIUM, bold=True) + 10
    canvas.text("quiet", (after_name, top + 20), stage_facts(stage))
    level, label = top - BAND_GAP / 2, "" if way.fresh else shape_text(stage.in_shape)
    line_top = top + HEADER
    for line in lines:
        axis = line_top + max(item.rise for item in line)
        draw_line(canvas, way, line, axis, level=level, label=label)
        line_top += line_height(line) + BETWEEN
        level, label = line_top - BETWEEN / 2, ""
    return bottom


def draw_line(canvas: Canvas, way: Way, line: Sequence[Item], axis: float, *, level: float, label: str) -> None:
    """One line of a band, with the way into and through it."""
    left: float = MARGIN + INDENT
    for place, item in enumerate(line):
        if place:
            way.go_on(left, axis)
        else:
            way.go_to(left, axis, level=level, label=label)
        way.at, way.fresh = (item.draw(canvas, left, axis), axis), False
        left += item.width + BETWEEN


def set_lines(items: Sequence[Item], room: float) -> Iterable[list[Item]]:
    """As many items in a line as fit."""
    line: list[Item] = []
    for item in items:
        if line and line_width([*line, item]) > room:
            yield line
            line = []
        line.append(item)
    yield line


def line_width(line: Sequence[Item]) -> float:
    """Pixels."""
    return sum(item.width for item in line) + BETWEEN * (len(line) - 1)


def line_height(line: Sequence[Item]) -> float:
    """Pixels."""
    return max(item.rise for item in line) + max(item.fall for item in line)


# ---- words


def shape_text(shape: Sequence[int]) -> str:
    """Channels and resolution.

    Example:
        >>> shape_text((64, 56, 56))
        '64 x 56 x 56'
    """
    return " x ".join(map(str, shape))


def summary(record: StructureRecord) -> str:
    """The network in a line."""
    kinds = {block.shortcut for stage in record.stages for block in stage.blocks if block.kind != LAYERS}
    facts = [
        *(["plain: no shortcuts"] if kinds == {"none"} else []),
        f"{record.depth} layers",
        f"{record.num_parameters:,} parameters",
        f"{as_short(record.macs)} MACs",
    ]
    return " \N{MIDDLE DOT} ".join(facts)


def stage_facts(stage: StageRecord) -> str:
    """A stage in a line."""
    num_blocks = sum(block.count for block in stage.blocks if block.kind != LAYERS)
    facts = [f"{num_blocks} block{'s' * (num_blocks > 1)}"] if num_blocks else []
    facts += [f"{as_short(stage.num_parameters)} parameters", f"{as_short(stage.macs)} MACs"]
    return " \N{MIDDLE DOT} ".join(facts)
