"""The ways through a block: which of its layers stand on the branch, which on the shortcut, before and behind both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reslab.models.block import Block
from reslab.models.layer_text import junction_text
from reslab.models.trace import Call, Join
from reslab.models.units import Unit, layers_of
from reslab.records import LayerRecord

Layers = tuple[LayerRecord, ...]


@dataclass(frozen=True)
class Ways:
    """A block's layers by the way they stand on; names and meanings are those of ``BlockRecord``."""

    branch: Layers
    entry: Layers = ()
    shortcut: str = "none"
    shortcut_layers: Layers = ()
    junction: str = ""
    after: Layers = ()


def ways_of(unit: Unit) -> Ways:
    """Which layer stands where."""
    if not unit.is_block:
        return Ways(branch=unit.layers)
    block = unit.modules[0]
    return own_ways(unit, block) if isinstance(block, Block) else observed_ways(unit)


def own_ways(unit: Unit, block: Block) -> Ways:
    """Of a block of ours, which calls its shortcut between entry and branch, and its junction or streams after both."""
    parts = [call.path.removeprefix(f"{unit.paths[0]}.").partition(".")[0] for call in unit.calls]
    joined = ("streams",) if block.streams is not None else ("junction",)
    fork = parts.index("downsample") if "downsample" in parts else 0
    meet = next(place for place, part in enumerate(parts) if part in joined)
    junction = junction_text(block)
    past = [call for call, part in zip(unit.calls, parts, strict=True) if part == "downsample" and junction]
    entry = unit.calls[:fork] if block.shares_entry and junction else []
    between = [
        call for call, part in zip(unit.calls[:meet], parts, strict=False) if part != "downsample" and call not in entry
    ]
    return Ways(
        branch=layers_of(between),
        entry=layers_of(entry),
        shortcut=shortcut_kind(layers_of(past), unit) if junction else "none",
        shortcut_layers=layers_of(past),
        junction=junction,
        after=layers_of(unit.calls[meet + 1 :]),
    )


def observed_ways(unit: Unit) -> Ways:
    """Of anybody's block: the one addition that was seen tells which layers the shortcut has.

    Without a join the block is plain; with several, or with a concatenation, its ways are not told apart.
    """
    joins = [event for event in unit.events if isinstance(event, Join)]
    if not joins:
        return Ways(branch=unit.layers)
    join = joins[0]
    if len(joins) > 1 or join.path != unit.paths[0] or not join.direct:
        return Ways(branch=unit.layers, shortcut="inside")
    place = unit.events.index(join)
    before, after = (
        [event for event in part if isinstance(event, Call)] for part in (unit.events[:place], unit.events[place:])
    )
    past = min(([call for call in before if is_part(call.path, side)] for side in join.direct), key=len)
    return Ways(
        branch=layers_of(call for call in before if call not in past),
        shortcut=shortcut_kind(layers_of(past), unit),
        shortcut_layers=layers_of(past),
        junction="add",
        after=layers_of(after),
    )


def is_part(path: str, whole: str) -> bool:
    """Whether a module is another or one of its parts; nothing is part of "", the input."""
    return bool(whole) and (path == whole or path.startswith(f"{whole}."))


def shortcut_kind(past: Sequence[LayerRecord], unit: Unit) -> str:
    """The kind of a shortcut by what runs on it, and by what it has to change."""
    kinds = {layer.kind for layer in past}
    if not kinds:
        return "identity"
    if "conv" in kinds:
        return "projection_pool" if "pool" in kinds else "projection"
    if unit.in_shape[:1] < unit.out_shape[:1]:
        return "zero_pad"
    return "subsample" if unit.in_shape[1:] > unit.out_shape[1:] else "other"
