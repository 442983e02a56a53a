"""What the picture and the tree of a network say about it, in words."""

from __future__ import annotations

from collections.abc import Sequence

from reslab.records import LAYERS, BlockRecord, StageRecord, StructureRecord, as_short


def shape_text(shape: Sequence[int]) -> str:
    """Channels and resolution.

    Example:
        >>> shape_text((64, 56, 56))
        '64 x 56 x 56'
    """
    return " x ".join(map(str, shape))


def network_facts(record: StructureRecord) -> str:
    """A network in a line."""
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
    facts = [blocks_text(stage), f"{as_short(stage.num_parameters)} parameters", f"{as_short(stage.macs)} MACs"]
    return " \N{MIDDLE DOT} ".join(filter(None, facts))


def blocks_text(stage: StageRecord) -> str:
    """How many blocks a stage has; empty if none."""
    count = sum(block.count for block in stage.blocks if block.kind != LAYERS)
    return f"{count} block{'s' * (count > 1)}" if count else ""


def junction_note(block: BlockRecord) -> str:
    """How a junction differs from a bare addition; empty if it doesn't."""
    return block.junction.removeprefix("add").removeprefix(", ")
