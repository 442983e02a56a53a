"""Reads a network into a ``StructureRecord``: which layers run in which order, and which blocks are equal.

The network is run once without values. Whatever ran is what is told: a layer that is used three times appears three
times, and one that is never used not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from torch import nn

from reslab.models.block import Block
from reslab.models.count import count_parameters
from reslab.models.trace import BATCH, run_and_trace
from reslab.models.units import Unit, cut_into_units, num_weighted
from reslab.models.ways import Ways, ways_of
from reslab.records import LAYERS, BlockRecord, StageRecord, StructureRecord

BLOCK_NAMES = {1: "SingleBlock", 2: "BasicBlock", 3: "Bottleneck"}
"""What our blocks are called elsewhere, by the convolutions of their branch."""


def read_structure(model: nn.Module, image_shape: Sequence[int], *, name: str = "") -> StructureRecord:
    """What the network is made of, by running it once with values of the meta device in place of its own.

    Args:
        model: any network that takes one tensor of samples. It stays as it is.
        image_shape: of one sample: channels, then positions.
        name: of the network; by default its class's.

    Raises:
        RequestError: if the network can't be run without values.

    Example:
        >>> from reslab.models.catalog import create_model
        >>> record = read_structure(create_model("resnet20"), (3, 32, 32), name="resnet20")
        >>> [(block.kind, block.count, block.shortcut) for block in record.stages[2].blocks]
        [('BasicBlock', 1, 'zero_pad'), ('BasicBlock', 2, 'identity')]
    """
    trace = run_and_trace(model, tuple(image_shape))
    stages = tuple(make_stage(key, found) for key, found in group_by_stage(cut_into_units(trace)) if found)
    return StructureRecord(
        name=name or type(model).__name__,
        in_shape=tuple(image_shape),
        depth=num_weighted_in_a_row(stages),
        num_parameters=count_parameters(model),
        macs=trace.macs[""] // BATCH,
        stages=stages,
    )


# ---- stages


def group_by_stage(units: list[Unit]) -> Iterator[tuple[str, list[Unit]]]:
    """Stem, stages and head, with their names.

    A stage is a top-level module with blocks in it or, in a network without blocks, one with several convolutions. What
    comes before the first is the stem, what comes after the last the head.
    """
    spans = [
        (key, part)
        for key, found in groupby(units, key=lambda unit: unit.parent)
        for part in split_ends(key, list(found))
    ]
    places = [place for place, (_, found) in enumerate(spans) if any(unit.is_block for unit in found)]
    places = places or [place for place, (key, found) in enumerate(spans) if key and is_row_of_convs(found)]
    if not places:
        num_maps = sum(len(unit.out_shape) > 1 for unit in units)
        yield from (("stem", units[:num_maps]), ("head", units[num_maps:]))
        return
    yield "stem", flatten(spans[: places[0]])
    for key, found in spans[places[0] : places[-1] + 1]:
        pieces = list(cut_by_resolution(found))
        for piece in pieces:
            yield (key if key and len(pieces) == 1 else range_name(piece)), piece
    yield "head", flatten(spans[places[-1] + 1 :])


def split_ends(key: str, units: list[Unit]) -> list[list[Unit]]:
    """Cuts the layers before the first and behind the last block off a row of top-level modules."""
    places = [place for place, unit in enumerate(units) if unit.is_block]
    if key or not places:
        return [units]
    parts = (units[: places[0]], units[places[0] : places[-1] + 1], units[places[-1] + 1 :])
    return [part for part in parts if part]


def flatten(spans: Iterable[tuple[str, list[Unit]]]) -> list[Unit]:
    """All their units."""
    return [unit for _, found in spans for unit in found]


def is_row_of_convs(units: list[Unit]) -> bool:
    """Whether several of them begin with a convolution, and end in maps."""
    return num_weighted(units[0].layers) > 0 and len(units) > 1 and len(units[-1].out_shape) > 1


def cut_by_resolution(units: list[Unit]) -> Iterator[list[Unit]]:
    """Cuts a row that goes through more than two resolutions where they change."""
    if sum(before.size != after.size for before, after in pairwise(units)) <= 1:
        yield units
        return
    for _, found in groupby(units, key=lambda unit: unit.size):
        yield list(found)


def range_name(units: list[Unit]) -> str:
    """Such as "features.2-4"."""
    first, last = (".".join(path.split(".")[:2]) for path in (units[0].paths[0], units[-1].paths[-1]))
    return first if first == last else f"{first}-{last.rpartition('.')[2]}"


# ---- records


def make_stage(name: str, units: list[Unit]) -> StageRecord:
    """Stem, stage or head, of its units."""
    is_end = name in ("stem", "head") and not any(unit.is_block for unit in units)
    return StageRecord(
        name=name,
        in_shape=units[0].in_shape,
        out_shape=units[-1].out_shape,
        layers=tuple(layer for unit in units for layer in unit.layers) if is_end else (),
        blocks=() if is_end else fold(map(make_block, units)),
        num_parameters=sum(unit.num_parameters for unit in units),
        macs=sum(unit.macs for unit in units),
    )


def make_block(unit: Unit) -> BlockRecord:
    """One block, or one row of layers."""
    ways = ways_of(unit)
    return BlockRecord(
        name=unit.paths[0],
        last=unit.paths[0],
        count=1,
        kind=kind_of(unit, ways),
        in_shape=unit.in_shape,
        out_shape=unit.out_shape,
        entry=ways.entry,
        branch=ways.branch,
        shortcut=ways.shortcut,
        shortcut_layers=ways.shortcut_layers,
        junction=ways.junction,
        after=ways.after,
        num_parameters=unit.num_parameters,
        macs=unit.macs,
    )


def kind_of(unit: Unit, ways: Ways) -> str:
    """The name of the block's class, which for ours would not say how many convolutions it has."""
    block, num_convs = unit.modules[0], num_weighted(ways.branch)
    if isinstance(block, Block):
        return BLOCK_NAMES[num_convs]
    is_row = ways.shortcut == "none" and num_convs < 2  # such as convolution, norm and activation in one module
    return LAYERS if is_row or not unit.is_block else type(block).__name__


def fold(blocks: Iterable[BlockRecord]) -> tuple[BlockRecord, ...]:
    """Equal blocks in a row become one."""
    runs = (list(found) for _, found in groupby(blocks, key=lambda block: replace(block, name="", last="")))
    return tuple(replace(run[0], last=run[-1].name, count=len(run)) for run in runs)


def num_weighted_in_a_row(stages: Iterable[StageRecord]) -> int:
    """Convolutions and linear layers in a row; those of shortcuts and attention don't count."""
    ends = sum(num_weighted(stage.layers) for stage in stages)
    runs = [run for stage in stages for run in stage.blocks]
    return ends + sum(run.count * num_weighted(run.entry + run.branch + run.after) for run in runs)
