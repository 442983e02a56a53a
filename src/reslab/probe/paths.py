"""Takes the gradient at the first block apart by how many branches it came through on its way.

Every block adds a branch to a shortcut, so a gradient that goes back through n blocks takes 2^n paths at once. Those
with the same number of branches can be followed together: with ``G_k`` for what came through k branches so far, a block
turns it into ``S'^T G_k + B'^T G_(k-1)``. That takes n(n + 1)/2 products with a block instead of 2^n, and is exact.

Reference:
    Veit et al. 2016, arXiv:1605.06431, section 4.3. Deviates: they draw paths at random and count modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from reslab.errors import RequestError
from reslab.models.graph import Graph, Side, dominators
from reslab.probe._backward import Gradients, Splitter
from reslab.probe._forward import Execution, execute, node_of
from reslab.probe._norms import at_once, dot
from reslab.probe.batch import LossOf
from reslab.records.depth import PathRecord
from reslab.untouched import untouched


def path_spectrum(model: nn.Module, loss_of: LossOf, *, max_products: int = 20_000) -> PathRecord:
    """Measure how many branches the gradient at the first block's input went through.

    The whole batch is followed, since norms in train mode tie its samples together; a smaller one costs less. The model
    is read in the mode that it is in, and left as it was, bit for bit. Whatever lies between two blocks, such as an
    activation after the addition, belongs to every path. What goes through a block's shortcut and branch at once, as
    through the gate of a highway network, counts as branch.

    With more blocks than ``max_products`` allow to be followed exactly, ``max_products // n`` neighbouring k are kept
    at each block, the smaller end is dropped, and ``gap`` says what that has cost: above a few tenths, too much.

    Args:
        model: any whose residual additions follow one another, on the batch's device.
        loss_of: runs it up to the loss.
        max_products: of a gradient with the Jacobian of a block; 199 blocks are the most that the default follows
            exactly. On a CPU each costs about as much as the backward pass of a block.

    Raises:
        RequestError: if there are no residual additions, if they don't follow one another, or if no finite gradient
            arrives.

    Example:
        >>> from reslab.probe.batch import BatchLoss
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(4, 4)
        ...     def forward(self, x):
        ...         return x + self.layer(x)
        >>> batch = torch.randn(8, 4), torch.randn(8, 4)
        >>> spectrum = path_spectrum(nn.Sequential(Block(), Block()), BatchLoss(batch, nn.functional.mse_loss))
        >>> len(spectrum.energies)
        3
    """
    if max_products < 1:
        raise RequestError(f"max_products is {max_products}; expected at least 1.")
    with untouched(model), torch.enable_grad():
        execution = execute(model, loss_of)
        check_chain(execution)
        wanted = [*execution.call.leaves, *(p for p in model.parameters() if p.requires_grad)]
        proxy = mean_if_orthogonal(execution, wanted)
        first, parts, whole = follow(Chain(execution), max_products=max_products)
        squares = at_once([dot(part, part) for part in (whole, whole - sum(parts), *parts)])
    if not 0 < squares[0] < torch.inf:
        found = "none, as with a head that begins at zero" if squares[0] == 0 else "one that isn't finite"
        raise RequestError(f"Expected a gradient at the first block's input, got {found}.")
    total = sum(squares[2:])
    energies = [0.0] * first + [square / total for square in squares[2:]]
    energies += [0.0] * (len(execution.additions) + 1 - len(energies))
    reached = list(itertools.accumulate(energies))
    return PathRecord(
        energies=tuple(energies),
        effective=sum(k * energy for k, energy in enumerate(energies)),
        low=next(k for k, fraction in enumerate(reached) if fraction >= 0.05),
        high=next(k for k, fraction in enumerate(reached) if fraction >= 0.95),
        proxy=proxy,
        gap=(squares[1] / squares[0]) ** 0.5,
        num_samples=execution.call.num_samples,
    )


class Chain:
    """Blocks that follow one another, and what one of them makes of a gradient.

    Batched gradients (``is_grads_batched``) can't be had here: torch refuses them for edges of the graph.

    Args:
        execution: whose graph is still whole.
    """

    def __init__(self, execution: Execution) -> None:
        self.nodes, self.additions = execution.graph.nodes, execution.additions
        self.loss = GradientEdge(node_of(execution.loss), 0)
        self.forks = [GradientEdge(self.nodes[addition.fork], addition.output) for addition in self.additions]
        self.sums = [GradientEdge(self.nodes[addition.node], 0) for addition in self.additions]
        self.arrived: dict[Side, Tensor] = {}

    @contextmanager
    def open(self, index: int) -> Iterator[None]:
        """While this is open, the sides of this block are told apart."""

        def take(side: Side, position: int, grad_inputs: Gradients, _: Gradients) -> None:
            if (gradient := grad_inputs[position]) is not None:
                self.arrived[side] = self.arrived[side] + gradient if side in self.arrived else gradient

        handles = [
            self.nodes[edge.consumer].register_hook(
                partial(take, "shortcut" if side == "shortcut" else "branch", edge.position)
            )
            for side, edges in self.additions[index].edges.items()
            for edge in edges
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def through(self, index: int, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradient at a block's sum to the parts at its fork: shortcut and branch. The block is open."""
        self.arrived.clear()
        whole = pulled_back(self.sums[index], self.forks[index], gradient)
        shortcut, branch = self.arrived.get("shortcut"), self.arrived.get("branch")
        return (
            torch.zeros_like(whole) if shortcut is None else shortcut,
            torch.zeros_like(whole) if branch is None else branch,
        )

    def before(self, index: int, gradient: Tensor) -> Tensor:
        """From the gradient at a block's fork to that at the sum of the block before it."""
        if not index or self.forks[index][:2] == self.sums[index - 1][:2]:
            return gradient
        return pulled_back(self.forks[index], self.sums[index - 1], gradient)


def pulled_back(start: GradientEdge, end: GradientEdge, gradient: Tensor | None) -> Tensor:
    """The gradient at one edge of a graph, given that at another one nearer to the loss; the graph is kept."""
    (found,) = torch.autograd.grad([start], [end], [gradient], retain_graph=True)
    return found


def follow(chain: Chain, *, max_products: int) -> tuple[int, list[Tensor], Tensor]:
    """The smallest k that was followed, the gradient at the first fork for it and each one after, and the whole one."""
    count = len(chain.additions)
    width = count + 1 if count * (count + 1) // 2 <= max_products else max(1, max_products // count)
    whole = pulled_back(chain.loss, chain.forks[0], None)
    first, parts = 0, [pulled_back(chain.loss, chain.sums[-1], None)]
    for index in reversed(range(count)):
        with chain.open(index):
            shortcuts, branches = zip(*(chain.through(index, part) for part in parts), strict=True)
        # k branches: through this shortcut after k, or through this branch after k - 1
        both = [shortcut + branch for shortcut, branch in zip(shortcuts[1:], branches[:-1], strict=True)]
        parts = [chain.before(index, part) for part in (shortcuts[0], *both, branches[-1])]
        while len(parts) > width:
            if dot(parts[0], parts[0]) < dot(parts[-1], parts[-1]):
                first, parts = first + 1, parts[1:]
            else:
                parts = parts[:-1]
    return first, parts, whole


def mean_if_orthogonal(execution: Execution, wanted: Sequence[Tensor]) -> float:
    """Mean number of branches, if all parts were at right angles: the sum of the branches' fractions of the energy.

    It takes one backward pass, which leaves no gradient anywhere and keeps the graph.
    """
    splitter = Splitter(execution.graph, execution.additions, num_samples=1)
    try:
        torch.autograd.grad(execution.loss, wanted, retain_graph=True, allow_unused=True)
        splits = splitter.read()
    finally:
        splitter.close()
    total = 0.0
    for split in splits:
        if split is not None:
            branch = split.branch_norm**2 + split.other_norm**2
            both = branch + split.shortcut_norm**2
            total += branch / both if both else 0.0
    return total


def check_chain(execution: Execution) -> None:
    """Refuse blocks that don't follow one another: a path would have no number of branches."""
    if not execution.additions:
        raise RequestError("There are no residual additions: all paths are one, through every layer.")
    must_pass = post_dominated(execution.graph)
    blocks = list(zip(execution.additions, execution.names, strict=True))
    for addition, name in blocks:
        if not must_pass(addition.fork, addition.node):
            raise RequestError(
                f"The blocks are not a chain: what goes into {name} is used elsewhere too, as by a long skip or a"
                " second head. Paths can be counted only where every one leads through the block's own addition."
            )
    for (addition, name), (following, next_name) in itertools.pairwise(blocks):
        if not must_pass(addition.node, following.fork):
            raise RequestError(
                f"The blocks are not a chain: from the sum of {name}, not every path leads through {next_name}. Paths"
                " can be counted only where blocks follow one another."
            )


def post_dominated(graph: Graph) -> Callable[[int, int], bool]:
    """Return whether every path from one node to the loss leads through another; from a node itself it does."""
    last = len(graph.nodes) - 1  # the dominators of the graph read backwards, where node n is number last - n
    users = [[last - edge.consumer for edge in graph.users[place]] for place in reversed(range(last + 1))]
    after = [last - place for place in reversed(dominators(users))]

    def must_pass(start: int, place: int) -> bool:
        while start < place:
            start = after[start]
        return start == place

    return must_pass
