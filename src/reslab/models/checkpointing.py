"""Activation checkpointing of a block: memory for time, with equal gradients and equal running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, whose activations are dropped and computed again in the backward pass.

    Random numbers are replayed, and the second pass leaves the running statistics of batch norms alone: without that
    each step would count twice.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), without_running_statistics(block)

    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return out


@contextmanager
def without_running_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms in training normalise by the batch as ever, but record nothing: their momentum is 0."""
    norms = [part for part in module.modules() if isinstance(part, _NormBase) and part.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
