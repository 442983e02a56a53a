"""A network whose samples don't depend on each other: its batch norms keep the statistics of one batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from reslab.probe.inputs import call, with_gradients


@contextmanager
def frozen(model: nn.Module, inputs: Any) -> Iterator[None]:
    """While this is open, the model is in eval mode and its batch norms have the statistics of these inputs.

    No sample depends on another then. A batch norm that is called several times keeps the statistics of its last call;
    one that was in eval mode while the model was in train mode keeps its own. Instance norms take those of each
    sample. Norms of other classes do what they do in eval mode. Only inside of ``untouched``: buffers and modes are
    left changed.

    Args:
        model: whose norms they are.
        inputs: the whole batch.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not (model.training and not module.training)
    ]
    model.eval()
    for module in model.modules():
        if isinstance(module, _InstanceNorm):
            module.train()
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(with_statistics(norm))
        handles = [norm.register_forward_pre_hook(take_statistics, prepend=False) for norm in norms]
        try:
            with torch.no_grad():
                call(model, with_gradients(inputs)[1])
        finally:
            for handle in handles:
                handle.remove()
        yield


@contextmanager
def with_statistics(norm: _BatchNorm) -> Iterator[None]:
    """While this is open, the norm uses the statistics that it is given, even if it keeps none of its own."""
    if norm.running_mean is not None:
        yield
        return
    keeps = norm.track_running_stats
    norm.track_running_stats = True
    try:
        yield
    finally:
        norm.running_mean = norm.running_var = None
        norm.track_running_stats = keeps


@torch.no_grad()
def take_statistics(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Sets a batch norm's statistics to those of what goes into it, (N, C, *): those that train mode divides by."""
    values, mean, variance = arguments[0], norm.running_mean, norm.running_var
    found = torch.var_mean(values, dim=[d for d in range(values.ndim) if d != 1], correction=0)
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        mean.copy_(found[1])
        variance.copy_(found[0])
    else:
        norm.running_var, norm.running_mean = found
