"""Reads a network into a ``StructureRecord``: which layers run in which order, and which blocks are equal.

The network is run once without values. What ran is listed: a layer that is used three times appears three times, and
one that is never used not at all. Shortcuts are those of the autograd graph that the run left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from reslab.records.structure import LAYERS, BlockRecord, LayerRecord, StageRecord, StructureRecord

BLOCK_NAMES = {1: "SingleBlock", 2: "BasicBlock", 3: "Bottleneck"}
"""What our blocks are called elsewhere, by the convolutions of their branch."""

Shape = tuple[int, ...]
Layers = tuple[LayerRecord, ...]


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
    stages = tuple(stage_record(key, found) for key, found in group_by_stage(units) if found)
    depth = sum(num_weighted(stage.layers) for stage in stages)  # those of shortcuts and attention don't count
    for run in (run for stage in stages for run in stage.blocks):
        depth += run.count * num_weighted(run.entry + run.branch + run.after)
    return StructureRecord(
        name=name or type(model).__name__,
        in_shape=tuple(image_shape),
        depth=depth,
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
        path: the module in whose own forward it happened; if that is a layer, its parent.
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
        super().leave(module, inputs, output)
        if not self.layers.isdisjoint(self.running[1:]):  # what runs inside a layer is not listed
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
    return path == whole or path.startswith(f"{whole}.")


# ---- units: blocks, and layers in a row


@dataclass(frozen=True)
class Unit:
    """A block, or layers in a row.

    Args:
        record: what it is; of layers in a row, all stand on the branch.
        is_block: whether it is more than layers in a row.
        last: name of its last layer, or of the block.
        size: resolution: of a block's result, and of the result of the first among layers, which pools may follow.
    """

    record: BlockRecord
    is_block: bool
    last: str
    size: Shape

    @property
    def parent(self) -> str:
        """The top-level module that it is a part of; "" if it is one itself."""
        first, _, rest = self.record.name.partition(".")
        return first if rest else ""


def units_of(execution: Execution, operations: Operations) -> Iterator[Unit]:
    """Cut the calls into the outermost modules that are more than a row of others."""
    modules = {name: module for module, name in execution.trace.modules.items()}

    def unit_path(call: Call) -> str:
        wholes = (p for p in prefixes(call.path) if not isinstance(modules[p], nn.Sequential | nn.ModuleList))
        return next(wholes, call.path)

    for path, found in groupby(execution.trace.calls, key=unit_path):
        module, calls = modules[path], list(found)
        in_shape, out_shape = execution.trace.shapes[path]
        cost = operations.by_module.get(path) if path else operations
        record = BlockRecord(
            name=path,
            last=path,
            count=1,
            kind=LAYERS,
            in_shape=in_shape,
            out_shape=out_shape,
            entry=(),
            branch=layers_of(calls),
            shortcut="none",
            shortcut_layers=(),
            junction="",
            after=(),
            num_parameters=sum(parameter.numel() for parameter in module.parameters()),
            macs=cost.macs if cost else 0,
        )
        is_block = not is_layer(module)
        yield Unit(as_block(record, module, calls, execution) if is_block else record, is_block, path, out_shape[1:])


def layers_of(calls: Iterable[Call]) -> Layers:
    """What they are; those that do nothing are left out."""
    return tuple(call.layer for call in calls if call.layer)


def num_weighted(layers: Iterable[LayerRecord]) -> int:
    """Convolutions and linear layers among them."""
    return sum(layer.kind in ("conv", "linear") for layer in layers)


def join_rows(units: Iterable[Unit]) -> list[Unit]:
    """Leave blocks as they are; join layers in a row to units that begin with one convolution or linear layer."""
    rows: list[Unit] = []
    for unit in units:
        before = rows[-1] if rows else unit
        is_next = bool(rows) and not before.is_block and not unit.is_block and before.parent == unit.parent
        if not is_next or (num_weighted(before.record.branch) and num_weighted(unit.record.branch)):
            rows.append(unit)
            continue
        joined = replace(
            before.record,
            out_shape=unit.record.out_shape,
            branch=before.record.branch + unit.record.branch,
            num_parameters=before.record.num_parameters + unit.record.num_parameters,
            macs=before.record.macs + unit.record.macs,
        )
        rows[-1] = replace(before, record=joined, last=unit.last)
    return rows


def as_block(record: BlockRecord, block: nn.Module, calls: list[Call], execution: Execution) -> BlockRecord:
    """Find out which layer stands where, by the one addition that joins shortcut and branch.

    Without a join the block is plain; with several, or a concatenation, its sides are not told apart.
    """
    path, is_ours = record.name, isinstance(block, Block)
    joins = [join for join in execution.joins if is_part(join.path, path)]
    places = (path, f"{path}.junction", f"{path}.streams") if is_ours else (path,)
    addition = joins[0].addition if len(joins) == 1 and joins[0].path in places else None
    if addition is None or (addition.kind == "gated" and not is_ours):
        end = [call.path for call in calls].index(f"{path}.junction") if is_ours else len(calls)
        branch, after = layers_of(calls[:end]), layers_of(calls[end:])
        record = replace(record, branch=branch, shortcut="inside" if joins else "none", after=after)
    else:
        found: dict[str, list[Call]] = {"entry": [], "branch": [], "shortcut_layers": [], "after": []}
        for call in calls:
            if joins[0].maker == path or not is_part(call.path, joins[0].maker):
                found[side_of(call, addition, execution)].append(call)
        sides: dict[str, Any] = {side: layers_of(some) for side, some in found.items()}
        shortcut = shortcut_kind(sides["shortcut_layers"], record)
        junction = junction_text(block) if isinstance(block, Block) else "add"
        record = replace(record, shortcut=shortcut, junction=junction, **sides)
    if is_ours:
        return replace(record, kind=BLOCK_NAMES[num_weighted(record.branch)])
    is_row = record.shortcut == "none" and num_weighted(record.branch) < 2  # such as convolution, norm and activation
    return record if is_row else replace(record, kind=type(block).__name__)


def side_of(call: Call, addition: Addition, execution: Execution) -> str:
    """Where a layer stands: in which field of ``BlockRecord``."""
    place = -1 if call.node is None else execution.place.get(call.node, -1)
    if place in addition.shortcut:
        return "shortcut_layers"
    if place in addition.branch or place < 0:
        return "branch"
    return "entry" if place <= addition.fork else "after"


def shortcut_kind(layers: Layers, record: BlockRecord) -> str:
    """The kind of a shortcut by what runs on it, and by what it has to change."""
    kinds = {layer.kind for layer in layers}
    if not kinds:
        return "identity"
    if "conv" in kinds:
        return "projection_pool" if "pool" in kinds else "projection"
    if record.in_shape[:1] < record.out_shape[:1]:
        return "zero_pad"
    return "subsample" if record.in_shape[1:] > record.out_shape[1:] else "other"


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
        num_maps = sum(len(unit.record.out_shape) > 1 for unit in units)
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
    return num_weighted(units[0].record.branch) > 0 and len(units) > 1 and len(units[-1].record.out_shape) > 1


def cut_by_resolution(units: list[Unit]) -> Iterator[list[Unit]]:
    """Cut a row that goes through more than two resolutions where they change."""
    if sum(before.size != after.size for before, after in pairwise(units)) <= 1:
        yield units
        return
    for _, found in groupby(units, key=lambda unit: unit.size):
        yield list(found)


def range_name(units: list[Unit]) -> str:
    """Such as "features.2-4"."""
    first, last = (".".join(path.split(".")[:2]) for path in (units[0].record.name, units[-1].last))
    return first if first == last else f"{first}-{last.rpartition('.')[2]}"


def stage_record(name: str, units: list[Unit]) -> StageRecord:
    """Stem, stage or head: its layers, or its blocks with equal ones in a row folded."""
    is_end = name in ("stem", "head") and not any(unit.is_block for unit in units)
    records = [unit.record for unit in units]
    runs = [list(found) for _, found in groupby(records, key=lambda record: replace(record, name="", last=""))]
    folded = tuple(replace(run[0], last=run[-1].name, count=len(run)) for run in runs)
    return StageRecord(
        name=name,
        in_shape=records[0].in_shape,
        out_shape=records[-1].out_shape,
        layers=tuple(layer for record in records for layer in record.branch) if is_end else (),
        blocks=() if is_end else folded,
        num_parameters=sum(record.num_parameters for record in records),
        macs=sum(record.macs for record in records),
    )
