"""A network as a tree of text: a line for each stage, and below it one for each run of equal blocks."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reslab.records import LAYERS, BlockRecord, LayerRecord, StageRecord, StructureRecord, as_short
from reslab.report.labels import blocks_text, junction_note

Sibling = TypeVar("Sibling", StageRecord, BlockRecord)
Guides = tuple[tuple[str, str], tuple[str, str]]

GUIDES: Guides = (("├─ ", "│  "), ("└─ ", "   "))
"""What stands before a line and below it, for one that others follow and for the last."""
ASCII_GUIDES: Guides = (("|- ", "|  "), ("`- ", "   "))
HARD = "\N{NO-BREAK SPACE}"
"""Stands for a space where a line must not end; never printed."""
LEAST_ROOM = 24
"""Letters for the layers, however narrow the terminal."""


@dataclass(frozen=True)
class TreeLine:
    """One line of the tree; a long ``what`` goes on below.

    Args:
        name: of the stage, or how many blocks, behind its guides.
        below: the guides of the lines on which it goes on.
        what: of what it is made.
        shape: of the result.
        parameters: of all together.
    """

    name: str
    below: str
    what: str
    shape: str
    parameters: str


def format_tree(record: StructureRecord, *, width: int, guides: Guides = GUIDES) -> list[str]:
    """The lines of the tree in columns: name, what, shape, parameters."""
    facts = [f"{record.num_parameters:,} parameters", f"{as_short(record.macs)} MACs", f"{record.depth} layers"]
    title = f"{record.name}  {', '.join(facts)}, input {shape_text(record.in_shape)}"
    lines = list(tree_lines(record, guides))
    name = max(len(line.name) for line in lines)
    shape = max(len(line.shape) for line in lines)
    parameters = max(len(line.parameters) for line in lines)
    room = max(LEAST_ROOM, width - name - shape - parameters - 6)  # 2 between two columns
    formatted = textwrap.wrap(title, width)
    for line in lines:
        first, *others = wrap(line.what, room)
        right = f"{line.shape:>{shape}}  {line.parameters:>{parameters}}"
        formatted.append(f"{line.name:<{name}}  {first:<{room}}  {right}")
        formatted += [f"{line.below:<{name}}  {other}" for other in others]
    return formatted


def wrap(words: str, room: int) -> list[str]:
    """Lines of at most so many letters; at least one."""
    return [part.replace(HARD, " ") for part in textwrap.wrap(words, room, break_on_hyphens=False)] or [""]


def tree_lines(record: StructureRecord, guides: Guides) -> Iterator[TreeLine]:
    """A line for each stage, and below it one for each run of equal blocks if there are several."""
    for stage, (before, below) in guided(record.stages, guides):
        shape, parameters = shape_text(stage.out_shape), f"{stage.num_parameters:,}"
        yield TreeLine(before + stage.name, below, stage_text(stage), shape, parameters)
        for run, (inner, deeper) in guided(stage.blocks if len(stage.blocks) > 1 else (), guides):
            shape, parameters = shape_text(run.out_shape), f"{run.count * run.num_parameters:,}"
            yield TreeLine(f"{below}{inner}x{run.count}", below + deeper, block_text(run), shape, parameters)


def guided(siblings: Sequence[Sibling], guides: Guides) -> Iterator[tuple[Sibling, tuple[str, str]]]:
    """Each with what stands before and below its line."""
    for place, sibling in enumerate(siblings, start=1):
        yield sibling, guides[place == len(siblings)]


def stage_text(stage: StageRecord) -> str:
    """A stage in a line: its layers, its only run of blocks, or how many blocks it has."""
    if stage.layers:
        return row_text(stage.layers)
    return block_text(stage.blocks[0], counted=True) if len(stage.blocks) == 1 else blocks_text(stage)


def shape_text(shape: Sequence[int]) -> str:
    """Channels and resolution in few letters: "64x56x56"."""
    return "x".join(map(str, shape))


def row_text(layers: Iterable[LayerRecord]) -> str:
    """Layers in a row: "3x3 conv, 16; batch norm; ReLU"."""
    return "; ".join(layer.text.replace(" ", HARD) for layer in layers)


def block_text(block: BlockRecord, *, counted: bool = False) -> str:
    """A block in a line, its norms and activations left out: "BasicBlock x9 [3x3 16, 3x3 16] + identity"."""
    if block.kind == LAYERS:
        return row_text(block.branch)
    name = "pre-act " * starts_active(block) + block.kind + f" x{block.count}" * counted
    if block.shortcut == "inside":
        return f"{name}, {len(block.branch)} layers, not told apart"
    note = junction_note(block).replace(" ", HARD)
    return f"{name} [{short_row(block.entry + block.branch)}] {shortcut_text(block)}" + (f" ({note})" if note else "")


def starts_active(block: BlockRecord) -> bool:
    """Whether a residual block begins with a norm or an activation."""
    first = next(iter(block.entry + block.branch), None)
    return bool(block.junction and first and first.kind in ("norm", "activation"))


def shortcut_text(block: BlockRecord) -> str:
    """What goes past the branch."""
    if block.shortcut == "none":
        return f"no{HARD}shortcut"
    return f"+{HARD}{short_row(block.shortcut_layers) or block.shortcut}"


def short_row(layers: Iterable[LayerRecord]) -> str:
    """Layers in few letters; nothing of norms and activations."""
    shown = (layer for layer in layers if layer.kind not in ("norm", "activation"))
    return ", ".join(short_layer(layer).replace(" ", HARD) for layer in shown)


def short_layer(layer: LayerRecord) -> str:
    """A layer in few letters.

    Example:
        >>> short_layer(LayerRecord("conv", "3x3 conv, 64, 32 groups, /2"))
        '3x3 64 g32 /2'
    """
    if layer.kind != "conv":
        return layer.text.replace(", ", " ")
    return re.sub(r"(\d+) groups", r"g\1", layer.text.replace(" conv,", "").replace(", ", " "))
