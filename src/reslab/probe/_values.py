"""The values that go by in a forward pass, reduced as soon as they exist: a later operation may write over them.

What is kept are 0-dim tensors and short rows, read from the device all at once at the end.

Shape letters: N samples, C channels, ``*`` whatever else there is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from reslab.models.graph import ADDITION, WEIGHTED
from reslab.models.trace import Trace
from reslab.probe._norms import at_once, flat
from reslab.records.diagnosis import MomentsRecord

SAMPLE_SIZE = 2**15
"""Values from which statistics are taken, more or less."""
NUM_COMPARED, NUM_POSITIONS = 8, 2048
"""Samples, and values of each, from which their likeness is taken, at most."""
SUM = re.compile("add|sub")
"""Names of functions, ``__iadd__`` and ``addcmul`` too, whose operands are looked at before they are run."""
SATURATED = {"Tanh": 0.97, "Sigmoid": 0.985}
"""Absolute value of tanh, or distance from a half plus a half of a sigmoid, beyond which the slope is below 0.06."""
ZERO = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Moments:
    """What a ``MomentsRecord`` is made of.

    Args:
        means: sum over channels of the squared mean, 0-dim.
        squares: sum over all values of the square, 0-dim.
        num_channels: C.
        count: values of each channel.
    """

    means: Tensor
    squares: Tensor
    num_channels: int
    count: int

    def record(self, means: float, squares: float) -> MomentsRecord:
        """Return the averages over channels, once both sums are read."""
        if not self.num_channels * self.count:
            return MomentsRecord(math.nan, math.nan)
        mean_square = means / self.num_channels
        variance = squares / (self.num_channels * self.count) - mean_square
        return MomentsRecord(mean_square, max(0.0, variance) if math.isfinite(variance) else variance)


@dataclass(frozen=True)
class Activation:
    """One activation, once executed; ``share`` is that of dead channels or of saturated values, 0-dim."""

    node: Node
    name: str
    kind: str
    num_channels: int
    num_positions: int
    share: Tensor


class ValueTrace(Trace):
    """Follows a forward pass, and reduces what is computed.

    Attributes:
        activations: in order of execution.
        responses: name and standard deviation of each norm's output.
        num_batch_norms: that took their statistics from the batch.
        in_fp16: whether some operation computed in it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.activations: list[Activation] = []
        self.responses: list[tuple[str, Tensor]] = []
        self.num_batch_norms = 0
        self.in_fp16 = False
        self._num_channels = 0  # of the last layer with weights
        self._sums: dict[Node, list[Moments]] = {}  # of an addition's operands, and of its result
        self._products: dict[Node, Tensor] = {}  # of the samples with one another, behind layers with weights

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = [self._moments(value) for value in args[:2]] if SUM.search(func.__name__) and is_sum(args) else []
        result = func(*args, **(kwargs or {}))
        node = result.grad_fn if isinstance(result, Tensor) else None
        is_new = node is not None and node not in self.where
        self.note(result)
        if node is not None and is_new:
            self._reduce(node, result, before)
        return result

    @torch.no_grad()
    def _reduce(self, node: Node, result: Tensor, before: list[Moments]) -> None:
        """One operation's result; ``before`` are its operands, where it may be a residual addition."""
        name, where = node.name(), self.running[-1]
        self.in_fp16 |= result.dtype == torch.float16
        if WEIGHTED.search(name) and result.ndim > 1:
            self._num_channels = result.shape[1] if "Conv" in name else result.shape[-1]
            self._products[node] = products(result)
        elif ADDITION.match(name) and before:
            self._sums[node] = [*before, self._moments(result)]
        elif (kind := name.split("Backward")[0]) == "Relu" or kind in SATURATED:
            dim = self._channel_dim(result)
            values, size = result.detach(), result.shape[dim]
            share = dead_share(values, dim) if kind == "Relu" else saturated_share(values, kind)
            self.activations.append(Activation(node, where, kind, size, values.numel() // max(1, size), share))
        elif "Norm" in name:
            self.num_batch_norms += "BatchNorm" in name and getattr(node, "_saved_training", False)
            self.responses.append((where, some_of(result, self._channel_dim(result)).float().std()))

    @torch.no_grad()
    def _moments(self, values: Tensor) -> Moments:
        dim = self._channel_dim(values)
        sample = some_of(values, dim).float()
        if dim == 1 and sample.ndim > 2:  # along the row of each channel, which is far faster than across
            means = sample.flatten(2).mean(dim=(0, 2))
        else:
            means = sample.flatten(0, -2).mean(dim=0)
        squares = torch.dot(*flat(sample, sample))
        return Moments(torch.dot(means, means), squares, len(means), sample.numel() // max(1, len(means)))

    def _channel_dim(self, values: Tensor) -> int:
        """The dimension as long as the last layer with weights has channels: the second, or else the last."""
        return 1 if values.ndim > 1 and values.shape[1] == self._num_channels else values.ndim - 1

    def moments_of(self, nodes: Sequence[Node]) -> list[tuple[MomentsRecord, ...] | None]:
        """Return moments of both operands and of the sum; None where they were not seen, as in compiled code."""
        seen = [moments for node in nodes for moments in self._sums.get(node, [])]
        numbers = iter(at_once([number for moments in seen for number in (moments.means, moments.squares)]))
        return [
            tuple(moments.record(next(numbers), next(numbers)) for moments in self._sums[node])
            if node in self._sums
            else None
            for node in nodes
        ]

    def likeness_of(self, nodes: Sequence[Node]) -> list[float]:
        """Return the mean cosine between two samples' values at each node; NaN at one that was not seen."""
        seen = [node for node in nodes if node in self._products]
        known = dict(zip(seen, at_once([likeness(self._products[node]) for node in seen]), strict=True))
        return [known.get(node, math.nan) for node in nodes]

    def clear(self) -> None:
        """Let the graph go."""
        for found in (self.where, self.activations, self._sums, self._products):
            found.clear()


def is_sum(args: Sequence[Any]) -> bool:
    """Whether these may be the operands of a residual addition."""
    if len(args) < 2 or not all(isinstance(value, Tensor) for value in args[:2]):
        return False
    first, second = args[:2]
    is_alike = first.ndim > 1 and first.shape == second.shape and first.is_floating_point()
    return bool(is_alike and first.requires_grad and second.requires_grad)


def products(values: Tensor) -> Tensor:
    """Products of the first samples with one another, from some of their values: (N, *) -> (n, n)."""
    rows = values.detach()[:NUM_COMPARED].flatten(1)  # (N, *) -> (n, D)
    rows = rows[:, :: max(1, rows.shape[1] // NUM_POSITIONS)].float()
    return rows @ rows.T


def likeness(products: Tensor) -> Tensor:
    """Mean cosine between two samples, 0-dim, from their products (n, n); NaN for a single one."""
    count, lengths = len(products), products.diagonal().sqrt().clamp_min(1e-12)
    cosines = products / (lengths * lengths[:, None])
    return (cosines.sum() - cosines.trace()) / (count * (count - 1) or math.nan)


def dead_share(values: Tensor, dim: int) -> Tensor:
    """Fraction of the channels without a value above zero, 0-dim.

    The CPU looks at some samples first: mostly each channel has a value above zero there.
    """
    others = [d for d in range(values.ndim) if d != dim % values.ndim]
    if values.device.type == "cpu" and some_of(values, dim).amax(dim=others).amin().item() > 0:
        return ZERO
    return (values.amax(dim=others) <= 0).double().mean()


def saturated_share(values: Tensor, kind: str) -> Tensor:
    """Fraction of the values where the activation is flat, 0-dim."""
    extent = values.abs() if kind == "Tanh" else (values - 0.5).abs() + 0.5
    return (extent > SATURATED[kind]).double().mean()


def some_of(values: Tensor, dim: int) -> Tensor:
    """A part with all channels: the first samples, at least two, and of large ones every few positions.

    Args:
        values: (N, *) with the channels somewhere.
        dim: where the channels are.
    """
    values = values.detach()
    size = max(1, values.numel() // max(1, len(values)))
    values = values[: max(2, SAMPLE_SIZE // size)]
    positions = [d for d in range(1, values.ndim) if d != dim % values.ndim]
    if values.numel() <= 2 * SAMPLE_SIZE or not positions:
        return values
    stride = math.ceil((values.numel() / SAMPLE_SIZE) ** (1 / len(positions)))
    return values[tuple(slice(None, None, stride if d in positions else None) for d in range(values.ndim))]
