"""A network from its record: drawn as lines of blocks, read like text, with every shortcut above its branch.

Layers are boxes, a run of equal blocks is one card, and each stage is a band of lines. A path leads from the input
through all of them: from the end of a line to the beginning of the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from reslab.records.structure import LAYERS, BlockRecord, LayerRecord, StageRecord, StructureRecord
from reslab.records.training import as_short
from reslab.report import _svg as svg
from reslab.report._svg import LARGE, MAX_WIDTH, MEDIUM, Shape, beside, text_width, with_times
from reslab.report.figure import Figure
from reslab.report.tree import blocks_text, junction_note

GAP, PAD, MARGIN = 3, 8, 12
"""Pixels between boxes, around what a frame holds, and around the drawing."""
LETTERS, CAPTION = 14, 16
"""Heights of a line of a box's words, and of a card's."""
SLAB = 15
"""Width of a norm or activation, whose name is written from bottom to top."""
LANE, FORK, JUNCTION = 32, 13, 10
"""Height that a shortcut takes above its branch; from where the path forks to the branch; radius of the plus."""
STACK = 4
"""How far a card of a stack looks out behind the one before it."""
TITLE, HEADER = 66, 32
"""Height of the words above the first band, and above the lines of a band."""
INDENT, OUTLET, DESCENT = 44, 27, 26
"""From the edges of the drawing to a line's first item, from its last item, and to where the path comes down."""
BETWEEN, BAND_GAP = 20, 36
"""Between items and lines; between bands, where channels and resolution stand."""

Bands = Sequence[tuple[StageRecord, Sequence[Shape]]]


def structure_figure(record: StructureRecord) -> Figure:
    """Draw a network as SVG; each stage is a band, equal blocks are folded into one card.

    Example:
        >>> from reslab.records.structure import LayerRecord, StageRecord, StructureRecord
        >>> stem = StageRecord("stem", (3, 8, 8), (4, 8, 8), (LayerRecord("conv", "3x3 conv, 4"),), (), 108, 6912)
        >>> structure_figure(StructureRecord("tiny", (3, 8, 8), 1, 108, 6912, (stem,))).caption
        '1 layers \N{MIDDLE DOT} 108 parameters \N{MIDDLE DOT} 6.91 k MACs'
    """
    return Figure("structure", record.name, network_facts(record), svg=draw_structure(record))


def draw_structure(record: StructureRecord) -> str:
    """Set the bands below one another and lead the path through them."""
    layers = (layer for stage in record.stages for layer in drawn_layers(stage))
    height = max([52.0, *map(layer_height, layers)])
    bands = [(stage, list(lines_of(stage, height))) for stage in record.stages]
    output, facts = pill(f"output {shape_text(record.stages[-1].out_shape)}"), network_facts(record)
    width = drawing_width(record, bands, output)
    title = svg.text("ink", MARGIN, 32, record.name, size=LARGE, bold=True)
    frames, parts = [title, svg.text("quiet", MARGIN, 54, facts, size=MEDIUM)], [""]
    x, y, bottom = DESCENT + 24.0, TITLE + BAND_GAP / 2, float(TITLE)  # where the path is, and the last band ends
    for place, (stage, lines) in enumerate(bands):
        level, top = bottom + BAND_GAP / 2, bottom + BAND_GAP
        shape = pill(shape_text(stage.in_shape) if place else f"input {shape_text(record.in_shape)}")
        bottom = top + HEADER
        for number, row in enumerate(lines):
            axis = bottom + row.above
            around = [(x + 12, y), (x + 12, level)] if place or number else []
            parts.append(svg.line("path", (x, y), *around, (DESCENT, level), (DESCENT, axis), (INDENT - 3, axis)))
            if not number:
                parts.append(shape.at(max((DESCENT + x - shape.width) / 2, DESCENT + 24), level))
            parts += [svg.arrow("path-arrow", INDENT, axis), row.at(INDENT, axis)]
            x, y, bottom = INDENT + row.width, axis, axis + row.below + BETWEEN
            level = bottom - BETWEEN / 2
        bottom += PAD - BETWEEN
        frames.append(svg.box("band", MARGIN, top, width - 2 * MARGIN, bottom - top, radius=10))
        frames.append(svg.text("ink", INDENT, top + 20, stage.name, size=MEDIUM, bold=True))
        frames.append(svg.text("quiet", INDENT + name_width(stage), top + 20, stage_facts(stage)))
    parts.append(beside([connection(BETWEEN + 6), output]).at(x, y))
    return svg.document(width, bottom + MARGIN, "".join(frames + parts), title=record.name, description=facts)


def drawing_width(record: StructureRecord, bands: Bands, end: Shape) -> float:
    """As narrow as the contents allow, but never too narrow for the words."""
    rows = [row.width for _, lines in bands for row in lines]
    rows += [bands[-1][1][-1].width + BETWEEN + 6 + end.width]
    rows += [name_width(stage) + text_width(stage_facts(stage)) for stage, _ in bands]
    titles = [text_width(record.name, size=LARGE, bold=True), text_width(network_facts(record), size=MEDIUM)]
    return max(INDENT + OUTLET + max(rows), 2 * MARGIN + max(titles))


def name_width(stage: StageRecord) -> float:
    return text_width(stage.name, size=MEDIUM, bold=True) + 10


def lines_of(stage: StageRecord, height: float) -> Iterator[Shape]:
    """A stem or head is one line; of the cards of a stage, as many stand in a line as fit."""
    room = MAX_WIDTH - INDENT - OUTLET
    if stage.layers:
        row = layer_row(shorten(stage.layers, room - 120), height)
        yield Shape(row.width, row.above, row.below, svg.line("path", (0, 0), (row.width, 0)) + row.svg)
        return
    line: list[Shape] = []
    for block in stage.blocks:
        card = block_card(block, height)
        if line and sum(each.width for each in line) + BETWEEN + card.width > room:
            yield beside(line)
            line = []
        line += [connection(BETWEEN), card] if line else [card]
    yield beside(line)


def connection(width: float) -> Shape:
    return Shape(width, svg=svg.line("path", (0, 0), (width - 3, 0)) + svg.arrow("path-arrow", width, 0))


def pill(label: str) -> Shape:
    """Channels and resolution, on the path."""
    width = text_width(label, bold=True) + 18
    words = svg.text("ink", width / 2, 4, with_times(label), bold=True, anchor="middle")
    return Shape(width, 11, 11, svg.box("card", 0, -11, width, 22, radius=11) + words)


# ---- layers


def drawn_layers(stage: StageRecord) -> Iterator[LayerRecord]:
    """All layers of a stage but those of shortcuts."""
    yield from stage.layers
    for block in stage.blocks:
        yield from chain(block.entry, block.branch, block.after)


def is_slab(layer: LayerRecord) -> bool:
    is_short = layer.kind == "other" and len(layer.text) <= 12
    return layer.kind in ("norm", "activation", "attention") or is_short


def box_lines(layer: LayerRecord) -> list[str]:
    """What stands in a box.

    Example:
        >>> box_lines(LayerRecord("conv", "3x3 conv, 64, 32 groups, /2"))
        ['3x3 conv', '64, /2', '32 groups']
    """
    name, *parts = layer.text.split(", ")
    if not parts:
        return name.split(" ", 1)
    strides = [part for part in parts if part.startswith("/")]
    others = [part for part in parts if part not in strides]
    return [name, ", ".join(others[:1] + strides), *others[1:]]


def layer_width(layer: LayerRecord) -> float:
    widths = (text_width(words, bold=place == 0) for place, words in enumerate(box_lines(layer)))
    return SLAB if is_slab(layer) else max(widths) + 8


def layer_height(layer: LayerRecord) -> float:
    return text_width(layer.text) + 10 if is_slab(layer) else LETTERS * len(box_lines(layer)) + 10


def layer_row(layers: Iterable[LayerRecord], height: float) -> Shape:
    """Layers side by side, as boxes of one height with their words."""
    shapes = []
    for layer in layers:
        width, words = layer_width(layer), box_lines(layer)
        middle = width / 2
        parts = [svg.box(layer.kind, 0, -height / 2, width, height, radius=3)]
        if is_slab(layer):
            parts.append(svg.turned_text("ink", middle, 0, with_times(layer.text)))
        else:
            for place, each in enumerate(words):
                base = 4 + LETTERS * (place - (len(words) - 1) / 2)
                parts.append(svg.text("ink", middle, base, with_times(each), anchor="middle", bold=place == 0))
        shapes.append(Shape(width, height / 2, height / 2, "".join(parts)))
    return beside(shapes, GAP)


def shorten(layers: Sequence[LayerRecord], room: float) -> Sequence[LayerRecord]:
    """Leave out the middle of a row that is wider than the room for it, and say how many."""

    def width(row: Sequence[LayerRecord]) -> float:
        return sum(map(layer_width, row)) + GAP * (len(row) - 1)

    if width(layers) <= room:
        return layers
    for keep in range((len(layers) - 1) // 2, 0, -1):
        shorter = (*layers[:keep], LayerRecord("other", f"{len(layers) - 2 * keep} more layers"), *layers[-keep:])
        if width(shorter) <= room:
            return shorter
    return layers


# ---- blocks


def block_card(block: BlockRecord, height: float) -> Shape:
    """A run of equal blocks, drawn once: in a stack where there are several, with kind, number and size."""
    tone, inside = block_inside(block, height)
    kind, times = block.kind * (block.kind != LAYERS), f"\N{MULTIPLICATION SIGN}{block.count}" * (block.count > 1)
    title, note = f"{kind} {times}".strip(), junction_note(block)
    size = f"{as_short(block.num_parameters)} parameters" + " each" * (block.count > 1)
    size_x = PAD + (text_width(title, size=MEDIUM, bold=True) + 10 if title else 0)
    width = 2 * PAD + max(inside.width, size_x - PAD + text_width(size), text_width(note))
    top, bottom = -inside.above - CAPTION - PAD, height / 2 + PAD + (CAPTION if note else 0)
    behind = STACK * min(block.count - 1, 2)
    is_fork = tone == "shortcut"
    parts = [svg.box("card", out, top - out, width, bottom - top, radius=7) for out in range(behind, -1, -STACK)]
    parts += [svg.text(f"{tone}-ink", PAD, top + PAD + 9, title, size=MEDIUM, bold=True)] if title else []
    parts.append(svg.text("quiet", size_x, top + PAD + 9, size))
    parts.append(svg.line("path" if is_fork else tone, (0, 0), (width + behind, 0)))
    parts.append(inside.at(PAD if is_fork else (width - inside.width) / 2))
    parts += [svg.text("shortcut-ink", width - PAD, bottom - 9, with_times(note), anchor="end")] if note else []
    return Shape(width + behind, behind - top, bottom, "".join(parts))


def block_inside(block: BlockRecord, height: float) -> tuple[str, Shape]:
    """What a card frames, and its colour: blue with a shortcut, orange without, grey where neither can be said."""
    if block.shortcut == "inside":
        return "path", layer_row([LayerRecord("other", f"{len(block.branch)} layers, paths unknown")], height)
    branch = shorten(block.branch, 0.7 * MAX_WIDTH)
    if block.shortcut != "none":
        return "shortcut", fork(block, branch, height)
    row = layer_row([*block.entry, *branch, *block.after], height)
    if block.kind == LAYERS:
        return "path", Shape(row.width + GAP, row.above + 8, row.below, row.svg)
    words = svg.text("plain-ink", row.width / 2, -height / 2 - LANE / 2 + 3, "no shortcut", anchor="middle")
    return "plain", Shape(row.width + GAP, row.above + LANE, row.below, row.svg + words)


def fork(block: BlockRecord, branch: Sequence[LayerRecord], height: float) -> Shape:
    """The branch, the shortcut above it, and the plus in which they meet."""
    entry, middle, after = (layer_row(layers, height) for layers in (block.entry, branch, block.after))
    carried = shortcut_layers(block)
    start = entry.width + (GAP if block.entry else 0)
    room = carried.width + 33 if block.shortcut_layers else 90
    meet = start + max(FORK + middle.width + 8 + JUNCTION, room)
    lane = -height / 2 - LANE / 2 - 1
    parts = [
        entry.at(0),
        middle.at(start + FORK),
        after.at(meet + JUNCTION + GAP),
        svg.line("shortcut", (start, 0), (start, lane), (meet, lane), (meet, -JUNCTION - 5)),
        svg.arrow("shortcut-arrow", meet, -JUNCTION, down=True),
        svg.element("circle", "shortcut-arrow", cx=start, cy=0, r=3),
        plus(meet, 0),
        carried.at((start + meet - carried.width) / 2, lane),
    ]
    width = meet + JUNCTION + GAP + (after.width + GAP if block.after else 0)
    return Shape(width, height / 2 + LANE, height / 2, "".join(parts))


def shortcut_layers(block: BlockRecord) -> Shape:
    """What stands on a shortcut: its layers, or the word that there is none."""
    shapes = []
    for words in [layer.text for layer in block.shortcut_layers] or ["identity"]:
        width = text_width(words) + (12 if block.shortcut_layers else 0)
        frame = (
            svg.box("shortcut-box", 0, -10, width, 20) if block.shortcut_layers else svg.box("gap", 0, -8, width, 16)
        )
        label = svg.text("shortcut-ink", width / 2, 4, with_times(words), anchor="middle")
        shapes.append(Shape(width, 10, 10, frame + label))
    return beside(shapes, GAP)


def plus(x: float, y: float, *, radius: float = JUNCTION) -> str:
    across, down = ((x - radius / 2, y), (x + radius / 2, y)), ((x, y - radius / 2), (x, y + radius / 2))
    circle = svg.element("circle", "shortcut-box", cx=x, cy=y, r=radius)
    return circle + svg.line("shortcut", *across) + svg.line("shortcut", *down)


# ---- in words


def shape_text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def network_facts(record: StructureRecord) -> str:
    kinds = {block.shortcut for stage in record.stages for block in stage.blocks if block.kind != LAYERS}
    facts = [f"{record.depth} layers", f"{record.num_parameters:,} parameters", f"{as_short(record.macs)} MACs"]
    return " \N{MIDDLE DOT} ".join(["plain: no shortcuts", *facts] if kinds == {"none"} else facts)


def stage_facts(stage: StageRecord) -> str:
    facts = [blocks_text(stage), f"{as_short(stage.num_parameters)} parameters", f"{as_short(stage.macs)} MACs"]
    return " \N{MIDDLE DOT} ".join(filter(None, facts))
