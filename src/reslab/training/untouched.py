"""Leaving no trace: a model that was tried out is as it was before, bit for bit, also after an error."""

from __future__ import annotations

import copy
import gc
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    """Put everything back at the end; inside, gradients begin empty.

    Parameters, buffers, gradients (the very tensors), modes of the modules, the optimiser's state and its groups, all
    random numbers, and the number of threads. What a model keeps in attributes of its own, besides parameters and
    buffers, is out of reach.

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
    modes = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    if optimizer is not None:
        state, groups = optimizer.state, [dict(group) for group in optimizer.param_groups]
        optimizer.state = defaultdict(dict, {key: _copy_of(value) for key, value in state.items()})
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with same_random_numbers({tensor.device for tensor in tensors}):
            yield
    finally:
        for module, was_training, buffers in modes:
            module.training = was_training
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, before in zip(tensors, copies, strict=True):
                if not torch.equal(tensor, before):  # equal bits needn't be written; NaN is never equal, and is written
                    tensor.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        if optimizer is not None:
            optimizer.state = state
            for group, earlier in zip(optimizer.param_groups, groups, strict=True):
                group.clear()
                group.update(earlier)


@contextmanager
def same_random_numbers(devices: set[torch.device]) -> Iterator[None]:
    """Put the random numbers of torch, NumPy and Python back, and the number of threads."""
    states, threads = (random.getstate(), np.random.get_state()), torch.get_num_threads()
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(states[0])
            np.random.set_state(states[1])


def _copy_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return {key: _copy_of(item) for key, item in value.items()} if isinstance(value, dict) else copy.deepcopy(value)


@contextmanager
def freed_memory(device: torch.device) -> Iterator[None]:
    """Give memory that nobody uses back to the device, before and after."""

    def give_back() -> None:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    give_back()
    try:
        yield
    finally:
        give_back()
