"""Takes the gradient at the first block apart by how many branches it came through on its way.

Every block adds a branch to a shortcut, so a gradient that goes back through n blocks goes 2^n ways at once. Those
with the same number of branches can be followed together: with ``G_k`` for what came through k branches so far, a block
turns it into ``S'^T G_k + B'^T G_(k-1)``. That takes n(n + 1)/2 products with a block instead of 2^n, and is exact.

Reference:
    Veit et al. 2016, arXiv:1605.06431, section 4.3. Deviates: they draw ways at random and count modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from reslab.errors import RequestError
from reslab.probe.eager import eagerly
from reslab.probe.graph import Addition, Graph, Side
from reslab.probe.inputs import call, mapped, size_of, with_gradients, with_graph
from reslab.probe.norms import dot
from reslab.probe.reading import Batch, LossFn, node_of, sources
from reslab.probe.split import Splitter
from reslab.probe.trace import Trace, name_additions
from reslab.probe.untouched import untouched
from reslab.records import PathRecord, SplitRecord


def path_spectrum(model: nn.Module, batch: Batch, loss_fn: LossFn, *, max_products: int = 20_000) -> PathRecord:
    """How many branches the gradient at the first block's input went through.

    The whole batch is followed, since norms in train mode tie its samples together; a smaller one costs less. The model
    is read in the mode that it is in, and left as it was, bit for bit. Whatever lies between two blocks, such as an
    activation after the addition, belongs to every path. What goes through a block's shortcut and branch at once, as
    through the gate of a highway network, counts as branch.

    With more blocks than ``max_products`` allow to be followed exactly, ``max_products // n`` neighbouring k are kept
    at each block, the smaller end is dropped, and ``gap`` says what that has cost: above a few tenths, too much.

    Args:
        model: any whose residual additions follow one another.
        batch: inputs and targets, on the model's device.
        loss_fn: outputs and targets to a scalar.
        max_products: of a gradient with the Jacobian of a block; 199 blocks are the most that the default follows
            exactly. On a CPU each costs about as much as the backward pass of a block.

    Raises:
        RequestError: if there are no residual additions, if they don't follow one another, or if no finite gradient
            arrives.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(4, 4)
        ...     def forward(self, x):
        ...         return x + self.layer(x)
        >>> model, batch = nn.Sequential(Block(), Block()), (torch.randn(8, 4), torch.randn(8, 4))
        >>> len(path_spectrum(model, batch, nn.functional.mse_loss).energies)
        3
    """
    if max_products < 1:
        raise RequestError(f"max_products is {max_products}; expected at least 1.")
    inputs, targets = batch
    with torch.inference_mode(False), torch.enable_grad(), untouched(model), eagerly():
        leaves, arguments = with_gradients(inputs)
        trace = Trace(model)
        with trace.following():
            loss = loss_fn(call(model, arguments), mapped(targets, with_graph))
        graph = Graph(node_of(loss), sources(leaves, trace))
        trace.complete(graph)
        additions = graph.additions()
        names = name_additions(graph, additions, trace.where)
        trace.clear()
        check_chain(graph, additions, names)
        wanted = [*leaves, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
        proxy = proxy_of(splits_of(graph, additions, loss, wanted))
        return follow(Chain(graph, additions), loss, proxy, num_samples=size_of(inputs), max_products=max_products)


class Chain:
    """Blocks that follow one another, and what one of them makes of a gradient.

    Batched gradients (``is_grads_batched``) are not to be had here: torch refuses them for edges of the graph.

    Args:
        graph: of one forward pass, still whole.
        additions: that follow one another in it.
    """

    def __init__(self, graph: Graph, additions: Sequence[Addition]) -> None:
        self.graph, self.additions = graph, additions
        self.forks = [GradientEdge(graph.nodes[addition.fork], addition.output) for addition in additions]
        self.sums = [GradientEdge(graph.nodes[addition.node], 0) for addition in additions]
        self.arrived: dict[Side, Tensor] = {}

    @contextmanager
    def open(self, index: int) -> Iterator[None]:
        """While this is open, the sides of this block are told apart."""
        handles = [
            self.graph.nodes[consumer].register_hook(self._taker(side, position))
            for side, edges in self.additions[index].edges.items()
            for consumer, position in edges
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _taker(self, side: Side, position: int) -> Callable[[Sequence[Tensor | None], Sequence[Tensor | None]], None]:
        mine: Side = "shortcut" if side == "shortcut" else "branch"

        def take(grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> None:
            gradient = grad_inputs[position]
            if gradient is not None:
                before = self.arrived.get(mine)
                self.arrived[mine] = gradient if before is None else before + gradient

        return take

    def through(self, index: int, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradient at a block's sum to the parts at its fork: shortcut and branch. The block is open."""
        self.arrived.clear()
        whole = product(self.sums[index], self.forks[index], gradient)
        shortcut, branch = self.arrived.get("shortcut"), self.arrived.get("branch")
        return (
            torch.zeros_like(whole) if shortcut is None else shortcut,
            torch.zeros_like(whole) if branch is None else branch,
        )

    def before(self, index: int, gradient: Tensor) -> Tensor:
        """From the gradient at a block's fork to that at the sum of the block before it."""
        if not index or self.forks[index][:2] == self.sums[index - 1][:2]:
            return gradient
        return product(self.forks[index], self.sums[index - 1], gradient)


def product(start: GradientEdge, end: GradientEdge, gradient: Tensor | None) -> Tensor:
    """The gradient at one edge of a graph, given that at another one nearer to the loss; the graph is kept."""
    (found,) = torch.autograd.grad([start], [end], [gradient], retain_graph=True)
    return found


def follow(chain: Chain, loss: Tensor, proxy: float, *, num_samples: int, max_products: int) -> PathRecord:
    """The spectrum; ``proxy`` and ``num_samples`` are noted in the record."""
    count = len(chain.additions)
    width = count + 1 if count * (count + 1) // 2 <= max_products else max(1, max_products // count)
    start = GradientEdge(node_of(loss), 0)
    whole = product(start, chain.forks[0], None)
    first, parts = 0, [product(start, chain.sums[-1], None)]
    for index in reversed(range(count)):
        with chain.open(index):
            sides = [chain.through(index, part) for part in parts]
        parts = [chain.before(index, part) for part in joined(sides)]
        first, parts = narrowed(first, parts, width)
    numbers = torch.stack([dot(part, part).cpu() for part in (whole, whole - sum(parts), *parts)]).tolist()
    if not 0 < numbers[0] < torch.inf:
        found = "none, as with a head that begins at zero" if numbers[0] == 0 else "one that isn't finite"
        raise RequestError(f"Expected a gradient at the first block's input, got {found}.")
    energies = [0.0] * first + numbers[2:]
    energies += [0.0] * (count + 1 - len(energies))
    return record_of(energies, gap=(numbers[1] / numbers[0]) ** 0.5, proxy=proxy, num_samples=num_samples)


def joined(sides: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Parts by number of branches, from the shortcut's and the branch's share of each part behind the block."""
    shortcuts, branches = zip(*sides, strict=True)
    between = [shortcut + branch for shortcut, branch in zip(shortcuts[1:], branches[:-1], strict=True)]
    return [shortcuts[0], *between, branches[-1]]


def narrowed(first: int, parts: list[Tensor], width: int) -> tuple[int, list[Tensor]]:
    """At most so many parts, less whichever end is smaller; ``first`` is the number of branches of the first part."""
    while len(parts) > width:
        if dot(parts[0], parts[0]) < dot(parts[-1], parts[-1]):
            first, parts = first + 1, parts[1:]
        else:
            parts = parts[:-1]
    return first, parts


def record_of(squares: Sequence[float], *, gap: float, proxy: float, num_samples: int) -> PathRecord:
    """From squared norms, in the order of k, to shares and what follows from them."""
    total = sum(squares)
    energies = tuple(square / total for square in squares)
    reached = list(itertools.accumulate(energies))
    return PathRecord(
        energies=energies,
        effective=sum(k * energy for k, energy in enumerate(energies)),
        low=next(k for k, share in enumerate(reached) if share >= 0.05),
        high=next(k for k, share in enumerate(reached) if share >= 0.95),
        proxy=proxy,
        gap=gap,
        num_samples=num_samples,
    )


def splits_of(
    graph: Graph, additions: Sequence[Addition], loss: Tensor, wanted: Sequence[Tensor]
) -> list[SplitRecord | None]:
    """The split at each addition, from one backward pass that leaves no gradient anywhere; the graph is kept."""
    splitter = Splitter(graph, additions, num_samples=1)
    try:
        torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        return splitter.read()
    finally:
        splitter.close()


def proxy_of(splits: Sequence[SplitRecord | None]) -> float:
    """Mean number of branches, if all parts were at right angles: the sum of the branches' shares of the energy."""
    total = 0.0
    for split in splits:
        if split is not None:
            branch = split.branch_norm**2 + split.other_norm**2
            both = branch + split.shortcut_norm**2
            total += branch / both if both else 0.0
    return total


def check_chain(graph: Graph, additions: Sequence[Addition], names: Sequence[str]) -> None:
    """Refuses blocks that don't follow one another: a path would have no number of branches."""
    if not additions:
        raise RequestError("There are no residual additions: all paths are one, through every layer.")
    after = post_dominators(graph)
    for addition, name in zip(additions, names, strict=True):
        if not is_passed(after, addition.fork, addition.node):
            raise RequestError(
                f"The blocks are not a chain: what goes into {name} is used elsewhere too, as by a long skip or a"
                " second head. Paths can be counted only where every way leads through the block's own addition."
            )
    for (addition, name), (following, next_name) in itertools.pairwise(zip(additions, names, strict=True)):
        if not is_passed(after, addition.node, following.fork):
            raise RequestError(
                f"The blocks are not a chain: from the sum of {name}, not every way leads through {next_name}. Paths"
                " can be counted only where blocks follow one another."
            )


def post_dominators(graph: Graph) -> list[int]:
    """Of every node: the nearest later one that every way to the loss leads through."""
    last = len(graph.nodes) - 1
    after = [last] * len(graph.nodes)
    for index in reversed(range(last)):
        users = [consumer for consumer, _, _ in graph.users[index]]
        found = users[0] if users else last
        for other in users[1:]:
            while found != other:
                if found < other:
                    found = after[found]
                else:
                    other = after[other]
        after[index] = found
    return after


def is_passed(after: Sequence[int], start: int, place: int) -> bool:
    """Whether every way from one node to the loss leads through another; from a node itself it does."""
    while start < place:
        start = after[start]
    return start == place
