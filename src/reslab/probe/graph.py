"""Finds the residual additions of a network in the autograd graph that its forward pass left behind.

Nothing is asked of the model's code: an addition counts as residual if both operands come from one tensor, the fork,
and one of them has gone through weights. The fork is the addition's immediate dominator in the flow from the input to
the loss. All walks are loops, since a graph of a thousand layers is deeper than Python's stack.

Reference:
    Cooper, Harvey and Kennedy 2001, A Simple, Fast Dominance Algorithm; a graph without cycles takes one pass.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

ShortcutKind = Literal["identity", "projection", "zero_pad", "pool", "scaled", "gated", "other"]
Side = Literal["shortcut", "branch", "other"]
Edge: TypeAlias = tuple[int, int]
"""A consumer's place in the graph, and which of its inputs; the gradient that it sends back there is of one edge."""

WEIGHTED = re.compile(
    r"Conv|Addmm|AddMm|^MmBackward|Bmm|Baddbmm|^Linear|^Addmv|^MvBackward|Rnn|ScaledDotProduct|Einsum"
)
"""Names of nodes that multiply by weights, or by what attention made of them."""
TRANSPARENT = re.compile(
    r"View|Reshape|Permute|Transpose|^TBackward|Clone|Alias|Squeeze|ToCopy|Contiguous|Expand|Detach"
)
"""Names of nodes that hand every value on as it is."""
ADDITION = re.compile(r"^(Add|Sub|Addcmul)Backward")


@dataclass(frozen=True)
class Addition:
    """A residual addition as it was executed; nodes are named by their place in ``Graph.nodes``.

    Args:
        node: the addition.
        fork: the node whose output both operands come from.
        output: which of the fork's outputs that is.
        kind: what the shortcut does: nothing (``identity``), weights (``projection``), padding, pooling, a factor
            (``scaled``), a factor that the branch has a part in (``gated``), or something else.
        edges: side to the edges by which the fork's tensor is used there: in the shortcut only, in the branch only, in
            both or elsewhere (``other``).
        shortcut: nodes between fork and addition on the shortcut's way.
        branch: nodes between fork and addition on the branch's way.
        operand: which input of the addition is the branch's.
        shape: of the sum.
    """

    node: int
    fork: int
    output: int
    kind: ShortcutKind
    edges: dict[Side, list[Edge]]
    shortcut: frozenset[int]
    branch: frozenset[int]
    operand: int
    shape: tuple[int, ...]


class Graph:
    """The part of an autograd graph that lies between the input and the loss.

    Args:
        loss: node that the backward pass starts at.
        sources: nodes that stand for the input: those that accumulate its gradient.

    Example:
        >>> import torch
        >>> x, weight = torch.ones(2, 3, requires_grad=True), torch.ones(3, 3, requires_grad=True)
        >>> y = x + x @ weight
        >>> graph = Graph(y.sum().grad_fn, [torch.autograd.graph.get_gradient_edge(x).node])
        >>> [addition.kind for addition in graph.additions()]
        ['identity']
    """

    def __init__(self, loss: Node, sources: Iterable[Node]) -> None:
        self.nodes = in_order(loss)
        self.names = [node.name() for node in self.nodes]
        self.place = {node: index for index, node in enumerate(self.nodes)}
        self.sources = frozenset(self.place[node] for node in sources if node in self.place)
        # inputs of every node that come from the data: (place, output of that node, which input); others are weights
        self.inputs: list[list[tuple[int, int, int]]] = []
        self.rank: list[int] = []
        """Of every node: the largest rank of a parameter that reaches it past the data."""
        self.is_data: list[bool] = []
        for index, node in enumerate(self.nodes):
            before = [(self.place[n], output, i) for i, (n, output) in enumerate(node.next_functions) if n is not None]
            mine = [found for found in before if self.is_data[found[0]]]
            self.inputs.append(mine)
            self.is_data.append(bool(mine) or index in self.sources)
            own = 0 if index in self.sources else rank_of(node)
            self.rank.append(max([own, *(self.rank[p] for p, _, _ in before if not self.is_data[p])]))
        self.users: list[list[tuple[int, int, int]]] = [[] for _ in self.nodes]
        """Of every node: (consumer, which of its inputs, which output of this node)."""
        for index, inputs in enumerate(self.inputs):
            for parent, output, position in inputs:
                self.users[parent].append((index, position, output))
        self.dominator = self._dominators()

    def _dominators(self) -> list[int]:
        """Immediate dominator of every data node; -1 stands for the input as a whole."""
        dominator = [-1] * len(self.nodes)
        for index, inputs in enumerate(self.inputs):
            if not inputs or index in self.sources:
                continue
            found = inputs[0][0]
            for before, _, _ in inputs[1:]:
                other = before
                while found != other:
                    if found > other:
                        found = dominator[found]
                    else:
                        other = dominator[other]
            dominator[index] = found
        return dominator

    def parameters(self) -> list[Tensor] | None:
        """What a backward pass without ``inputs`` accumulates the gradient of, less the sources.

        None where the graph has functions of somebody's own, such as reentrant checkpointing, which refuse ``inputs``.
        """
        if any(isinstance(node, BackwardCFunction) for node in self.nodes):
            return None
        variables = [
            getattr(node, "variable", None) for place, node in enumerate(self.nodes) if place not in self.sources
        ]
        return [variable for variable in variables if variable is not None]

    def is_weighted(self, index: int) -> bool:
        """Whether a node multiplies by weights; frozen ones leave no trace but the node's name."""
        name = self.names[index]
        return bool(WEIGHTED.search(name)) or (self.rank[index] >= MATRIX and not ADDITION.match(name))

    def additions(self) -> list[Addition]:
        """The residual additions in order of execution: of nested ones the outermost, but for skips over many."""
        found = [self._residual(index) for index, name in enumerate(self.names) if ADDITION.match(name)]
        return outermost([addition for addition in found if addition is not None])

    def spine(self) -> list[int]:
        """Nodes that everything goes through, in order of execution."""
        places, place = list[int](), len(self.nodes) - 1
        while place >= 0:
            places.append(place)
            place = self.dominator[place]
        return places[::-1]

    def between(self, start: int, fork: int) -> frozenset[int]:
        """Nodes on any way from the fork up to ``start``, itself included; none if ``start`` is the fork."""
        seen, waiting = set[int](), [start]
        while waiting:
            index = waiting.pop()
            if index == fork or index in seen:
                continue
            seen.add(index)
            waiting += [before for before, _, _ in self.inputs[index]]
        return frozenset(seen)

    def _residual(self, index: int) -> Addition | None:
        """The addition at this node, if it is residual."""
        inputs, fork, shape = self.inputs[index], self.dominator[index], shape_of(self.nodes[index])
        if len(inputs) != 2 or fork < 0 or len(shape) < 2:
            return None
        sides = [self.between(before, fork) for before, _, _ in inputs]
        outputs = {output for before, output, _ in inputs if before == fork}
        for side in sides:
            outputs |= {output for node in side for before, output, _ in self.inputs[node] if before == fork}
        if len(outputs) != 1:  # two parts of a tensor that was split: no shortcut past the branch
            return None
        weights = [sum(map(self.is_weighted, side)) for side in sides]
        if not any(weights):
            return None
        branch = self._branch(sides, weights)
        shortcut = 1 - branch
        edges = self._edges(index, fork, sides[shortcut], sides[branch], inputs[shortcut], inputs[branch])
        return Addition(
            node=index,
            fork=fork,
            output=outputs.pop(),
            kind=self._kind(sides[shortcut], sides[branch], weighted=bool(weights[shortcut])),
            edges=edges,
            shortcut=sides[shortcut],
            branch=sides[branch],
            operand=inputs[branch][2],
            shape=shape,
        )

    def _branch(self, sides: Sequence[frozenset[int]], weights: Sequence[int]) -> int:
        """Which side is the branch: the one with more weighted nodes, or else with more nodes, or else the second."""
        sizes = [(count, len(side)) for count, side in zip(weights, sides, strict=True)]
        return 0 if sizes[0] > sizes[1] else 1

    def _kind(self, shortcut: frozenset[int], branch: frozenset[int], *, weighted: bool) -> ShortcutKind:
        names = [self.names[index] for index in shortcut if not TRANSPARENT.search(self.names[index])]
        if not names:
            return "identity"
        if shortcut & branch:
            return "gated"
        if weighted:
            return "projection"
        if any(re.search(r"Pad|Cat", name) for name in names):
            return "zero_pad"
        if any(re.search(r"Pool|Mean|Slice|Index", name) for name in names):
            return "pool"
        return "scaled" if all(re.match(r"(Mul|Div)Backward", name) for name in names) else "other"

    def _edges(
        self,
        addition: int,
        fork: int,
        shortcut: frozenset[int],
        branch: frozenset[int],
        shortcut_input: tuple[int, int, int],
        branch_input: tuple[int, int, int],
    ) -> dict[Side, list[Edge]]:
        edges: dict[Side, list[Edge]] = {"shortcut": [], "branch": [], "other": []}
        for consumer, position, _ in self.users[fork]:
            if consumer == addition and position == shortcut_input[2]:
                side: Side = "shortcut"
            elif consumer == addition and position == branch_input[2]:
                side = "branch"
            elif (consumer in shortcut) == (consumer in branch):
                side = "other"
            else:
                side = "shortcut" if consumer in shortcut else "branch"
            edges[side].append((consumer, position))
        return edges


def in_order(loss: Node) -> list[Node]:
    """All nodes that the loss depends on, each after those that it depends on itself."""
    order, seen = list[Node](), set[Node]()
    waiting: list[tuple[Node, bool]] = [(loss, False)]
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(before, False) for before, _ in node.next_functions if before is not None]
    return order


MATRIX = 2
"""Rank of a parameter from which on it is a weight; a bias or a gain has less, in whatever shape."""


def rank_of(node: Node) -> int:
    """Dimensions along which a node's parameter varies; 0 for a node that holds none."""
    variable = getattr(node, "variable", None)
    return 0 if variable is None else sum(size > 1 for size in variable.shape)


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of what a node computed in the forward pass; of its first result, where it has several."""
    return tuple(node._input_metadata[0].shape)


MANY = 3
"""A skip over so many additions one after the other is no block but a long skip, as over the body of EDSR."""


def outermost(additions: Sequence[Addition]) -> list[Addition]:
    """Additions that lie in no other one's branch or shortcut; long skips are opened."""
    additions = sorted(additions, key=lambda addition: addition.node)
    places = [addition.node for addition in additions]
    inside: dict[int, list[Addition]] = {}
    for outer in additions:
        near = additions[bisect_right(places, outer.fork) : bisect_left(places, outer.node)]
        inside[outer.node] = [inner for inner in near if inner.node in outer.branch or inner.node in outer.shortcut]
    long = {outer.node for outer in additions if chain_length(inside[outer.node]) >= MANY}
    hidden = {inner.node for outer in additions if outer.node not in long for inner in inside[outer.node]}
    return [addition for addition in additions if addition.node not in hidden | long]


def chain_length(additions: Sequence[Addition]) -> int:
    """How many of them follow one another, each beginning where or after the one before has ended."""
    length, end = 0, -1
    for addition in sorted(additions, key=lambda addition: addition.node):
        if addition.fork >= end:
            length, end = length + 1, addition.node
    return length
