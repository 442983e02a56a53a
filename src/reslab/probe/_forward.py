"""One forward pass, and the autograd graph that it left behind: what every probe begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from reslab.errors import RequestError
from reslab.models.graph import Addition, Graph
from reslab.models.trace import Trace
from reslab.probe.batch import LossOf, ModelCall, check_loss


@dataclass(frozen=True)
class Execution:
    """A forward pass as its graph shows it.

    Args:
        loss: the scalar that the backward pass starts at.
        call: of the model.
        graph: from the inputs to the loss.
        additions: its residual additions, in order of execution.
        names: of the additions.
    """

    loss: Tensor
    call: ModelCall
    graph: Graph
    additions: Sequence[Addition]
    names: Sequence[str]


def execute(model: nn.Module, loss_of: LossOf, *, trace: Trace | None = None) -> Execution:
    """Run the model up to the loss, in the mode that it is in.

    Raises:
        RequestError: if the loss isn't a scalar, or has no graph.
    """
    trace, seen = trace or Trace(model), ModelCall()
    with seen.hooked(model), trace.following():
        loss = loss_of(model)
    return execution_of(loss, seen, trace)


def execution_of(loss: Tensor, seen: ModelCall, trace: Trace) -> Execution:
    """Find the residual additions of a pass that has been followed."""
    graph = Graph(node_of(loss), sources(seen.leaves, trace))
    trace.complete(graph)
    additions = graph.additions()
    return Execution(loss, seen, graph, additions, trace.names_of(graph, additions))


def node_of(loss: Any) -> Node:
    """Return where the backward pass of a loss begins."""
    node = check_loss(loss).grad_fn
    if node is None:
        raise RequestError(
            "The loss has no graph to go back through: it was computed without gradients (no_grad, detach, .item()), or"
            " nothing in the model asks for them."
        )
    return node


def sources(leaves: Sequence[Tensor], trace: Trace) -> list[Node]:
    """Nodes that stand for the input: the leaves', or the embeddings' where no input is a floating-point tensor."""
    if leaves:
        return [get_gradient_edge(leaf).node for leaf in leaves]
    return [node for node in trace.where if node.name().startswith("Embedding")]
