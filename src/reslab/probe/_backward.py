"""The gradients that go by in a backward pass, measured at the edges of the graph that autograd walks anyway.

At each residual addition the gradient is split exactly. Block: ``y = S(x) + B(x)``, and what follows is ``phi(y)``.
With ``u = dL/dy`` the gradient at ``x`` is ``S'(x)^T u + B'(x)^T u``, plus what came from elsewhere if ``x`` is used
elsewhere too. Nothing is computed twice, and nothing is approximated.

Shape letters: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reslab.models.graph import Addition, Graph, Side, shape_of
from reslab.probe._norms import at_once, dot, sample_norms
from reslab.probe._values import ValueTrace
from reslab.records.diagnosis import LayerFlowRecord, SplitRecord

Gradients = Sequence[Tensor | None]
SIDES: tuple[Side, ...] = ("shortcut", "branch", "other")


class _Arrivals:
    """What has arrived of one addition in this backward pass; gradients are let go as soon as they are measured.

    Autograd adds the parts up within one of them, if nobody else holds on to it.

    Attributes:
        sides: what has come so far, by side.
        waiting: edges by which nothing has come yet.
        arriving: gradient at the sum.
        products: of the parts with themselves and one another, and of ``arriving``; in the order of ``split_record``.
        after: square of the gradient behind the activation that follows the sum.
        norms: of the whole, of each sample, (N,).
        square: of the whole.
        gap: norm of the whole less all parts, over the whole.
    """

    def __init__(self, num_edges: int) -> None:
        self.num_edges = self.waiting = num_edges
        self.sides: dict[Side, Tensor] = {}
        self.arriving: Tensor | None = None
        self.products: list[Tensor | None] = [None] * 7
        self.after: Tensor | None = None
        self.norms: Tensor | None = None
        self.square: Tensor | None = None
        self.gap = math.nan

    def compare(self) -> None:
        """Measures all parts, and is ready for another pass."""
        shortcut, branch, other = (self.sides.get(side) for side in SIDES)
        square = product(shortcut, shortcut)
        self.products = [
            square,
            product(branch, branch),
            product(other, other),
            product(shortcut, branch),
            product(shortcut, other),
            product(branch, other),
            square if self.arriving is shortcut else product(self.arriving, self.arriving),
        ]
        self.clear()

    def clear(self) -> None:
        self.sides.clear()
        self.waiting, self.arriving = self.num_edges, None


class Splitter:
    """Hooks the graph of one forward pass; its backward pass then leaves the numbers.

    Args:
        graph: of the forward pass.
        additions: those to split.
        num_samples: N; gradients of a mean loss are those of one sample's loss over N, which is undone.
        check: also measure in ``gaps`` what the parts don't add up to, over the whole: rounding.
    """

    def __init__(self, graph: Graph, additions: Sequence[Addition], *, num_samples: int, check: bool = False) -> None:
        self.graph, self.num_samples, self.check = graph, num_samples, check
        self.arrivals = [_Arrivals(sum(map(len, addition.edges.values()))) for addition in additions]
        self.handles: list[Any] = []
        forks = {(addition.fork, addition.output): index for index, addition in enumerate(additions)}
        masks = [graph.activation_after(addition) for addition in additions]
        # the addition that forks off right behind the mask has the gradient there anyway
        self.behind = [None if mask is None else forks.get((mask, 0)) for mask in masks]
        for arrivals, addition, mask, behind in zip(self.arrivals, additions, masks, self.behind, strict=True):
            self._hook(arrivals, addition, None if behind is not None else mask)

    @property
    def gaps(self) -> list[float]:
        """Of each addition; NaN without ``check``."""
        return [arrivals.gap for arrivals in self.arrivals]

    def _hook(self, arrivals: _Arrivals, addition: Addition, mask: int | None) -> None:
        nodes = self.graph.nodes
        for side, edges in addition.edges.items():
            for edge in edges:
                taker = partial(self._take, arrivals, side, edge.position)
                self.handles.append(nodes[edge.consumer].register_hook(taker))

        def arrive(gradients: Gradients) -> None:
            arrivals.arriving = gradients[0]

        def leave(gradients: Gradients) -> None:
            arrivals.after = product(gradients[0], gradients[0])

        self.handles.append(nodes[addition.node].register_prehook(arrive))
        if mask is not None:
            self.handles.append(nodes[mask].register_prehook(leave))
        fork = nodes[addition.fork]
        variable = getattr(fork, "variable", None)
        if variable is None:
            self.handles.append(fork.register_prehook(lambda found: self._finish(arrivals, found[addition.output])))
        else:  # the input itself: its hook runs on the gradient before it is accumulated
            self.handles.append(variable.register_hook(partial(self._finish, arrivals)))

    def _take(self, arrivals: _Arrivals, side: Side, position: int, grad_inputs: Gradients, _: Gradients) -> None:
        gradient, sides = grad_inputs[position], arrivals.sides
        arrivals.waiting -= 1
        if gradient is not None:
            sides[side] = sides[side] + gradient if side in sides else gradient
        if arrivals.waiting == 0 and not self.check:
            arrivals.compare()

    def _finish(self, arrivals: _Arrivals, whole: Tensor | None) -> None:
        """All parts have come, and this is their sum."""
        if whole is not None:
            if self.check:
                rest = whole.double() - sum(part.double() for part in arrivals.sides.values())
                arrivals.gap = over(rest.norm().item(), whole.double().norm().item())
            if arrivals.sides:  # an edge has been left out of this pass, or the gap was asked for
                arrivals.compare()
            is_sampled = whole.ndim > 0 and len(whole) == self.num_samples
            arrivals.norms = sample_norms(whole) if is_sampled else None
            arrivals.square = dot(whole, whole) if arrivals.norms is None else torch.dot(arrivals.norms, arrivals.norms)
        arrivals.clear()

    def read(self) -> list[SplitRecord | None]:
        """Return a record for each addition; None for one that no gradient has reached."""
        columns = [[found.square, *found.products, found.after] for found in self.arrivals]
        numbers = iter(at_once([number for column in columns for number in column if number is not None]))
        rows = [[None if number is None else next(numbers) for number in column] for column in columns]
        # norms that a tenth of the samples stay below, and above
        sampled = [found.norms.cpu() for found in self.arrivals if found.norms is not None]
        tenths = torch.tensor([0.1, 0.9], dtype=torch.float64)
        spreads = iter(torch.stack(sampled).quantile(tenths, dim=1).T.tolist() if sampled else [])
        records = list[SplitRecord | None]()
        for found, row, behind in zip(self.arrivals, rows, self.behind, strict=True):
            if row[0] is None:
                records.append(None)
                continue
            spread = (math.nan, math.nan) if found.norms is None else next(spreads)
            after = row[-1] if behind is None else rows[behind][0]
            known = [number or 0.0 for number in row[:-1]]
            records.append(split_record(known, spread, after=after, num_samples=self.num_samples))
        return records

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def product(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """``dot``, where both are there."""
    return None if first is None or second is None else dot(first, second)


def split_record(
    numbers: Sequence[float], spread: Sequence[float], *, after: float | None, num_samples: int
) -> SplitRecord:
    """From sums over the batch to norms, shares and the cosine.

    Args:
        numbers: square of the whole; of shortcut, branch and rest; products of the first two, of the shortcut and of
            the branch with the rest; square of the gradient at the sum.
        spread: norms that a tenth of the samples stay below, and above.
        after: square of the gradient behind the activation that follows, where there is one.
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


class Spine:
    """The layers with weights that everything goes through, and the gradient at the input of each.

    At the input, because the output of a layer before a norm has whatever scale its weights happen to have.

    Args:
        graph: of the forward pass.
        num_samples: N.
    """

    def __init__(self, graph: Graph, *, num_samples: int) -> None:
        self.graph, self.num_samples = graph, num_samples
        self.places = [
            place for place in graph.spine() if graph.is_weighted(place) and len(shape_of(graph.nodes[place])) > 1
        ]
        self.squares: dict[int, Tensor] = {}
        self.handles = [
            graph.nodes[edge.producer].register_prehook(self._taker(place, edge.output))
            for place in self.places
            for edge in graph.inputs[place][:1]
            if edge.producer not in graph.sources
        ]

    def _taker(self, place: int, output: int) -> Callable[[Gradients], None]:
        def take(gradients: Gradients) -> None:
            if (gradient := gradients[output]) is not None:
                self.squares[place] = dot(gradient, gradient) * self.num_samples

        return take

    def read(self, trace: ValueTrace) -> tuple[LayerFlowRecord, ...]:
        """Return a record for each layer; the trace of the forward pass has their names."""
        squares = at_once(list(self.squares.values()))
        norms = {place: math.sqrt(square) for place, square in zip(self.squares, squares, strict=True)}
        nodes = [self.graph.nodes[place] for place in self.places]
        alike = zip(self.places, nodes, trace.likeness_of(nodes), strict=True)
        return tuple(
            LayerFlowRecord(index, trace.where.get(node, ""), shape_of(node), norms.get(place, math.nan), likeness)
            for index, (place, node, likeness) in enumerate(alike)
        )

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
