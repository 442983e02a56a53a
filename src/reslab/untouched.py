"""Looking into a model leaves no trace: values, gradients, modes and random numbers are put back bit for bit."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module, *, is_training: bool | None = None) -> Iterator[None]:
    """Leaves a model as it was, bit for bit, even after an exception; inside, gradients begin empty.

    A gradient comes back as the very tensor that it was. What a model keeps in attributes of its own, besides
    parameters and buffers, is out of reach. Inside, nothing is in inference mode, and a compiled model runs as it was
    written: compiled code hides its operations.

    Args:
        model: any.
        is_training: the mode that it is put in; None leaves it. A model that is in train mode keeps the parts of it
            that are not.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with untouched(norm):
        ...     out = norm(torch.randn(8, 2))
        >>> norm.num_batches_tracked.item()
        0
    """
    tensors = [*model.parameters(), *model.buffers()]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(same_random_numbers(tensor.device for tensor in tensors))
        stack.enter_context(same_values(tensors))
        stack.enter_context(same_gradients(model))
        stack.enter_context(same_modes(model))
        stack.enter_context(uncompiled())
        if is_training is not None and not (is_training and model.training):
            model.train(is_training)
        yield


@contextmanager
def same_values(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Puts the values of these tensors back."""
    copies = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in copies:
                if not torch.equal(tensor, copy):  # NaN is never equal, and is written
                    tensor.copy_(copy)


@contextmanager
def same_gradients(model: nn.Module) -> Iterator[None]:
    """Lays the gradients aside, and puts the same tensors back."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Puts each module back into train or eval mode, by its flag alone: an overridden ``train`` may do more."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def same_random_numbers(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """The random numbers afterwards are those that would have come without: torch's, and Python's own."""
    state = random.getstate()
    indices = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=indices):
            yield
    finally:
        random.setstate(state)


@contextmanager
def uncompiled() -> Iterator[None]:
    """While this is open, what was compiled runs as it was written.

    Whatever is compiled has loaded torch's compiler. Without it there is nothing to do, and loading it would take
    seconds. What is compiled for the first time inside stays compiled for this time.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
