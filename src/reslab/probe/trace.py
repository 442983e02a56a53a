"""Watches a forward pass go by: which module each node of the graph belongs to, and what the values were.

Values are reduced as soon as they exist, because a later operation may write over them; what is kept are 0-dim tensors
and short rows, read all at once at the end. Modules are followed by hooks that are gone afterwards, operations by one
of torch's modes.

Shape letters: N samples, C channels, ``*`` whatever else there is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from reslab.probe.graph import ADDITION, WEIGHTED, Addition, Graph
from reslab.probe.norms import at_once, flat
from reslab.records import MomentsRecord

ENOUGH = 2**15
"""Values from which statistics are taken, more or less."""
SUM = re.compile("add|sub")
"""Names of functions, ``__iadd__`` and ``addcmul`` too, whose operands are looked at before they are run."""
SATURATED = {"Tanh": 0.97, "Sigmoid": 0.985}
"""Absolute value of tanh, or distance from a half plus a half of a sigmoid, beyond which the slope is below 0.06."""


@dataclass(frozen=True)
class Signal:
    """What an addition adds.

    Args:
        stream: of the sum.
        operands: of both operands, in the order of the operation.
    """

    stream: MomentsRecord
    operands: tuple[MomentsRecord, MomentsRecord]


@dataclass(frozen=True)
class Sums:
    """What moments are made of; 0-dim tensors are read at the end.

    Args:
        means: sum over channels of the squared mean.
        squares: sum over all values of the square.
        channels: how many.
        count: values of each channel.
    """

    means: Tensor
    squares: Tensor
    channels: int
    count: int


@dataclass(frozen=True)
class Units:
    """One activation layer, once executed.

    Args:
        module: where.
        kind: such as ``Relu``.
        channels: how many units.
        positions: values of each unit.
    """

    module: str
    kind: str
    channels: int
    positions: int


class Trace(TorchFunctionMode):
    """Follows one forward pass.

    Args:
        model: whose modules are named.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        >>> with Trace(model).following() as trace:
        ...     out = model(torch.ones(2, 3))
        >>> trace.where[out.grad_fn]
        '1'
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = [
            (module, re.sub(r"_orig_mod\.?", "", name)) for name, module in model.named_modules() if module is not model
        ]  # what runs in none of them runs in the model itself
        self.stack = [""]
        self.where: dict[Node, str] = {}
        self.channels = 0  # of the last layer with weights
        self.signals: dict[Node, list[Sums]] = {}  # of the operands, and of the sum
        self.units: list[tuple[Node, Units]] = []
        self.shares: list[Tensor] = []
        self.responses: list[tuple[str, Tensor]] = []
        self.products: dict[Node, Tensor] = {}  # of layers with weights, in which most networks have their layers
        self.num_batch_norms = 0  # that took their statistics from the batch
        self.in_fp16 = False  # whether some operation computed in it

    @contextmanager
    def following(self) -> Iterator[Trace]:
        """While this is open, whatever is computed is seen."""
        handles = []
        for module, name in self.modules:
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: self.stack.append(name)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if len(self.stack) > 1:
            self.stack.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation and looks at what came of it."""
        before = [self._sums(value) for value in args[:2]] if SUM.search(func.__name__) and is_sum(args) else []
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.grad_fn is not None:
            self._note(result, before)
        elif isinstance(result, tuple):
            for part in result:
                if isinstance(part, Tensor) and part.grad_fn is not None:
                    self.where[part.grad_fn] = self.stack[-1]
        return result

    @torch.no_grad()
    def _note(self, result: Tensor, before: list[Sums]) -> None:
        """One operation's result; ``before`` are the sums of its operands, where it may be an addition."""
        node = result.grad_fn
        assert node is not None, "only results with a gradient are noted"
        if node in self.where:  # a view of an attribute, or a function that hands on its argument
            return
        self.where[node] = self.stack[-1]
        name = node.name()
        self.in_fp16 |= result.dtype == torch.float16
        if WEIGHTED.search(name) and result.ndim > 1:
            self.channels = result.shape[1] if "Conv" in name else result.shape[-1]
            self.products[node] = products(result)
        elif ADDITION.match(name) and before:
            self.signals[node] = [*before, self._sums(result)]
        elif name.startswith("Relu"):
            dim = self._channel_dim(result)
            self._note_units(node, "Relu", result.shape[dim], result, dead_share(result.detach(), dim))
        elif (kind := name.split("Backward")[0]) in SATURATED:
            extent = result.detach().abs() if kind == "Tanh" else (result.detach() - 0.5).abs() + 0.5
            count = result.shape[self._channel_dim(result)]
            self._note_units(node, kind, count, result, (extent > SATURATED[kind]).double().mean())
        elif "Norm" in name:
            self.num_batch_norms += "BatchNorm" in name and getattr(node, "_saved_training", False)
            self.responses.append((self.stack[-1], few(result, self._channel_dim(result)).float().std()))

    def _note_units(self, node: Node, kind: str, count: int, result: Tensor, share: Tensor) -> None:
        self.units.append((node, Units(self.stack[-1], kind, count, result.numel() // max(1, count))))
        self.shares.append(share)

    @torch.no_grad()
    def _sums(self, values: Tensor) -> Sums:
        """What the averages over channels of the squared mean and of the variance are made of."""
        dim = self._channel_dim(values)
        sample = few(values, dim).float()
        if dim == 1 and sample.ndim > 2:  # along the row of each channel, which is far faster than across
            means = sample.flatten(2).mean(dim=(0, 2))
        else:
            means = sample.flatten(0, -2).mean(dim=0)
        channels = len(means)
        squares = torch.dot(*flat(sample, sample))
        return Sums(torch.dot(means, means), squares, channels, sample.numel() // max(1, channels))

    def _channel_dim(self, values: Tensor) -> int:
        """The dimension as long as the last layer with weights has channels: the second, or else the last."""
        return 1 if values.ndim > 1 and values.shape[1] == self.channels else values.ndim - 1

    def signals_of(self, nodes: Sequence[Node]) -> list[Signal | None]:
        """The values at additions; None for one that went by unseen, as in compiled code."""
        seen = [sums for node in nodes for sums in self.signals.get(node, [])]
        numbers = iter(at_once([number for sums in seen for number in (sums.means, sums.squares)]))
        found = list[Signal | None]()
        for node in nodes:
            moments = [moments_of(sums, next(numbers), next(numbers)) for sums in self.signals.get(node, [])]
            found.append(Signal(moments[2], (moments[0], moments[1])) if moments else None)
        return found

    def likeness_of(self, nodes: Sequence[Node]) -> list[float]:
        """Mean cosine between two samples' values at each node; NaN at one that went by unseen."""
        seen = [node for node in nodes if node in self.products]
        known = dict(zip(seen, at_once([likeness(self.products[node]) for node in seen]), strict=True))
        return [known.get(node, math.nan) for node in nodes]

    def layers(self) -> list[tuple[Node, Units, float]]:
        """Activations in order of execution, with the share of dead channels, or of saturated values."""
        shares = torch.stack(self.shares).tolist() if self.shares else []
        return [(node, units, share) for (node, units), share in zip(self.units, shares, strict=True)]

    def complete(self, graph: Graph) -> None:
        """Nodes inside of a function that went by as one operation belong where its result belongs."""
        for place in reversed(range(len(graph.nodes))):
            users = graph.users[place]
            if users and graph.nodes[place] not in self.where:
                self.where[graph.nodes[place]] = self.where.get(graph.nodes[users[-1][0]], "")

    def response_stds(self) -> tuple[tuple[str, float], ...]:
        """Name and standard deviation of each norm's output, in order of execution."""
        stds = torch.stack([std for _, std in self.responses]).tolist() if self.responses else []
        return tuple((name, std) for (name, _), std in zip(self.responses, stds, strict=True))

    def clear(self) -> None:
        """Lets the graph go."""
        self.where.clear()
        self.signals.clear()
        self.units.clear()
        self.products.clear()


def moments_of(sums: Sums, means: float, squares: float) -> MomentsRecord:
    """Averages over channels of the squared mean and of the variance; the numbers are those of ``sums``, read."""
    if not sums.channels * sums.count:
        return MomentsRecord(math.nan, math.nan)
    square = means / sums.channels
    variance = squares / (sums.channels * sums.count) - square
    return MomentsRecord(square, max(0.0, variance) if math.isfinite(variance) else variance)


def products(values: Tensor) -> Tensor:
    """Products of the first samples with one another, from some of their values, (n, n).

    Args:
        values: (N, *).
    """
    rows = values.detach()[:SAMPLES].flatten(1)  # (N, *) -> (n, D)
    rows = rows[:, :: max(1, rows.shape[1] // POSITIONS)].float()
    return rows @ rows.T


def likeness(products: Tensor) -> Tensor:
    """Mean cosine between two samples, 0-dim; NaN for a single one.

    Args:
        products: of the samples with one another, (n, n).
    """
    count, lengths = len(products), products.diagonal().sqrt().clamp_min(1e-12)
    cosines = products / (lengths * lengths[:, None])
    return (cosines.sum() - cosines.trace()) / (count * (count - 1) or math.nan)


SAMPLES, POSITIONS = 8, 2048
"""What the likeness of samples is taken from, at most."""


def dead_share(values: Tensor, dim: int) -> Tensor:
    """Share of the channels without a value above zero, 0-dim.

    The CPU looks at some samples first: mostly each channel has a value above zero there.
    """
    others = [d for d in range(values.ndim) if d != dim % values.ndim]
    if values.device.type == "cpu" and few(values, dim).amax(dim=others).amin().item() > 0:
        return NO_SHARE
    return (values.amax(dim=others) <= 0).double().mean()


NO_SHARE = torch.zeros((), dtype=torch.float64)


def is_sum(args: Sequence[Any]) -> bool:
    """Whether these may be the operands of a residual addition."""
    return (
        len(args) > 1
        and isinstance(args[0], Tensor)
        and isinstance(args[1], Tensor)
        and args[0].ndim > 1
        and args[0].shape == args[1].shape
        and args[0].requires_grad
        and args[1].requires_grad
        and args[0].is_floating_point()
    )


def few(values: Tensor, dim: int) -> Tensor:
    """A part with all channels: the first samples, at least two, and of large ones every few positions.

    Args:
        values: (N, *) with the channels somewhere.
        dim: where the channels are.
    """
    values = values.detach()
    size = max(1, values.numel() // max(1, len(values)))
    values = values[: max(2, ENOUGH // size)]
    positions = [d for d in range(1, values.ndim) if d != dim % values.ndim]
    if values.numel() <= 2 * ENOUGH or not positions:
        return values
    stride = math.ceil((values.numel() / ENOUGH) ** (1 / len(positions)))
    return values[tuple(slice(None, None, stride if d in positions else None) for d in range(values.ndim))]


def name_additions(graph: Graph, additions: Sequence[Addition], where: dict[Node, str]) -> list[str]:
    """A name for each addition: the module that holds all of it, told apart by the branch's module where it holds two.

    Example:
        ``layer1.0`` in a ResNet; ``blocks.0.attn`` and ``blocks.0.mlp`` in a transformer.
    """
    paths = [common_path(graph, addition, where) for addition in additions]
    counts = Counter(paths)
    named = [
        path if counts[path] == 1 else ".".join(filter(None, [path, main_child(graph, addition, where, path)]))
        for path, addition in zip(paths, additions, strict=True)
    ]
    repeated, seen = Counter(named), Counter[str]()
    result = []
    for name in named:
        seen[name] += 1
        label = name or "addition"
        result.append(label if repeated[name] == 1 else f"{label}#{seen[name]}")
    return result


def common_path(graph: Graph, addition: Addition, where: dict[Node, str]) -> str:
    """The innermost module whose forward pass holds the addition and everything on both ways to it."""
    places = [addition.node, *addition.branch, *addition.shortcut]
    paths = [where[graph.nodes[place]].split(".") for place in places if graph.nodes[place] in where]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def main_child(graph: Graph, addition: Addition, where: dict[Node, str], path: str) -> str:
    """The part of the module that holds most of the branch's weights."""
    depth = len(path.split(".")) if path else 0
    places = [where.get(graph.nodes[place], "") for place in addition.branch if graph.is_weighted(place)]
    children = Counter(parts[depth] for place in places if len(parts := place.split(".")) > depth and parts[depth])
    return children.most_common(1)[0][0] if children else ""
