"""Layers as boxes in a row, and how much room they need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reslab.records import LayerRecord
from reslab.report.canvas import Canvas, text_width, with_times

GAP = 3
SLAB = 15
"""Width of a norm or activation, whose name is written from bottom to top."""
LINE = 14
"""From one line of a box's words to the next."""


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
    needs = [text_width(layer.text) + 10 if is_slab(layer) else LINE * len(box_lines(layer)) + 10 for layer in layers]
    return max(needs, default=0)


def draw_row(canvas: Canvas, layers: Iterable[LayerRecord], left: float, axis: float, height: float) -> None:
    """Layers in a row, centred on the axis."""
    for layer in layers:
        draw_layer(canvas, layer, left, axis, height)
        left += layer_width(layer) + GAP


def draw_layer(canvas: Canvas, layer: LayerRecord, left: float, axis: float, height: float) -> None:
    """A box with its words."""
    width = layer_width(layer)
    canvas.box(layer.kind, left, axis - height / 2, width, height, radius=3)
    if is_slab(layer):
        canvas.turned_text("ink", (left + width / 2, axis), with_times(layer.text))
        return
    lines = box_lines(layer)
    for place, line in enumerate(lines):
        base = axis + 4 + LINE * (place - (len(lines) - 1) / 2)
        canvas.text("ink", (left + width / 2, base), with_times(line), anchor="middle", bold=place == 0)


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
        """Boxes on the way; returns where it leaves them."""
        canvas.line("way", (left, axis), (left + self.width, axis))
        draw_row(canvas, self.layers, left, axis, self.height)
        return left + self.width
