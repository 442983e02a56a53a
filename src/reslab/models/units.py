"""What a trace is cut into: blocks, and rows of layers that stand in no block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from reslab.models.count import count_parameters
from reslab.models.layer_text import is_told
from reslab.models.trace import BATCH, Call, Event, Shape, Tracer
from reslab.records import LayerRecord


@dataclass(frozen=True)
class Unit:
    """A block, or layers in a row.

    Args:
        paths: name of the block, or of each layer.
        modules: of these names.
        events: what happened in it.
        in_shape: of one sample.
        out_shape: of one sample.
        size: resolution: of a block's result, and of the result of the first among layers, which pools may follow.
        macs: for one sample.
    """

    paths: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    events: list[Event]
    in_shape: Shape
    out_shape: Shape
    size: Shape
    macs: int

    def __add__(self, after: Unit) -> Unit:
        """Both in a row."""
        paths, modules = self.paths + after.paths, self.modules + after.modules
        events, macs = self.events + after.events, self.macs + after.macs
        return Unit(paths, modules, events, self.in_shape, after.out_shape, self.size, macs)

    @property
    def is_block(self) -> bool:
        """Whether it is more than layers in a row."""
        return not is_told(self.modules[0])

    @property
    def num_parameters(self) -> int:
        """All of them."""
        return sum(map(count_parameters, self.modules))

    @property
    def calls(self) -> list[Call]:
        """What ran in it."""
        return [event for event in self.events if isinstance(event, Call)]

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        """What ran in it, identities left out."""
        return layers_of(self.calls)

    @property
    def parent(self) -> str:
        """The top-level module that it is a part of; "" if it is one itself."""
        first, _, rest = self.paths[0].partition(".")
        return first if rest else ""


def layers_of(calls: Iterable[Call]) -> tuple[LayerRecord, ...]:
    """What they are, identities left out."""
    return tuple(call.layer for call in calls if call.layer)


def num_weighted(layers: Iterable[LayerRecord]) -> int:
    """Convolutions and linear layers among them."""
    return sum(layer.kind in ("conv", "linear") for layer in layers)


def cut_into_units(trace: Tracer) -> list[Unit]:
    """Blocks as they are; layers in a row are joined to units with one convolution or linear layer, at their start."""
    units: list[Unit] = []
    for unit in group_by_unit(trace):
        if units and goes_on(units[-1], unit):
            units[-1] += unit
        else:
            units.append(unit)
    return units


def group_by_unit(trace: Tracer) -> Iterator[Unit]:
    """Events by the outermost module that is more than a row of others."""
    for path, found in groupby(trace.events, key=lambda event: unit_of(event.path, trace.modules)):
        in_shape, out_shape = trace.shapes.get(path, ((), ()))
        macs = trace.macs.get(path, 0) // BATCH
        unit = Unit((path,), (trace.modules[path],), list(found), in_shape, out_shape, out_shape[1:], macs)
        if unit.calls:
            yield unit


def unit_of(path: str, modules: dict[str, nn.Module]) -> str:
    """The name of the unit that a module belongs to: "layer1.0" for "layer1.0.conv1"."""
    parts = path.split(".")
    prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return next((p for p in prefixes if not isinstance(modules[p], nn.Sequential | nn.ModuleList)), path)


def goes_on(row: Unit, unit: Unit) -> bool:
    """Whether a unit is a layer that continues a row."""
    if row.is_block or unit.is_block or row.parent != unit.parent:
        return False
    return not (num_weighted(row.layers) and num_weighted(unit.layers))
