"""The residual additions of a network, found in the autograd graph that its forward pass left behind.

Nothing is asked of the model's code: an addition is residual if both operands come from one tensor, the fork, and one
of them has gone through weights. The fork is the addition's immediate dominator in the flow from the input to the
loss. All walks are loops, since a graph of a thousand layers is deeper than Python's stack.

Reference:
    Cooper, Harvey and Kennedy 2001, A Simple, Fast Dominance Algorithm; a graph without cycles takes one pass.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

ShortcutKind = Literal["identity", "projection", "zero_pad", "pool", "scaled", "gated", "other"]
Side = Literal["shortcut", "branch", "other"]

# names of nodes
WEIGHTED = re.compile(
    r"Conv|Addmm|AddMm|^MmBackward|Bmm|Baddbmm|^Linear|^Addmv|^MvBackward|Rnn|ScaledDotProduct|Einsum"
)
"""Multiply by weights, or by what attention made of them."""
TRANSPARENT = re.compile(
    r"View|Reshape|Permute|Transpose|^TBackward|Clone|Alias|Squeeze|ToCopy|Contiguous|Expand|Detach"
)
"""Pass every value on as it is."""
ADDITION = re.compile(r"^(Add|Sub|Addcmul)Backward")
ACTIVATION = re.compile(r"^(Relu|Gelu|Silu|Elu|Tanh|Sigmoid|LeakyRelu|Hardswish|Hardtanh|Prelu|Mish|Softplus)")

MIN_WEIGHT_RANK = 2
"""Dimensions along which a weight varies, at least; a bias or a gain has fewer, in whatever shape."""
MIN_LONG_SKIP = 3
"""A skip over this many additions one after another is no block but a long skip, as over the body of EDSR."""


class Edge(NamedTuple):
    """One use of a tensor: nodes are identified by their place in ``Graph.nodes``.

    Args:
        producer: the node that made the tensor.
        output: which of its outputs the tensor is.
        consumer: the node that uses it.
        position: which input of the consumer it is; the consumer sends its gradient back there.
    """

    producer: int
    output: int
    consumer: int
    position: int


@dataclass(frozen=True)
class Addition:
    """A residual addition as it was executed; nodes are identified by their place in ``Graph.nodes``.

    Args:
        node: the addition.
        fork: the node whose output both operands come from.
        output: which of the fork's outputs that is.
        kind: what the shortcut does: nothing (``identity``), weights (``projection``), padding, pooling, a factor
            (``scaled``), a factor that depends on the branch (``gated``), or something else.
        edges: side to the uses of the fork's tensor there: in the shortcut only, in the branch only, in both or
            elsewhere (``other``).
        shortcut: nodes between fork and addition on the shortcut.
        branch: nodes between fork and addition on the branch.
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

    Attributes:
        nodes: in order of execution; the last one is the loss.
        names: of the nodes, such as ``ReluBackward0``.
        place: node to its index in ``nodes``.
        inputs: of each node, the edges by which it gets data; those from weights alone are left out.
        users: of each node, the edges by which others use what it made.
        dominator: of each node, the last one before it that everything it gets went through; -1 for the input.

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
        self.sources = tuple(self.place[node] for node in sources if node in self.place)
        self.inputs: list[list[Edge]] = []
        self.users: list[list[Edge]] = [[] for _ in self.nodes]
        self._rank: list[int] = []  # of each node: the largest rank of a parameter that reaches it other than as data
        is_data: list[bool] = []
        for index, node in enumerate(self.nodes):
            edges = [
                Edge(self.place[before], output, index, position)
                for position, (before, output) in enumerate(node.next_functions)
                if before is not None
            ]
            self.inputs.append([edge for edge in edges if is_data[edge.producer]])
            is_data.append(bool(self.inputs[-1]) or index in self.sources)
            own = 0 if index in self.sources else rank_of(node)
            self._rank.append(max([own, *(self._rank[e.producer] for e in edges if not is_data[e.producer])]))
            for edge in self.inputs[-1]:
                self.users[edge.producer].append(edge)
        self.dominator = dominators([[edge.producer for edge in edges] for edges in self.inputs])

    def parameters(self) -> list[Tensor] | None:
        """Return the tensors that a backward pass without ``inputs`` accumulates gradients for, except the sources.

        None where the graph has custom functions, such as reentrant checkpointing, which refuse ``inputs``.
        """
        if any(isinstance(node, BackwardCFunction) for node in self.nodes):
            return None
        found = [getattr(node, "variable", None) for i, node in enumerate(self.nodes) if i not in self.sources]
        return [variable for variable in found if variable is not None]

    def is_weighted(self, index: int) -> bool:
        """Return whether a node multiplies by weights; frozen ones leave no trace but the node's name."""
        name = self.names[index]
        return bool(WEIGHTED.search(name)) or (self._rank[index] >= MIN_WEIGHT_RANK and not ADDITION.match(name))

    def additions(self) -> list[Addition]:
        """Return the residual additions in order of execution: of nested ones the outermost, except for long skips."""
        found = [self._residual(index) for index, name in enumerate(self.names) if ADDITION.match(name)]
        return outermost([addition for addition in found if addition is not None])

    def spine(self) -> list[int]:
        """Return the nodes that everything goes through, in order of execution."""
        places, place = list[int](), len(self.nodes) - 1
        while place >= 0:
            places.append(place)
            place = self.dominator[place]
        return places[::-1]

    def activation_after(self, addition: Addition) -> int | None:
        """Return the activation that is the only user of a sum, if there is one."""
        users = self.users[addition.node]
        return users[0].consumer if len(users) == 1 and ACTIVATION.match(self.names[users[0].consumer]) else None

    def _between(self, start: int, fork: int) -> frozenset[int]:
        """Nodes on any path from the fork up to ``start``, itself included; none if ``start`` is the fork."""
        seen, waiting = set[int](), [start]
        while waiting:
            index = waiting.pop()
            if index != fork and index not in seen:
                seen.add(index)
                waiting += [edge.producer for edge in self.inputs[index]]
        return frozenset(seen)

    def _residual(self, index: int) -> Addition | None:
        """The addition at this node, if it is residual."""
        inputs, fork, shape = self.inputs[index], self.dominator[index], shape_of(self.nodes[index])
        if len(inputs) != 2 or fork < 0 or len(shape) < 2:
            return None
        sides = [self._between(edge.producer, fork) for edge in inputs]
        inside = sides[0] | sides[1] | {index}
        uses = [edge for edge in self.users[fork] if edge.consumer in inside]
        outputs = {edge.output for edge in uses}
        weights = [sum(map(self.is_weighted, side)) for side in sides]
        if len(outputs) != 1 or not any(weights):  # two parts of a tensor that was split are not shortcut and branch
            return None
        # the branch has more weights, or else more operations, or else it is the second operand
        branch = 0 if (weights[0], len(sides[0])) > (weights[1], len(sides[1])) else 1
        shortcut = 1 - branch
        edges: dict[Side, list[Edge]] = {"shortcut": [], "branch": [], "other": []}
        for edge in self.users[fork]:
            on_shortcut, on_branch = (edge == inputs[i] or edge.consumer in sides[i] for i in (shortcut, branch))
            edges["other" if on_shortcut == on_branch else "shortcut" if on_shortcut else "branch"].append(edge)
        return Addition(
            node=index,
            fork=fork,
            output=outputs.pop(),
            kind=self._kind(sides[shortcut], sides[branch], weighted=bool(weights[shortcut])),
            edges=edges,
            shortcut=sides[shortcut],
            branch=sides[branch],
            operand=inputs[branch].position,
            shape=shape,
        )

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


def in_order(loss: Node) -> list[Node]:
    """Return all nodes that the loss depends on, each after those that it depends on itself."""
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


def dominators(inputs: Sequence[Sequence[int]]) -> list[int]:
    """Return of each node the last one that all paths to it lead through; -1 where they have none in common.

    Args:
        inputs: of each node, those before it; each has a smaller number than the node itself.
    """
    found = list[int]()
    for before in inputs:
        meet = before[0] if before else -1
        for other in before[1:]:
            while meet != other:
                if meet > other:
                    meet = found[meet]
                else:
                    other = found[other]
        found.append(meet)
    return found


def rank_of(node: Node) -> int:
    """Dimensions along which a node's parameter varies; 0 for a node that holds none."""
    variable = getattr(node, "variable", None)
    return 0 if variable is None else sum(size > 1 for size in variable.shape)


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of what a node computed in the forward pass: of its first result, where it has several."""
    return tuple(node._input_metadata[0].shape)


def outermost(additions: Sequence[Addition]) -> list[Addition]:
    """Return the additions that lie in no other one's branch or shortcut; long skips are opened."""
    additions = sorted(additions, key=lambda addition: addition.node)
    places = [addition.node for addition in additions]
    inside: dict[int, list[Addition]] = {}
    for outer in additions:
        near = additions[bisect_right(places, outer.fork) : bisect_left(places, outer.node)]
        inside[outer.node] = [inner for inner in near if inner.node in outer.branch or inner.node in outer.shortcut]
    long = {outer.node for outer in additions if chain_length(inside[outer.node]) >= MIN_LONG_SKIP}
    hidden = {inner.node for outer in additions if outer.node not in long for inner in inside[outer.node]}
    return [addition for addition in additions if addition.node not in hidden | long]


def chain_length(additions: Sequence[Addition]) -> int:
    """How many of them follow one another, each beginning where or after the one before has ended."""
    length, end = 0, -1
    for addition in sorted(additions, key=lambda addition: addition.node):
        if addition.fork >= end:
            length, end = length + 1, addition.node
    return length
