"""The cut twin: the same network with the same weights, its shortcuts cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from reslab.errors import RequestError
from reslab.probe.cut import Cut, Junction, repeatable, survey
from reslab.probe.inputs import size_of
from reslab.probe.norms import dot
from reslab.probe.reading import Batch, LossFn
from reslab.records import TwinRecord

NO_RECOMPUTING = (
    "The twin of a network that saves its activations by hooks can't be measured: what checkpointing computes again in"
    " the backward pass would have its shortcuts. Switch checkpointing off."
)


def cut_twin(model: nn.Module, batch: Batch, loss_fn: LossFn) -> TwinRecord:
    """Runs the batch through the network with the shortcut of every block cut, and back; in train mode.

    The blocks are those of ``diagnose``, in the same order, and their inputs' gradients are normed as there: per
    sample, as root mean square over the batch. A projection is cut as an identity is. What stays are sums inside of a
    branch and skips over many blocks, which are no blocks of their own. The weights stay what they are: where branches
    start at zero, as with LayerScale or a last gain of zero, the twin of an untrained network hands on nothing, and
    its gradients are zero or nearly so. That says nothing of its depth.

    A network without residual additions is its own twin.

    Args:
        model: any; it is left as it was, bit for bit.
        batch: inputs and targets, as ``diagnose`` takes them.
        loss_fn: outputs and targets to a scalar.

    Raises:
        RequestError: if a shortcut can't be cut, with the reason; if the loss is no scalar or has no graph; if no two
            passes are alike; if activations are computed again in the backward pass.

    Example:
        >>> import reslab
        >>> model, batch = reslab.create_model("resnet8", 3), (torch.randn(4, 3, 16, 16), torch.arange(4) % 3)
        >>> len(cut_twin(model, batch, nn.functional.cross_entropy).grad_norms)
        3
    """
    with repeatable(model, is_training=True):
        whole = survey(model, batch, loss_fn)
    check(whole.junctions)
    without = {junction.call: junction.shortcut for junction in whole.junctions}
    forks = [junction.fork for junction in whole.junctions]
    cut = Cut(whole, without, watched=[fork for fork in forks if fork is not None])
    with repeatable(model, is_training=True), torch.enable_grad():
        loss = without_recomputing(cut, model, batch, loss_fn)
        squares = squared_gradients(loss, [cut.edges.get(fork) if fork else None for fork in forks])
        numbers = torch.stack([loss.detach().double().cpu(), *squares]).tolist()
    return TwinRecord(numbers[0], tuple(math.sqrt(square * size_of(batch[0])) for square in numbers[1:]))


def check(junctions: Sequence[Junction]) -> None:
    """Refuses a network with a shortcut that can't be cut: what is left would be no twin."""
    reasons = [f"{junction.name}: {junction.why_not}" for junction in junctions if junction.why_not]
    if reasons:
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise RequestError(f"Not all shortcuts can be cut. {'; '.join(reasons[:3])}{more}.")


def without_recomputing(cut: Cut, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Tensor:
    """The loss; an error if something is left to be computed again in the backward pass, where nothing is cut."""
    with torch.autograd.graph.disable_saved_tensors_hooks(NO_RECOMPUTING):
        try:
            return cut.loss_of(model, batch, loss_fn)
        except RuntimeError as error:
            if NO_RECOMPUTING in str(error):
                raise RequestError(NO_RECOMPUTING) from error
            raise


def squared_gradients(loss: Tensor, edges: Sequence[GradientEdge | None]) -> list[Tensor]:
    """Squared norm of the loss's gradient at each edge, 0-dim; NaN where none arrives."""
    wanted = dict.fromkeys(edge for edge in edges if edge is not None)
    found = torch.autograd.grad(loss, [*wanted], allow_unused=True) if wanted and loss.requires_grad else ()
    arrived = {edge: dot(grad, grad).cpu() for edge, grad in zip(wanted, found, strict=False) if grad is not None}
    return [arrived[edge] if edge in arrived else torch.tensor(math.nan, dtype=torch.float64) for edge in edges]
