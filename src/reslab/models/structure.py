"""Reads a network into a ``StructureRecord``: which layers run in which order, and which blocks are equal.

The network is run once without values. What ran is listed: a layer that is used three times appears three times, and
one that is never used not at all. Shortcuts are those of the autograd graph that the run left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from reslab.errors import RequestError
from reslab.models._layer_text import describe, is_layer, junction_text
from reslab.models.block import Block
from reslab.models.count import Operations, count_operations, image_like, undisturbed, values_on
from reslab.models.graph import Addition, Graph
from reslab.models.trace import Trace
from reslab.records import LAYERS, BlockRecord, LayerRecord, StageRecord, StructureRecord

BLOCK_NAMES = {1: "SingleBlock", 2: "BasicBlock", 3: "Bottleneck"}
"""What our blocks are called elsewhere, by the convolutions of their branch."""

Shape = tuple[int, ...]


def read_structure(model: nn.Module, image_shape: Sequence[int], *, name: str = "") -> StructureRecord:
    """Describe what the network is made of, by running it once with values of the meta device in place of its own.

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
    execution = execute(model, tuple(image_shape))
    operations = count_operations(model, image_shape)
    units = join_rows(units_of(execution, operations))
    stages = tuple(stage_record(key, found, execution) for key, found in group_by_stage(units) if found)
    return StructureRecord(
        name=name or type(model).__name__,
        in_shape=tuple(image_shape),
        depth=num_weighted_in_a_row(stages),
        num_parameters=operations.num_parameters,
        macs=operations.macs,
        stages=stages,
    )


# ---- what runs


@dataclass(frozen=True)
class Call:
    """One layer that ran: its module's name, what it is (None if it does nothing), and the node of its result."""

    path: str
    layer: LayerRecord | None
    node: Node | None


@dataclass(frozen=True)
class Join:
    """Tensors that became one.

    Args:
        path: the module in whose own forward it happened; that of a layer is told as its parent's.
        maker: the innermost module that was running.
        addition: None for a concatenation.
    """

    path: str
    maker: str
    addition: Addition | None


class LayerTrace(Trace):
    """Also notes every layer that runs, in order, and the shapes of one sample that modules take and give."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.modules[model] = ""
        self.layers = {name for module, name in self.modules.items() if is_layer(module)}
        self.calls: list[Call] = []
        self.shapes: dict[str, tuple[Shape, Shape]] = {}

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module has run; what runs inside a layer is not listed."""
        super().leave(module, inputs, output)
        if not self.layers.isdisjoint(self.running[1:]):
            return
        path, first = self.modules[module], next(iter(inputs), None)
        num_axes = 2 if isinstance(module, Block) and module.streams is not None else 1  # (n, N, C, *) or (N, C, *)
        taken, given = (tuple(x.shape[num_axes:]) if isinstance(x, Tensor) else () for x in (first, output))
        self.shapes[path] = taken, given
        if path in self.layers:
            self.calls.append(Call(path, describe(module), output.grad_fn if isinstance(output, Tensor) else None))


@dataclass(frozen=True)
class Execution:
    """One forward pass on shapes alone: its trace, the places of its nodes in the graph, and what was joined in it."""

    trace: LayerTrace
    place: dict[Node, int]
    joins: list[Join]


def execute(model: nn.Module, image_shape: Shape) -> Execution:
    """Run the model on the meta device, in eval mode, with an input that the graph begins at."""
    trace, image = LayerTrace(model), image_like(model, image_shape, "meta").requires_grad_()
    try:
        with torch.enable_grad(), undisturbed(model), trace.following():
            output = torch.func.functional_call(model, values_on(model, "meta"), (image.clone(),))
    except Exception as error:
        raise RequestError(
            f"Can't run {type(model).__name__} on shapes alone, with input {' x '.join(map(str, image_shape))}:"
            f" {type(error).__name__}: {error}"
        ) from None
    outputs = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else [output]
    results = [result.sum() for result in outputs if isinstance(result, Tensor) and result.requires_grad]
    if not results:
        return Execution(trace, {}, [])
    graph = Graph(torch.stack(results).sum().grad_fn, [get_gradient_edge(image).node])  # type: ignore[arg-type]
    trace.complete(graph)
    found: list[tuple[int, Addition | None]] = [(addition.node, addition) for addition in graph.additions()]
    found += [(i, None) for i, name in enumerate(graph.names) if name.startswith("Cat") and len(graph.inputs[i]) > 1]
    joins = []
    for place, addition in found:
        maker = trace.where[graph.nodes[place]]
        layer = next((name for name in prefixes(maker) if name in trace.layers), None)
        joins.append(Join(maker if layer is None else layer.rpartition(".")[0], maker, addition))
    return Execution(trace, graph.place, joins)


def prefixes(path: str) -> list[str]:
    """The names of a module and of all that it is a part of, outermost first."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def is_part(path: str, whole: str) -> bool:
    """Whether a module is another or one of its parts."""
    return path == whole or path.startswith(f"{whole}.")


# ---- units: blocks, and layers in a row


@dataclass(frozen=True)
class Unit:
    """A block, or layers in a row.

    Args:
        paths: name of the block, or of each layer.
        modules: of these names.
        calls: the layers that ran in it.
        in_shape: of one sample.
        out_shape: of one sample.
        size: resolution: of a block's result, and of the result of the first among layers, which pools may follow.
        macs: for one sample.
    """

    paths: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    calls: list[Call]
    in_shape: Shape
    out_shape: Shape
    size: Shape
    macs: int

    def __add__(self, after: Unit) -> Unit:
        return Unit(
            self.paths + after.paths,
            self.modules + after.modules,
            self.calls + after.calls,
            self.in_shape,
            after.out_shape,
            self.size,
            self.macs + after.macs,
        )

    @property
    def is_block(self) -> bool:
        return not is_layer(self.modules[0])

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for module in self.modules for parameter in module.parameters())

    @property
    def layers(self) -> list[LayerRecord]:
        return layers_of(self.calls)

    @property
    def parent(self) -> str:
        """The top-level module that it is a part of; "" if it is one itself."""
        first, _, rest = self.paths[0].partition(".")
        return first if rest else ""


def units_of(execution: Execution, operations: Operations) -> Iterator[Unit]:
    """Cut the calls into the outermost modules that are more than a row of others."""
    modules = {name: module for module, name in execution.trace.modules.items()}

    def unit_path(call: Call) -> str:
        wholes = (p for p in prefixes(call.path) if not isinstance(modules[p], nn.Sequential | nn.ModuleList))
        return next(wholes, call.path)

    for path, calls in groupby(execution.trace.calls, key=unit_path):
        in_shape, out_shape = execution.trace.shapes[path]
        cost = operations.by_module.get(path) if path else operations
        macs = cost.macs if cost else 0
        yield Unit((path,), (modules[path],), list(calls), in_shape, out_shape, out_shape[1:], macs)


def join_rows(units: Iterable[Unit]) -> list[Unit]:
    """Leave blocks as they are; join layers in a row to units that begin with one convolution or linear layer."""
    rows: list[Unit] = []
    for unit in units:
        before = rows[-1] if rows else unit
        is_next = bool(rows) and not before.is_block and not unit.is_block and before.parent == unit.parent
        if is_next and not (num_weighted(before.layers) and num_weighted(unit.layers)):
            rows[-1] += unit
        else:
            rows.append(unit)
    return rows


def layers_of(calls: Iterable[Call]) -> list[LayerRecord]:
    """What they are; those that do nothing are left out."""
    return [call.layer for call in calls if call.layer]


def num_weighted(layers: Iterable[LayerRecord]) -> int:
    """Convolutions and linear layers among them."""
    return sum(layer.kind in ("conv", "linear") for layer in layers)


# ---- blocks


@dataclass
class Sides:
    """A block's layers by the side they stand on; names and meanings are those of ``BlockRecord``."""

    entry: list[LayerRecord] = field(default_factory=list)
    branch: list[LayerRecord] = field(default_factory=list)
    shortcut_layers: list[LayerRecord] = field(default_factory=list)
    after: list[LayerRecord] = field(default_factory=list)
    shortcut: str = "none"
    junction: str = ""


def sides_of(unit: Unit, execution: Execution) -> Sides:
    """Which layer stands where, by the one addition that joins them.

    Without a join the block is plain; with several, or a concatenation, its sides are not told apart.
    """
    path, block = unit.paths[0], unit.modules[0]
    joins = [join for join in execution.joins if unit.is_block and is_part(join.path, path)]
    own_junctions = (f"{path}.junction", f"{path}.streams") if isinstance(block, Block) else ()
    addition = joins[0].addition if len(joins) == 1 and joins[0].path in (path, *own_junctions) else None
    if addition is None or (addition.kind == "gated" and not isinstance(block, Block)):
        end = [call.path for call in unit.calls].index(f"{path}.junction") if isinstance(block, Block) else None
        branch, after = layers_of(unit.calls[:end]), layers_of(unit.calls[end:]) if end else []
        return Sides(branch=branch, after=after, shortcut="inside" if joins else "none")
    sides = Sides(junction=junction_text(block) if isinstance(block, Block) else "add")
    for call in unit.calls:
        place = -1 if call.node is None else execution.place.get(call.node, -1)
        if call.layer is None or (joins[0].maker != path and is_part(call.path, joins[0].maker)):
            continue
        if place in addition.shortcut:
            sides.shortcut_layers.append(call.layer)
        elif place in addition.branch or place < 0:
            sides.branch.append(call.layer)
        else:
            (sides.entry if place <= addition.fork else sides.after).append(call.layer)
    sides.shortcut = shortcut_kind(sides.shortcut_layers, unit)
    return sides


def shortcut_kind(layers: Sequence[LayerRecord], unit: Unit) -> str:
    """The kind of a shortcut by what runs on it, and by what it has to change."""
    kinds = {layer.kind for layer in layers}
    if not kinds:
        return "identity"
    if "conv" in kinds:
        return "projection_pool" if "pool" in kinds else "projection"
    if unit.in_shape[:1] < unit.out_shape[:1]:
        return "zero_pad"
    return "subsample" if unit.in_shape[1:] > unit.out_shape[1:] else "other"


def block_record(unit: Unit, execution: Execution) -> BlockRecord:
    """One block, or one row of layers."""
    sides, block = sides_of(unit, execution), unit.modules[0]
    num_convs = num_weighted(sides.branch)
    if isinstance(block, Block):
        kind = BLOCK_NAMES[num_convs]
    else:  # a row may be one module, such as convolution, norm and activation
        is_row = not unit.is_block or (sides.shortcut == "none" and num_convs < 2)
        kind = LAYERS if is_row else type(block).__name__
    return BlockRecord(
        name=unit.paths[0],
        last=unit.paths[0],
        count=1,
        kind=kind,
        in_shape=unit.in_shape,
        out_shape=unit.out_shape,
        entry=tuple(sides.entry),
        branch=tuple(sides.branch),
        shortcut=sides.shortcut,
        shortcut_layers=tuple(sides.shortcut_layers),
        junction=sides.junction,
        after=tuple(sides.after),
        num_parameters=unit.num_parameters,
        macs=unit.macs,
    )


def fold(blocks: Iterable[BlockRecord]) -> tuple[BlockRecord, ...]:
    """Equal blocks in a row become one."""
    runs = (list(found) for _, found in groupby(blocks, key=lambda block: replace(block, name="", last="")))
    return tuple(replace(run[0], last=run[-1].name, count=len(run)) for run in runs)


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
    first, last = places[0], places[-1] + 1
    yield "stem", [unit for _, found in spans[:first] for unit in found]
    for key, found in spans[first:last]:
        pieces = list(cut_by_resolution(found))
        for piece in pieces:
            yield (key if key and len(pieces) == 1 else range_name(piece)), piece
    yield "head", [unit for _, found in spans[last:] for unit in found]


def split_ends(key: str, units: list[Unit]) -> list[list[Unit]]:
    """Cut the layers before the first and behind the last block off a row of top-level modules."""
    places = [place for place, unit in enumerate(units) if unit.is_block]
    if key or not places:
        return [units]
    parts = (units[: places[0]], units[places[0] : places[-1] + 1], units[places[-1] + 1 :])
    return [part for part in parts if part]


def is_row_of_convs(units: list[Unit]) -> bool:
    """Whether several of them begin with a convolution, and end in maps."""
    return num_weighted(units[0].layers) > 0 and len(units) > 1 and len(units[-1].out_shape) > 1


def cut_by_resolution(units: list[Unit]) -> Iterator[list[Unit]]:
    """Cut a row that goes through more than two resolutions where they change."""
    if sum(before.size != after.size for before, after in pairwise(units)) <= 1:
        yield units
        return
    for _, found in groupby(units, key=lambda unit: unit.size):
        yield list(found)


def range_name(units: list[Unit]) -> str:
    """Such as "features.2-4"."""
    first, last = (".".join(path.split(".")[:2]) for path in (units[0].paths[0], units[-1].paths[-1]))
    return first if first == last else f"{first}-{last.rpartition('.')[2]}"


def stage_record(name: str, units: list[Unit], execution: Execution) -> StageRecord:
    """Stem, stage or head, of its units."""
    is_end = name in ("stem", "head") and not any(unit.is_block for unit in units)
    return StageRecord(
        name=name,
        in_shape=units[0].in_shape,
        out_shape=units[-1].out_shape,
        layers=tuple(layer for unit in units for layer in unit.layers) if is_end else (),
        blocks=() if is_end else fold(block_record(unit, execution) for unit in units),
        num_parameters=sum(unit.num_parameters for unit in units),
        macs=sum(unit.macs for unit in units),
    )


def num_weighted_in_a_row(stages: Iterable[StageRecord]) -> int:
    """Convolutions and linear layers in a row; those of shortcuts and attention don't count."""
    ends = sum(num_weighted(stage.layers) for stage in stages)
    runs = [run for stage in stages for run in stage.blocks]
    return ends + sum(run.count * num_weighted(run.entry + run.branch + run.after) for run in runs)
