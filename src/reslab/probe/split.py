"""Splits the gradient at each residual addition into what came through the shortcut and what came through the branch.

Block: ``y = S(x) + B(x)``, and what follows is ``phi(y)``. With ``u = dL/dy`` the gradient at ``x`` is exactly
``S'(x)^T u + B'(x)^T u``, plus what came from elsewhere if ``x`` is used elsewhere too. Each part is read from the
edges of the graph that autograd walks anyway: nothing is computed twice, and nothing is approximated.

Shape letters: N samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reslab.probe.graph import Addition, Graph, Side
from reslab.records import SplitRecord

ACTIVATION = re.compile(r"^(Relu|Gelu|Silu|Elu|Tanh|Sigmoid|LeakyRelu|Hardswish|Hardtanh|Prelu|Mish|Softplus)")
"""Names of nodes that may follow an addition: what they let through is the mask."""


@dataclass
class _Parts:
    """What has arrived of one addition in this backward pass."""

    sides: dict[Side, Tensor] = field(default_factory=dict)
    arriving: Tensor | None = None
    after: Tensor | None = None

    def add(self, side: Side, gradient: Tensor | None) -> None:
        if gradient is not None:
            self.sides[side] = self.sides[side] + gradient if side in self.sides else gradient


class Splitter:
    """Hooks the graph of one forward pass; its backward pass then leaves the numbers.

    Args:
        graph: of the forward pass.
        additions: those to split.
        num_samples: N; gradients of a mean loss are those of one sample's loss over N, which is undone.
        check: also keep in ``gaps`` the norm of the whole less all parts, over the whole, of each addition: rounding.

    Example:
        >>> x, weight = torch.ones(2, 3, requires_grad=True), torch.zeros(3, 3, requires_grad=True)
        >>> y = x + x @ weight
        >>> graph = Graph(y.grad_fn, [torch.autograd.graph.get_gradient_edge(x).node])
        >>> splitter = Splitter(graph, graph.additions(), num_samples=2)
        >>> y.mean().backward()
        >>> splitter.read()[0].shortcut_share
        1.0
    """

    def __init__(self, graph: Graph, additions: Sequence[Addition], *, num_samples: int, check: bool = False) -> None:
        self.num_samples, self.check = num_samples, check
        self.parts = [_Parts() for _ in additions]
        self.rows: list[Tensor | None] = [None for _ in additions]
        self.gaps = [math.nan for _ in additions]
        self.handles: list[Any] = []
        for index, addition in enumerate(additions):
            self._hook(index, graph, addition)

    def _hook(self, index: int, graph: Graph, addition: Addition) -> None:
        parts, nodes = self.parts[index], graph.nodes
        for side, edges in addition.edges.items():
            for consumer, position in edges:
                self.handles.append(nodes[consumer].register_hook(_taker(parts, side, position)))

        def arrive(gradients: tuple[Tensor | None, ...]) -> None:
            parts.arriving = gradients[0]

        def leave(gradients: tuple[Tensor | None, ...]) -> None:
            parts.after = gradients[0]

        def finish(gradients: tuple[Tensor | None, ...]) -> None:
            whole = gradients[addition.output]
            if whole is not None:
                self.rows[index] = self._measure(whole, parts)
                if self.check:
                    self.gaps[index] = self._gap(whole, parts)
            parts.sides.clear()
            parts.arriving = parts.after = None

        self.handles.append(nodes[addition.node].register_prehook(arrive))
        if (mask := mask_after(graph, addition)) is not None:
            self.handles.append(nodes[mask].register_prehook(leave))
        fork = nodes[addition.fork]
        variable = getattr(fork, "variable", None)
        if variable is None:
            self.handles.append(fork.register_prehook(finish))
        else:  # the input itself: its hook runs on the gradient before it is accumulated
            self.handles.append(variable.register_hook(lambda gradient: finish((gradient,))))

    def _measure(self, whole: Tensor, parts: _Parts) -> Tensor:
        """Sums over the batch of squares and products, still on the device, in the order of ``record_of``."""
        shortcut, branch, other = (parts.sides.get(side) for side in ("shortcut", "branch", "other"))
        square, both = dot(shortcut, shortcut), dot(shortcut, branch)
        arriving = square if parts.arriving is shortcut else dot(parts.arriving, parts.arriving)
        found = [
            dot(whole, whole),
            square,
            dot(branch, branch),
            dot(other, other),
            both,
            square + both if other is None else dot(shortcut, whole),
            dot(branch, whole),
            arriving,
            arriving if parts.after is None else dot(parts.after, parts.after),
            *self._spread(whole),
        ]
        return torch.stack([number.to(whole.device) for number in found])

    def _spread(self, whole: Tensor) -> Tensor:
        """Squares of the norms that a tenth of the samples stay below, and above, (2,); a sample's share of the sum."""
        if len(whole) != self.num_samples:
            return torch.full((2,), math.nan, dtype=torch.float64, device=whole.device)
        norms: Tensor = torch.linalg.vector_norm(whole.flatten(1), dim=1).double()  # (N, *) -> (N)
        return norms.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64, device=whole.device)).square()

    def _gap(self, whole: Tensor, parts: _Parts) -> float:
        missing = whole.double()
        for part in parts.sides.values():
            missing = missing - part.double()
        return over(missing.norm().item(), whole.double().norm().item())

    def read(self) -> list[SplitRecord | None]:
        """A record for each addition; None for one that no gradient has reached."""
        found = [row for row in self.rows if row is not None]
        numbers = iter(torch.stack(found).tolist() if found else [])
        return [None if row is None else record_of(next(numbers), self.num_samples) for row in self.rows]

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def _taker(parts: _Parts, side: Side, position: int) -> Callable[[Sequence[Any], Sequence[Any]], None]:
    def take(grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> None:
        parts.add(side, grad_inputs[position])

    return take


def mask_after(graph: Graph, addition: Addition) -> int | None:
    """The activation that alone uses the sum, if there is one."""
    users = graph.users[addition.node]
    if len(users) != 1 or not ACTIVATION.match(graph.names[users[0][0]]):
        return None
    return users[0][0]


TINY = 1e-20
"""Sums of squares below it are taken again in double precision: single precision would round them to 0."""
NONE = torch.zeros((), dtype=torch.float64)


def dot(first: Tensor | None, second: Tensor | None) -> Tensor:
    """Sum of products, 0-dim, in double precision; 0 where one of the two is absent.

    The CPU sums in single precision what is in single precision, since that reads each value once.
    """
    if first is None or second is None:
        return NONE
    if first.device.type == "cpu":
        total = torch.dot(*flat(first.float(), second.float())) if first.dtype != torch.float64 else NONE
        if total.abs() > TINY:
            return total.double()
    return torch.dot(*flat(first.double(), second.double()))


def flat(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both as vectors in one order: that of memory, where it is the same, without a copy."""
    is_dense = first.is_contiguous() or (first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last))
    if is_dense and first.stride() == second.stride():
        return first.as_strided((first.numel(),), (1,)), second.as_strided((second.numel(),), (1,))
    return first.reshape(-1), second.reshape(-1)


def record_of(numbers: Sequence[float], num_samples: int) -> SplitRecord:
    """From sums over the batch to norms, shares and the cosine."""
    whole, shortcut, branch, other, both, shortcut_whole, branch_whole, arriving, after, low, high = numbers

    def norm(square: float) -> float:
        return math.sqrt(square * num_samples)

    shortcut_share, branch_share = over(shortcut_whole, whole), over(branch_whole, whole)
    return SplitRecord(
        grad_norm=norm(whole),
        grad_norm_low=math.sqrt(low) * num_samples,
        grad_norm_high=math.sqrt(high) * num_samples,
        shortcut_norm=norm(shortcut),
        branch_norm=norm(branch),
        other_norm=norm(other),
        shortcut_share=shortcut_share,
        branch_share=branch_share,
        other_share=1 - shortcut_share - branch_share if other else 0.0,
        cosine=over(both, math.sqrt(shortcut * branch)),
        pass_through=over(arriving, after),
        shortcut_gain=math.sqrt(over(shortcut, arriving)),
    )


def over(part: float, whole: float) -> float:
    """A ratio; NaN where there is nothing to compare with."""
    return part / whole if whole else math.nan
