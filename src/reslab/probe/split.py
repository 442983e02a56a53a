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
from reslab.probe.norms import at_once, dot, sample_norms
from reslab.records import SplitRecord

ACTIVATION = re.compile(r"^(Relu|Gelu|Silu|Elu|Tanh|Sigmoid|LeakyRelu|Hardswish|Hardtanh|Prelu|Mish|Softplus)")
"""Names of nodes that may follow an addition: what they let through is the mask."""


@dataclass
class _Parts:
    """What has arrived of one addition in this backward pass; gradients are let go as soon as they are measured.

    Autograd adds the parts up within one of them, if nobody else holds on to it.

    Args:
        expected: edges that gradients come by.
        sides: what has come so far.
        waiting: edges by which nothing has come yet.
        arriving: gradient at the sum.
        products: of the parts with themselves and one another, in the order of ``_compare``.
        after: square of the gradient behind the mask.
        norms: of the whole, of each sample, (N,).
        square: of the whole.
    """

    expected: int
    sides: dict[Side, Tensor] = field(default_factory=dict)
    waiting: int = field(init=False)
    arriving: Tensor | None = None
    products: list[Tensor | None] | None = None
    after: Tensor | None = None
    norms: Tensor | None = None
    square: Tensor | None = None

    def __post_init__(self) -> None:
        self.waiting = self.expected

    def add(self, side: Side, gradient: Tensor | None) -> None:
        self.waiting -= 1
        if gradient is not None:
            self.sides[side] = self.sides[side] + gradient if side in self.sides else gradient

    def clear(self) -> None:
        """Ready for another pass; what was measured stays."""
        self.sides.clear()
        self.waiting, self.arriving = self.expected, None


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
        >>> round(splitter.read()[0].shortcut_share, 6)
        1.0
    """

    def __init__(self, graph: Graph, additions: Sequence[Addition], *, num_samples: int, check: bool = False) -> None:
        self.num_samples, self.check = num_samples, check
        self.parts = [_Parts(sum(map(len, addition.edges.values()))) for addition in additions]
        self.gaps = [math.nan for _ in additions]
        self.handles: list[Any] = []
        forks = {(addition.fork, addition.output): index for index, addition in enumerate(additions)}
        masks = [mask_after(graph, addition) for addition in additions]
        self.behind = [None if mask is None else forks.get((mask, 0)) for mask in masks]
        """Of every addition: the one that forks off right behind the mask, and has its gradient anyway."""
        for index, addition in enumerate(additions):
            self._hook(index, graph, addition)

    def _hook(self, index: int, graph: Graph, addition: Addition) -> None:
        parts, nodes = self.parts[index], graph.nodes
        for side, edges in addition.edges.items():
            for consumer, position in edges:
                self.handles.append(nodes[consumer].register_hook(self._taker(parts, side, position)))

        def arrive(gradients: tuple[Tensor | None, ...]) -> None:
            parts.arriving = gradients[0]

        def leave(gradients: tuple[Tensor | None, ...]) -> None:
            parts.after = product(gradients[0], gradients[0])

        self.handles.append(nodes[addition.node].register_prehook(arrive))
        if (mask := mask_after(graph, addition)) is not None and self.behind[index] is None:
            self.handles.append(nodes[mask].register_prehook(leave))
        fork = nodes[addition.fork]
        variable = getattr(fork, "variable", None)
        if variable is None:
            self.handles.append(
                fork.register_prehook(lambda gradients: self._finish(index, gradients[addition.output]))
            )
        else:  # the input itself: its hook runs on the gradient before it is accumulated
            self.handles.append(variable.register_hook(lambda gradient: self._finish(index, gradient)))

    def _taker(
        self, parts: _Parts, side: Side, position: int
    ) -> Callable[[Sequence[Tensor | None], Sequence[Tensor | None]], None]:
        def take(grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> None:
            parts.add(side, grad_inputs[position])
            if parts.waiting == 0 and not self.check:
                self._compare(parts)

        return take

    def _compare(self, parts: _Parts) -> None:
        """Sums of products over the batch, still on the device, in the order of ``record_of``."""
        shortcut, branch, other = (parts.sides.get(side) for side in ("shortcut", "branch", "other"))
        square = product(shortcut, shortcut)
        parts.products = [
            square,
            product(branch, branch),
            product(other, other),
            product(shortcut, branch),
            product(shortcut, other),
            product(branch, other),
            square if parts.arriving is shortcut else product(parts.arriving, parts.arriving),
        ]
        parts.clear()

    def _finish(self, index: int, whole: Tensor | None) -> None:
        """All parts have come, and this is their sum."""
        parts = self.parts[index]
        if whole is not None:
            if self.check:
                self.gaps[index] = self._gap(whole, parts)
            if parts.sides:  # an edge has been left out of this pass, or the gap is asked for
                self._compare(parts)
            is_sampled = whole.ndim > 0 and len(whole) == self.num_samples
            parts.norms = sample_norms(whole) if is_sampled else None
            parts.square = dot(whole, whole) if parts.norms is None else torch.dot(parts.norms, parts.norms)
        parts.clear()

    def _gap(self, whole: Tensor, parts: _Parts) -> float:
        missing = whole.double()
        for part in parts.sides.values():
            missing = missing - part.double()
        return over(missing.norm().item(), whole.double().norm().item())

    def read(self) -> list[SplitRecord | None]:
        """A record for each addition; None for one that no gradient has reached."""
        columns = [[parts.square, *(parts.products or [None] * 7), parts.after] for parts in self.parts]
        numbers = iter(at_once([number for column in columns for number in column if number is not None]))
        rows = [[None if number is None else next(numbers) for number in column] for column in columns]
        return [
            self._record(row, spread, after=row[-1] if behind is None else rows[behind][0])
            for row, spread, behind in zip(rows, self._spreads(), self.behind, strict=True)
        ]

    def _record(
        self, row: Sequence[float | None], spread: Sequence[float], *, after: float | None
    ) -> SplitRecord | None:
        if row[0] is None:
            return None
        return record_of([number or 0.0 for number in row[:-1]], spread, after=after, num_samples=self.num_samples)

    def _spreads(self) -> list[Sequence[float]]:
        """Of each addition: norms that a tenth of the samples stay below, and above; NaN where they aren't known."""
        sampled = [parts.norms.cpu() for parts in self.parts if parts.norms is not None]
        tenths = torch.tensor([0.1, 0.9], dtype=torch.float64)
        found = iter(torch.stack(sampled).quantile(tenths, dim=1).T.tolist() if sampled else [])
        return [(math.nan, math.nan) if parts.norms is None else next(found) for parts in self.parts]

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def mask_after(graph: Graph, addition: Addition) -> int | None:
    """The activation that alone uses the sum, if there is one."""
    users = graph.users[addition.node]
    if len(users) != 1 or not ACTIVATION.match(graph.names[users[0][0]]):
        return None
    return users[0][0]


def product(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """``dot``, where both are there."""
    return None if first is None or second is None else dot(first, second)


def record_of(
    numbers: Sequence[float], spread: Sequence[float], *, after: float | None, num_samples: int
) -> SplitRecord:
    """From sums over the batch to norms, shares and the cosine.

    Args:
        numbers: the square of the whole, and the products of its parts in the order of ``Splitter._compare``.
        spread: norms that a tenth of the samples stay below, and above.
        after: square of the gradient behind the mask, where there is one.
        num_samples: N.
    """
    whole, shortcut, branch, other, shortcut_branch, shortcut_other, branch_other, arriving = numbers

    def norm(square: float) -> float:
        return math.sqrt(square * num_samples)

    shortcut_share = over(shortcut + shortcut_branch + shortcut_other, whole)
    branch_share = over(branch + shortcut_branch + branch_other, whole)
    return SplitRecord(
        grad_norm=norm(whole),
        grad_norm_low=spread[0] * num_samples,
        grad_norm_high=spread[1] * num_samples,
        shortcut_norm=norm(shortcut),
        branch_norm=norm(branch),
        other_norm=norm(other),
        shortcut_share=shortcut_share,
        branch_share=branch_share,
        other_share=1 - shortcut_share - branch_share if other else 0.0,
        cosine=over(shortcut_branch, math.sqrt(shortcut * branch)),
        pass_through=over(arriving, arriving if after is None else after),
        shortcut_gain=math.sqrt(over(shortcut, arriving)),
    )


def over(part: float, whole: float) -> float:
    """A ratio; NaN where there is nothing to compare with."""
    return part / whole if whole else math.nan
