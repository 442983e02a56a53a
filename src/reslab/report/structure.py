"""Draws a network from its record: a folded spine, read line by line like text, with every shortcut beside its branch.

From bottom to top: words are measured, layers become boxes, a run of equal blocks becomes one card, cards and rows of
layers are set in lines, a stage is a band of lines, and a way leads through all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import vl_convert

from reslab.errors import RequestError
from reslab.records import LayerRecord, StageRecord, StructureRecord, write_atomic
from reslab.report.boxes import Row, row_height, shorten
from reslab.report.canvas import LARGE, MAX_WIDTH, MEDIUM, Canvas, Point, text_width, with_times
from reslab.report.card import Card
from reslab.report.labels import network_facts, shape_text, stage_facts

Item = Row | Card
"""What a line is made of; the way goes through it at the height of its axis."""
Lines = list[list[Item]]
"""The lines of a band."""

SUFFIXES = (".svg", ".png")
MARGIN = 12
PAD = 8
START = 14
"""From the edge of a band to where the way comes down."""
INDENT = 32
"""From the edge of a band to its first item."""
OUTLET = 15
"""From its last item to its other edge."""
TITLE = 66
"""Height of the words above the first band."""
HEADER = 32
"""Height of the words in a band above its lines."""
BETWEEN = 20
"""Pixels between items and between the lines of a band."""
BAND_GAP = 36
END_GAP = 26
"""From the last item to the output."""


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


def draw_structure(record: StructureRecord) -> str:
    """The picture as SVG.

    A line is read from left to right; its end leads to the beginning of the next one. Each stage is a band. On the way
    from one band to the next stand channels and resolution.
    """
    height = max(52.0, row_height(layer for stage in record.stages for layer in drawn_layers(stage)))
    bands = [(stage, make_lines(stage, height)) for stage in record.stages]
    canvas = Canvas(picture_width(record, bands))
    canvas.text("ink", (MARGIN, 32), record.name, size=LARGE, bold=True)
    canvas.text("quiet", (MARGIN, 54), network_facts(record), size=MEDIUM)
    start = (MARGIN + START + 24, TITLE + BAND_GAP / 2)
    way = Way(canvas, start)
    bottom: float = TITLE
    for stage, lines in bands:
        bottom = draw_band(canvas, way, stage, lines, top=bottom + BAND_GAP)
    label = f"input {shape_text(record.in_shape)}"
    draw_shape(canvas, (start[0] + shape_width(label) / 2, start[1]), label)
    draw_end(canvas, way, end_text(record))
    return canvas.svg(bottom + MARGIN, title=record.name, description=network_facts(record))


# ---- what stands in the bands


def drawn_layers(stage: StageRecord) -> list[LayerRecord]:
    """All layers of a stage but those of shortcuts."""
    rows = [stage.layers, *(part for block in stage.blocks for part in (block.entry, block.branch, block.after))]
    return [layer for row in rows for layer in row]


def make_lines(stage: StageRecord, height: float) -> Lines:
    """What stands in a stage's band."""
    room = MAX_WIDTH - 2 * MARGIN - INDENT - OUTLET
    if stage.layers:
        return [[Row(shorten(stage.layers, room - 120), height)]]
    return list(set_lines([Card(block, height) for block in stage.blocks], room))


def set_lines(items: Iterable[Item], room: float) -> Iterable[list[Item]]:
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


def picture_width(record: StructureRecord, bands: Sequence[tuple[StageRecord, Lines]]) -> float:
    """As narrow as the contents allow, but never too narrow for the words."""
    inner = [line_width(line) for _, lines in bands for line in lines]
    inner += [line_width(bands[-1][1][-1]) + END_GAP + shape_width(end_text(record))]
    inner += [name_width(stage) + text_width(stage_facts(stage)) for stage, _ in bands]
    titles = [text_width(record.name, size=LARGE, bold=True), text_width(network_facts(record), size=MEDIUM)]
    return 2 * MARGIN + max(INDENT + OUTLET + max(inner), *titles)


def name_width(stage: StageRecord) -> float:
    """Pixels of a stage's name, and of the air behind it."""
    return text_width(stage.name, size=MEDIUM, bold=True) + 10


def end_text(record: StructureRecord) -> str:
    """Of what comes out."""
    return f"output {shape_text(record.stages[-1].out_shape)}"


# ---- the bands, and the way through them


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


def draw_band(canvas: Canvas, way: Way, stage: StageRecord, lines: Lines, *, top: float) -> float:
    """One stage; returns its lower edge."""
    inner = sum(map(line_height, lines)) + BETWEEN * (len(lines) - 1)
    bottom = top + HEADER + inner + PAD
    canvas.box("band", MARGIN, top, canvas.width - 2 * MARGIN, bottom - top, radius=10)
    canvas.text("ink", (MARGIN + INDENT, top + 20), stage.name, size=MEDIUM, bold=True)
    canvas.text("quiet", (MARGIN + INDENT + name_width(stage), top + 20), stage_facts(stage))
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


def draw_end(canvas: Canvas, way: Way, label: str) -> None:
    """What comes out."""
    left = way.at[0] + END_GAP
    way.go_on(left, way.at[1])
    draw_shape(canvas, (left + shape_width(label) / 2, way.at[1]), label)


def shape_width(label: str) -> float:
    """Pixels of a picture of a shape."""
    return text_width(label, bold=True) + 18


def draw_shape(canvas: Canvas, middle: Point, label: str) -> None:
    """Channels and resolution, on the way."""
    width = shape_width(label)
    canvas.box("card", middle[0] - width / 2, middle[1] - 11, width, 22, radius=11)
    canvas.text("ink", (middle[0], middle[1] + 4), with_times(label), bold=True, anchor="middle")
