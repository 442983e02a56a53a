"""A network as a tree of text: a line for each stage, and below it one for each run of equal blocks."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from reslab.records.structure import LAYERS, BlockRecord, LayerRecord, StageRecord, StructureRecord
from reslab.records.training import as_short

Guides = tuple[tuple[str, str], tuple[str, str]]

GUIDES: Guides = (("├─ ", "│  "), ("└─ ", "   "))
"""What stands before a line and below it, for one that others follow and for the last."""
ASCII_GUIDES: Guides = (("|- ", "|  "), ("`- ", "   "))
HARD = "\N{NO-BREAK SPACE}"
"""Stands for a space where a line must not end; never printed."""
MIN_WIDTH = 24
"""Letters for the layers, however narrow the terminal."""


class TreeLine(NamedTuple):
    """One line: a name, the guides below it, what it is made of, the shape of the result, and its parameters."""

    name: str
    below: str
    what: str
    shape: str
    parameters: str


def format_tree(record: StructureRecord, *, width: int, guides: Guides = GUIDES) -> list[str]:
    """Write a network as lines of a tree in columns: name, layers, shape, parameters.

    Args:
        record: of the network.
        width: letters of a line; columns of layers are wrapped to fit.
        guides: what the tree is drawn with; ``ASCII_GUIDES`` where a terminal knows no more.
    """
    facts = [f"{record.num_parameters:,} parameters", f"{as_short(record.macs)} MACs", f"{record.depth} layers"]
    title = f"{record.name}  {', '.join(facts)}, input {_shape(record.in_shape)}"
    lines = list(_tree_lines(record, guides))
    name, shape, parameters = (
        max(len(getattr(each, key)) for each in lines) for key in ("name", "shape", "parameters")
    )
    room = max(MIN_WIDTH, width - name - shape - parameters - 6)  # 2 between two columns
    formatted = textwrap.wrap(title, width)
    for line in lines:
        first, *others = textwrap.wrap(line.what, room, break_on_hyphens=False) or [""]
        right = f"{line.shape:>{shape}}  {line.parameters:>{parameters}}"
        formatted.append(f"{line.name:<{name}}  {first:<{room}}  {right}")
        formatted += [f"{line.below:<{name}}  {other}" for other in others]
    return [line.replace(HARD, " ") for line in formatted]


def _tree_lines(record: StructureRecord, guides: Guides) -> Iterator[TreeLine]:
    for place, stage in enumerate(record.stages, start=1):
        before, below = guides[place == len(record.stages)]
        yield TreeLine(
            before + stage.name, below, _stage_text(stage), _shape(stage.out_shape), f"{stage.num_parameters:,}"
        )
        runs = stage.blocks if len(stage.blocks) > 1 else ()
        for number, run in enumerate(runs, start=1):
            inner, deeper = guides[number == len(runs)]
            parameters = f"{run.count * run.num_parameters:,}"
            name = f"{below}{inner}x{run.count}"
            yield TreeLine(name, below + deeper, _block_text(run), _shape(run.out_shape), parameters)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def blocks_text(stage: StageRecord) -> str:
    """Say how many blocks a stage has; empty if none."""
    count = sum(block.count for block in stage.blocks if block.kind != LAYERS)
    return f"{count} block{'s' * (count > 1)}" if count else ""


def junction_note(block: BlockRecord) -> str:
    """Say how a junction differs from a bare addition; empty if it doesn't."""
    return block.junction.removeprefix("add").removeprefix(", ")


def _stage_text(stage: StageRecord) -> str:
    """Its layers, its only run of blocks, or how many blocks it has."""
    if stage.layers:
        return _row_text(stage.layers)
    return _block_text(stage.blocks[0], counted=True) if len(stage.blocks) == 1 else blocks_text(stage)


def _row_text(layers: Iterable[LayerRecord]) -> str:
    return "; ".join(layer.text.replace(" ", HARD) for layer in layers)


def _block_text(block: BlockRecord, *, counted: bool = False) -> str:
    """A block without its norms and activations: "BasicBlock x9 [3x3 16, 3x3 16] + identity"."""
    if block.kind == LAYERS:
        return _row_text(block.branch)
    first = next(iter(block.entry + block.branch), None)
    is_preact = block.junction and first and first.kind in ("norm", "activation")
    name = ("pre-act " if is_preact else "") + block.kind + f" x{block.count}" * counted
    if block.shortcut == "inside":
        return f"{name}, {len(block.branch)} layers, paths unknown"
    shortcut = f"+{HARD}{_short_row(block.shortcut_layers) or block.shortcut}"
    if block.shortcut == "none":
        shortcut = f"no{HARD}shortcut"
    note = junction_note(block).replace(" ", HARD)
    return f"{name} [{_short_row(block.entry + block.branch)}] {shortcut}" + (f" ({note})" if note else "")


def _short_row(layers: Iterable[LayerRecord]) -> str:
    shown = (layer for layer in layers if layer.kind not in ("norm", "activation"))
    return ", ".join(short_layer(layer).replace(" ", HARD) for layer in shown)


def short_layer(layer: LayerRecord) -> str:
    """Write a layer in few letters.

    Example:
        >>> short_layer(LayerRecord("conv", "3x3 conv, 64, 32 groups, /2"))
        '3x3 64 g32 /2'
    """
    if layer.kind != "conv":
        return layer.text.replace(", ", " ")
    return re.sub(r"(\d+) groups", r"g\1", layer.text.replace(" conv,", "").replace(", ", " "))
