"""Reads a network into a ``StructureRecord``: which layers run in which order, and which blocks are equal.

The network is run once without values. Whatever ran is what is told: a layer that is used three times appears three
times, and one that is never used not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.layers.junction import Add, BranchOnly, DroppedShortcutAdd, GatedAdd, ScaledAdd
from reslab.layers.nd import CellMean
from reslab.layers.shortcut import ZeroPad
from reslab.models.block import Block
from reslab.models.count import (
    Counter,
    aten,
    count_parameters,
    elsewhere,
    eval_mode,
    same_random_numbers,
    told_of_modules,
)
from reslab.records import LAYERS, BlockRecord, LayerKind, LayerRecord, StageRecord, StructureRecord

Shape = tuple[int, ...]

BATCH = 2  # a parameter that is added to the stream has one sample, and so can be told from a shortcut
NUM_CONVS = {1: "single", 2: "basic", 3: "bottleneck"}
"""What our blocks are called, by the convolutions of their branch."""

WORDS: dict[str, tuple[LayerKind, str]] = {
    "FrozenBatchNorm": ("norm", "frozen norm"),
    "FrozenBatchNorm2d": ("norm", "frozen norm"),
    "LayerNorm2d": ("norm", "layer norm"),
    "SqueezeExcite": ("attention", "squeeze-excite"),
    "SqueezeExcitation": ("attention", "squeeze-excite"),
    "EfficientChannelAttention": ("attention", "ECA"),
    "MultiheadAttention": ("attention", "attention"),
    "ZeroPaddedMaxPool": ("pool", "3x3 max-pool, /2"),
    "DropPath": ("other", "drop path"),
    "StochasticDepth": ("other", "drop path"),
    "ScalarBias": ("other", "bias"),
    "ScalarAffine": ("other", "scale + bias"),
    "Multiply": ("other", "scale"),
    "LayerScale": ("other", "layer scale"),
}
"""Modules by the names of their classes, ours and others'; what happens inside them is not told."""


@dataclass(frozen=True)
class Call:
    """One layer that ran.

    Args:
        path: name of its module.
        layer: what it is; None for an identity.
    """

    path: str
    layer: LayerRecord | None


@dataclass(frozen=True)
class Join:
    """Two or more tensors that became one.

    Args:
        path: name of the module in whose own forward it happened.
        direct: of an addition, the names of the modules on those sides that read the input directly; "" is the input
            itself. Empty for a concatenation.
    """

    path: str
    direct: tuple[str, ...]


Event = Call | Join


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
        [('basic', 1, 'zero_pad'), ('basic', 2, 'identity')]
    """
    watch = run_once(model, tuple(image_shape))
    units = group_layers(group_by_unit(watch))
    stages = tuple(make_stage(key, found) for key, found in group_by_stage(units) if found)
    return StructureRecord(
        name=name or type(model).__name__,
        in_shape=tuple(image_shape),
        depth=num_weighted_in_a_row(stages),
        num_parameters=count_parameters(model),
        macs=watch.macs[""] // BATCH,
        stages=stages,
    )


# ---- one run


class Watch(Counter):
    """Counts, and notes every layer that runs and every addition and concatenation, in order.

    Tensors are told apart by identity: each is kept alive until the end, and on the meta device costs nothing.

    Args:
        model: that will run.

    Attributes:
        modules: of the model, by name.
        events: what happened.
        shapes: of the input and the output of each module, without the batch.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__({module: name for name, module in model.named_modules()})
        self.modules = dict(model.named_modules())
        self.events: list[Event] = []
        self.shapes: dict[str, tuple[Shape, Shape]] = {}
        self._given: list[set[int]] = []  # which tensors each running module was given
        self._makers: dict[int, str] = {}
        self._readers: dict[str, set[int]] = {}
        self._kept: list[Any] = []

    def start(self, module: nn.Module, inputs: Any) -> None:
        """A module begins to run."""
        super().start(module, inputs)
        self._given.append({id(value) for value in inputs})
        self._kept.append(inputs)

    def end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module has run."""
        super().end(module, inputs, output)
        path = self.names[module]
        self._readers[path] = self._given.pop()
        self._kept.append(output)
        if any(is_told(self.modules[outer]) for outer in self.running):
            return
        self._makers[id(output)] = path
        has_streams = isinstance(module, Block) and module.streams is not None  # (n, N, C, *)
        self.shapes[path] = (
            shape_of(next(iter(inputs), None), batch_axis=int(has_streams)),
            shape_of(output, batch_axis=int(has_streams)),
        )
        if is_told(module):
            self.events.append(Call(path, describe(module)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Runs one operation, counts it, and notes it if it joins tensors."""
        if func in (aten.add.Tensor, aten.add_.Tensor) and is_sum_of_equals(*args[:2]):
            self._note_join(args[:2])
        elif func is aten.cat.default:
            self._note_join(())
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _note_join(self, sides: Sequence[Tensor]) -> None:
        owners = [place for place, path in enumerate(self.running) if not is_told(self.modules[path])]
        if owners:
            path, given = self.running[owners[-1]], self._given[owners[-1]]
            makers = [self._makers.get(id(side), "?") for side in sides if id(side) not in given]
            direct = [maker for maker in makers if self._readers.get(maker, set()) & given]
            self.events.append(Join(path, tuple(direct) if len(makers) == len(sides) else ("",)))


def run_once(model: nn.Module, image_shape: Shape) -> Watch:
    """What happens in one forward without values; the model stays as it is."""
    watch = Watch(model)
    values = {name: elsewhere(parameter, "meta") for name, parameter in model.named_parameters()}
    values |= {name: elsewhere(buffer, "meta") for name, buffer in model.named_buffers()}
    images = torch.empty(BATCH, *image_shape, device="meta")
    try:
        with torch.no_grad(), eval_mode(model), same_random_numbers(), told_of_modules(watch), watch:
            torch.func.functional_call(model, values, (images,))
    except Exception as error:
        raise RequestError(
            f"Can't run {type(model).__name__} on shapes alone, with input {' x '.join(map(str, image_shape))}:"
            f" {type(error).__name__}: {error}"
        ) from None
    return watch


def shape_of(value: Any, *, batch_axis: int) -> Shape:
    """Of one sample: what follows the batch. () of what is no tensor."""
    return tuple(value.shape[batch_axis + 1 :]) if isinstance(value, Tensor) else ()


def is_told(module: nn.Module) -> bool:
    """Whether it is named as a whole: it has no parts, or they don't matter."""
    return type(module).__name__ in WORDS or next(module.children(), None) is None


def is_sum_of_equals(left: Any, right: Any) -> bool:
    """Whether two batches of one shape are added; a parameter is none."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return False
    return left.shape == right.shape and left.ndim > 1 and left.shape[0] == BATCH


# ---- words


def describe(module: nn.Module) -> LayerRecord | None:
    """What a layer is, in words; None if it does nothing."""
    kind = type(module).__name__
    if kind in WORDS:
        return LayerRecord(*WORDS[kind])
    match module:
        case nn.Identity() | nn.Flatten() | nn.Dropout(p=0) | nn.Dropout2d(p=0):
            return None
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return LayerRecord("conv", conv_text(module))
        case ZeroPad():
            name = "zero-pad" if module.before + module.after else "subsample"
            return LayerRecord("other", ", ".join([name, *stride_text(module.stride)]))
        case CellMean(side=side):
            return LayerRecord("pool", f"{sides(side)} avg-pool, /{side}")
        case nn.Linear():
            return LayerRecord("linear", f"linear, {module.out_features}")
        case nn.GroupNorm(num_groups=groups):
            return LayerRecord("norm", "group norm" if groups > 1 else "layer norm")
        case nn.Dropout(p=rate) | nn.Dropout2d(p=rate):
            return LayerRecord("other", f"dropout {rate:g}")
    if "Pool" in kind:
        return LayerRecord("pool", pool_text(module))
    if kind.startswith(("BatchNorm", "SyncBatchNorm", "InstanceNorm", "LayerNorm", "RMSNorm")):
        return LayerRecord("norm", f"{kind.partition('Norm')[0].lower()} norm")
    if type(module).__module__ == nn.ReLU.__module__:
        return LayerRecord("activation", kind)
    return LayerRecord("other", kind)


def conv_text(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> str:
    """Such as "3x3 conv, 128, 32 groups, /2"."""
    parts = [f"{sides(conv.kernel_size)} conv", str(conv.out_channels)]
    if conv.groups > 1:
        parts.append("depthwise" if conv.groups == conv.in_channels else f"{conv.groups} groups")
    if any(step > 1 for step in conv.dilation):
        parts.append(f"dilation {max(conv.dilation)}")
    return ", ".join(parts + stride_text(conv.stride))


def pool_text(pool: nn.Module) -> str:
    """Such as "3x3 max-pool, /2" or "global avg-pool"."""
    kind = "max-pool" if "Max" in type(pool).__name__ else "avg-pool"
    if "Adaptive" in type(pool).__name__:
        size = pool.output_size
        goals = {size} if isinstance(size, int) else set(size)  # type: ignore[arg-type]
        return f"global {kind}" if goals == {1} else f"{kind} to {sides(size)}"
    kernel = getattr(pool, "kernel_size", 0)
    name = f"{sides(kernel)} {kind}" if kernel else kind
    return ", ".join([name, *stride_text(getattr(pool, "stride", 1))])


def sides(size: Any) -> str:
    """3 or (3, 3) as "3x3"; of a sequence's kernel "3"."""
    return "x".join(map(str, size)) if isinstance(size, tuple | list) else f"{size}x{size}"


def stride_text(stride: Any) -> list[str]:
    """["/2"], or nothing for stride 1."""
    steps = stride if isinstance(stride, tuple | list) else (stride,)
    if set(steps) == {1}:
        return []
    return ["/" + (str(steps[0]) if len(set(steps)) == 1 else "x".join(map(str, steps)))]


def junction_text(block: Block) -> str:
    """How shortcut and branch are joined; empty if the branch is alone."""
    if block.streams is not None:
        return f"add, {block.streams.num_streams} streams"
    match block.junction:
        case BranchOnly():
            return ""
        case GatedAdd(exclusive=exclusive):
            return "add, both gated" if exclusive else "add, shortcut gated"
        case DroppedShortcutAdd():
            return "add, shortcut dropped out"
        case ScaledAdd():
            return ", ".join(["add", *scale_texts(block.junction)])
        case Add():
            return "add"
        case other:
            return type(other).__name__


def scale_texts(junction: ScaledAdd) -> list[str]:
    """What a scaled addition multiplies, and by how much."""
    scale = junction.branch_scale
    learned = isinstance(scale, Tensor)
    texts = [] if junction.shortcut_gain == 1 else [f"shortcut x {junction.shortcut_gain:.3g}"]
    if learned or scale != 1:
        texts.append("branch x learned scale" if learned else f"branch x {scale:.3g}")
    return texts


# ---- units: blocks, and rows of layers that stand in no block


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

    @property
    def is_block(self) -> bool:
        """Whether it is more than layers in a row."""
        return not is_told(self.modules[0])

    @property
    def num_parameters(self) -> int:
        """All of them."""
        return sum(map(count_parameters, self.modules))

    def __add__(self, after: Unit) -> Unit:
        """Both in a row."""
        paths, modules = self.paths + after.paths, self.modules + after.modules
        events, macs = self.events + after.events, self.macs + after.macs
        return Unit(paths, modules, events, self.in_shape, after.out_shape, self.size, macs)

    @property
    def calls(self) -> list[Call]:
        """Its layers."""
        return [event for event in self.events if isinstance(event, Call)]

    @property
    def parent(self) -> str:
        """The top-level module that it is a part of; "" if it is one itself."""
        first, _, rest = self.paths[0].partition(".")
        return first if rest else ""


def group_by_unit(watch: Watch) -> Iterator[Unit]:
    """Events by the outermost module that is more than a row of others."""
    for path, found in groupby(watch.events, key=lambda event: unit_of(event.path, watch.modules)):
        in_shape, out_shape = watch.shapes.get(path, ((), ()))
        macs = watch.macs.get(path, 0) // BATCH
        unit = Unit((path,), (watch.modules[path],), list(found), in_shape, out_shape, out_shape[1:], macs)
        if unit.calls:
            yield unit


def unit_of(path: str, modules: dict[str, nn.Module]) -> str:
    """The name of the unit that a module belongs to: "layer1.0" for "layer1.0.conv1"."""
    parts = path.split(".")
    prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return next((p for p in prefixes if not isinstance(modules[p], nn.Sequential | nn.ModuleList)), path)


def group_layers(units: Iterable[Unit]) -> list[Unit]:
    """Joins layers in a row to units that have one convolution or linear layer each, and begin with it."""
    grouped: list[Unit] = []
    for unit in units:
        before = grouped[-1] if grouped else unit
        fits = before is not unit and not (unit.is_block or before.is_block) and unit.parent == before.parent
        if fits and not (num_weighted(unit.calls) and num_weighted(before.calls)):
            grouped[-1] = before + unit
        else:
            grouped.append(unit)
    return grouped


def num_weighted(calls: Iterable[Call]) -> int:
    """Convolutions and linear layers among them."""
    return sum(call.layer is not None and call.layer.kind in ("conv", "linear") for call in calls)


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
    return num_weighted(units[0].calls) > 0 and len(units) > 1 and len(units[-1].out_shape) > 1


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
    calls = [call for unit in units for call in unit.calls]
    is_end = name in ("stem", "head") and not any(unit.is_block for unit in units)
    return StageRecord(
        name=name,
        in_shape=units[0].in_shape,
        out_shape=units[-1].out_shape,
        layers=layers_of(calls) if is_end else (),
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
        entry=layers_of(ways.entry),
        branch=layers_of(ways.branch),
        shortcut=ways.shortcut,
        shortcut_layers=layers_of(ways.past),
        junction=ways.junction,
        after=layers_of(ways.after),
        num_parameters=unit.num_parameters,
        macs=unit.macs,
    )


def kind_of(unit: Unit, ways: Ways) -> str:
    """Our word for our blocks and for those of the same name elsewhere; for others the name of their class."""
    block, num_convs = unit.modules[0], num_weighted(ways.branch)
    name = type(block).__name__
    if isinstance(block, Block) or name in ("BasicBlock", "Bottleneck"):
        return NUM_CONVS.get(num_convs, name)
    is_row = ways.shortcut == "none" and num_convs < 2  # such as convolution, norm and activation in one module
    return LAYERS if is_row or not unit.is_block else name


@dataclass(frozen=True)
class Ways:
    """A block's layers by the way they stand on.

    Args:
        branch: of F(x).
        entry: before the fork.
        past: of the shortcut.
        after: behind the junction.
        shortcut: its kind.
        junction: in words.
    """

    branch: Sequence[Call]
    entry: Sequence[Call] = ()
    past: Sequence[Call] = ()
    after: Sequence[Call] = ()
    shortcut: str = "none"
    junction: str = ""


def ways_of(unit: Unit) -> Ways:
    """Which layer stands where."""
    if not unit.is_block:
        return Ways(branch=unit.calls)
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
    past = calls["downsample"] if junction else []
    return Ways(
        branch=steps[fork:meet],
        entry=steps[:fork],
        past=past,
        after=steps[meet:],
        shortcut=shortcut_kind(past, unit) if junction else "none",
        junction=junction,
    )


def observed_ways(unit: Unit) -> Ways:
    """Of anybody's block: the one addition that was seen tells which layers the shortcut has.

    Without a join the block is plain; with several, or with a concatenation, its ways are not told apart.
    """
    joins = [event for event in unit.events if isinstance(event, Join)]
    if not joins:
        return Ways(branch=unit.calls)
    join = joins[0]
    if len(joins) > 1 or join.path != unit.paths[0] or not join.direct:
        return Ways(branch=unit.calls, shortcut="inside")
    place = unit.events.index(join)
    before, after = (
        [event for event in part if isinstance(event, Call)] for part in (unit.events[:place], unit.events[place:])
    )
    past = min(([call for call in before if is_part(call.path, side)] for side in join.direct), key=len)
    branch = [call for call in before if call not in past]
    return Ways(branch=branch, past=past, after=after, shortcut=shortcut_kind(past, unit), junction="add")


def is_part(path: str, whole: str) -> bool:
    """Whether a module is another or one of its parts; nothing is part of "", the input."""
    return bool(whole) and (path == whole or path.startswith(f"{whole}."))


def shortcut_kind(past: Sequence[Call], unit: Unit) -> str:
    """The kind of a shortcut by what runs on it, and by what it has to change."""
    kinds = {call.layer.kind for call in past if call.layer}
    if not kinds:
        return "identity"
    if "conv" in kinds:
        return "projection_pool" if "pool" in kinds else "projection"
    if unit.in_shape[:1] < unit.out_shape[:1]:
        return "zero_pad"
    return "subsample" if unit.in_shape[1:] > unit.out_shape[1:] else "other"


def layers_of(calls: Iterable[Call]) -> tuple[LayerRecord, ...]:
    """What they are, identities left out."""
    return tuple(call.layer for call in calls if call.layer)


def fold(blocks: Iterable[BlockRecord]) -> tuple[BlockRecord, ...]:
    """Equal blocks in a row become one."""
    folded = []
    for _, found in groupby(blocks, key=lambda block: replace(block, name="", last="")):
        first, *others = found
        folded.append(replace(first, last=others[-1].name if others else first.name, count=1 + len(others)))
    return tuple(folded)


def num_weighted_in_a_row(stages: Iterable[StageRecord]) -> int:
    """Convolutions and linear layers in a row; those of shortcuts and attention don't count."""
    rows = [(1, stage.layers) for stage in stages]
    rows += [(run.count, run.entry + run.branch + run.after) for stage in stages for run in stage.blocks]
    return sum(count * sum(layer.kind in ("conv", "linear") for layer in layers) for count, layers in rows)
