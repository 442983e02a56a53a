"""Trying a model leaves no trace: values, gradients, modes, optimiser and random numbers are put back bit for bit."""

from __future__ import annotations

import copy
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module, *, is_training: bool | None = None) -> Iterator[None]:
    """Leave a model as it was, for a look inside: as ``unchanged``, and nothing is compiled or in inference mode.

    Compiled code hides its operations: a compiled model runs as it was written.

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
    with torch.inference_mode(False), unchanged(model), uncompiled():
        if is_training is not None and not (is_training and model.training):
            model.train(is_training)
        yield


@contextmanager
def unchanged(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    """Put a model back as it was, bit for bit, even after an exception; inside, gradients begin empty.

    Parameters, buffers, gradients (the very tensors), modes, the optimiser's state and groups, random numbers and the
    number of threads. What a model keeps in attributes of its own is out of reach.
    """
    tensors = [*model.parameters(), *model.buffers()]
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers(tensor.device for tensor in tensors))
        stack.enter_context(same_values(tensors))
        stack.enter_context(same_buffers(model))
        stack.enter_context(same_gradients(model))
        stack.enter_context(same_modes(model))
        if optimizer is not None:
            stack.enter_context(same_optimizer(optimizer))
        yield


@contextmanager
def same_values(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Put the values of these tensors back."""
    copies = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in copies:
                if not torch.equal(tensor, before):  # NaN is never equal, and is written
                    tensor.copy_(before)


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Put back the very tensors that modules had as buffers: some replace them instead of writing into them."""
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, before in buffers:
            module._buffers.update(before)


@contextmanager
def same_gradients(model: nn.Module) -> Iterator[None]:
    """Lay the gradients aside, and put the same tensors back."""
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
    """Put each module back into train or eval mode, by its flag alone: an overridden ``train`` may do more."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def same_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put an optimiser's state and groups back; inside, its state is a copy."""
    state, groups = optimizer.state, [dict(group) for group in optimizer.param_groups]
    optimizer.state = defaultdict(dict, {key: _copy_of(value) for key, value in state.items()})
    try:
        yield
    finally:
        optimizer.state = state
        for group, before in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(before)


@contextmanager
def same_random_numbers(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Put the random numbers of torch, NumPy and Python back, and the number of threads."""
    states, threads = (random.getstate(), np.random.get_state()), torch.get_num_threads()
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            random.setstate(states[0])
            np.random.set_state(states[1])


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


def _copy_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return {key: _copy_of(item) for key, item in value.items()} if isinstance(value, dict) else copy.deepcopy(value)
