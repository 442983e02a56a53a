"""A model that a probe has looked into is as it was before, bit for bit, also after an exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Puts parameters, buffers, gradients, modes and random numbers back; inside, gradients begin empty.

    A gradient comes back as the very tensor that it was. What a model keeps in attributes of its own, besides
    parameters and buffers, is out of reach.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with untouched(norm):
        ...     out = norm(torch.randn(8, 2))
        >>> norm.num_batches_tracked.item()
        0
    """
    tensors = [*model.parameters(), *model.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({tensor.device.index or 0 for tensor in tensors if tensor.device.type == "cuda"})
    with ExitStack() as stack:
        stack.callback(_put_back, tensors, copies, gradients, modes)
        stack.enter_context(torch.random.fork_rng(devices=devices))
        for parameter, _ in gradients:
            parameter.grad = None
        yield


@torch.no_grad()
def _put_back(
    tensors: list[Tensor],
    copies: list[Tensor],
    gradients: list[tuple[nn.Parameter, Tensor | None]],
    modes: list[tuple[nn.Module, bool]],
) -> None:
    for tensor, copy in zip(tensors, copies, strict=True):
        if not torch.equal(tensor, copy):  # equal bits needn't be written; NaN is never equal, and is written
            tensor.copy_(copy)
    for parameter, gradient in gradients:
        parameter.grad = gradient
    for module, was_training in modes:
        module.training = was_training
