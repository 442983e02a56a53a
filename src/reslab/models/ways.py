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
    """Of a block of ours, which says how many of its layers stand before the fork and behind the junction."""
    calls: dict[str, list[Call]] = {"steps": [], "downsample": [], "junction": []}
    for call in unit.calls:
        part = call.path.removeprefix(f"{unit.paths[0]}.").partition(".")[0]
        calls[part if part in calls else "steps"].append(call)
    steps, junction = calls["steps"], junction_text(block)
    fork = len(block.entry_steps) if block.shares_entry and junction else 0
    meet = len(steps) - len(block.after_steps)
    past = layers_of(calls["downsample"]) if junction else ()
    return Ways(
        branch=layers_of(steps[fork:meet]),
        entry=layers_of(steps[:fork]),
        shortcut=shortcut_kind(past, unit) if junction else "none",
        shortcut_layers=past,
        junction=junction,
        after=layers_of(steps[meet:]),
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
