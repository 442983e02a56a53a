"""Watches a forward pass go by: which module each node of the graph belongs to, and what the values were.

Values are reduced as soon as they exist, because a later operation may write over them; what is kept are 0-dim tensors
and short rows, read all at once at the end. Nothing of the model is changed: modules are followed by hooks that torch
keeps for all modules, and operations by a mode of torch's.

Shape letters: N samples, C channels, ``*`` whatever else there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from reslab.probe.graph import ADDITION, WEIGHTED, Addition, Graph

ENOUGH = 2**18
"""Values from which statistics are taken, at most: whole samples, and at least two."""
SATURATED = {"Tanh": 0.97, "Sigmoid": 0.985}
"""Absolute value of tanh, or distance from a half plus a half of a sigmoid, beyond which the slope is below 0.06."""


@dataclass(frozen=True)
class Moments:
    """Statistics of a tensor by channel, averaged over channels.

    Args:
        mean_square: average of the squared channel means.
        variance: average of the channel variances.
    """

    mean_square: float
    variance: float


@dataclass(frozen=True)
class Signal:
    """What an addition adds.

    Args:
        stream: of the sum.
        operands: of both operands, in the order of the operation.
    """

    stream: Moments
    operands: tuple[Moments, Moments]


@dataclass(frozen=True)
class Units:
    """One activation layer, once executed.

    Args:
        module: where.
        kind: such as ``Relu``.
        channels: how many units.
        share: of its channels that were never active, of rectifiers; of its values that are saturated, of others.
    """

    module: str
    kind: str
    channels: int
    share: float


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
        self.names = {id(module): name.replace("_orig_mod.", "") for name, module in model.named_modules()}
        self.stack = [""]
        self.where: dict[Node, str] = {}
        self.channels = 0  # of the last layer with weights
        self.signals: dict[Node, Tensor] = {}
        self.units: list[tuple[str, str, int, Tensor]] = []
        self.responses: list[tuple[str, Tensor]] = []

    @contextmanager
    def following(self) -> Iterator[Trace]:
        """While this is open, whatever is computed is seen."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            with self:
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if (name := self.names.get(id(module))) is not None:
            self.stack.append(name)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if id(module) in self.names and len(self.stack) > 1:
            self.stack.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation and looks at what came of it."""
        before = [self._moments(value) for value in args[:2]] if is_sum(args) else []
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.grad_fn is not None:
            self._note(result, before)
        elif isinstance(result, tuple):
            for part in result:
                if isinstance(part, Tensor) and part.grad_fn is not None:
                    self.where[part.grad_fn] = self.stack[-1]
        return result

    @torch.no_grad()
    def _note(self, result: Tensor, before: Sequence[Tensor]) -> None:
        """One operation's result; ``before`` are the moments of its operands, where it may be an addition."""
        node = result.grad_fn
        assert node is not None, "only results with a gradient are noted"
        if node in self.where:  # a view of an attribute, or a function that hands on its argument
            return
        self.where[node] = self.stack[-1]
        name = node.name()
        if WEIGHTED.search(name) and result.ndim > 1:
            self.channels = result.shape[1] if "Conv" in name else result.shape[-1]
        elif ADDITION.match(name) and before:
            self.signals[node] = torch.stack([self._moments(result), *before])
        elif name.startswith("Relu"):
            highest = result.detach().amax(dim=[d for d in range(result.ndim) if d != self._channel_dim(result)])
            self.units.append((self.stack[-1], "Relu", highest.numel(), (highest <= 0).double().mean()))
        elif (kind := name.split("Backward")[0]) in SATURATED:
            extent = result.detach().abs() if kind == "Tanh" else (result.detach() - 0.5).abs() + 0.5
            self.units.append((self.stack[-1], kind, extent.shape[-1], (extent > SATURATED[kind]).double().mean()))
        elif "Norm" in name:
            self.responses.append((self.stack[-1], few(result).double().std()))

    @torch.no_grad()
    def _moments(self, values: Tensor) -> Tensor:
        """Averages over channels of the squared mean and of the variance, (2,)."""
        sample = few(values).double()
        dim = self._channel_dim(sample)
        variance, mean = torch.var_mean(sample, dim=[d for d in range(sample.ndim) if d != dim], correction=0)
        return torch.stack([mean.square().mean(), variance.mean()])

    def _channel_dim(self, values: Tensor) -> int:
        """The dimension as long as the last layer with weights has channels: the second, or else the last."""
        return 1 if values.ndim > 1 and values.shape[1] == self.channels else values.ndim - 1

    def signal_of(self, node: Node) -> Signal | None:
        """The values at an addition; None if it went by unseen, as in compiled code."""
        if node not in self.signals:
            return None
        stream, first, second = (Moments(*row) for row in self.signals[node].tolist())
        return Signal(stream, (first, second))

    def layers(self) -> list[Units]:
        """Activation layers in order of execution."""
        shares = torch.stack([share for *_, share in self.units]).tolist() if self.units else []
        return [
            Units(name, kind, count, share) for (name, kind, count, _), share in zip(self.units, shares, strict=True)
        ]

    def clear(self) -> None:
        """Lets the graph go."""
        self.where.clear()
        self.signals.clear()


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


def few(values: Tensor) -> Tensor:
    """The first samples, as many as statistics need."""
    values = values.detach()
    return values[: max(2, ENOUGH // max(1, values[0].numel()))] if len(values) > 2 else values


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
