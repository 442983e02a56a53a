"""What goes into a model, and what is compared with what comes out: a tensor, or a nest of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def call(model: nn.Module, arguments: Any) -> Any:
    """The model's answer to a tensor, a tuple of arguments or a dict of keywords."""
    if isinstance(arguments, Mapping):
        return model(**arguments)
    return model(*arguments) if isinstance(arguments, list | tuple) else model(arguments)


def with_gradients(inputs: Any, *, connected: bool = False) -> tuple[list[Tensor], Any]:
    """Leaves that stand for the floating-point inputs, and inputs made of copies of these.

    The copies may be written over; the leaves and what the user handed in may not.

    Args:
        inputs: a tensor, or a nest of them.
        connected: whether an input that asks for a gradient stays what it is, so that it gets it.
    """
    leaves: list[Tensor] = []

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return with_graph(tensor)
        if connected and tensor.requires_grad:
            leaves.append(tensor)
            return tensor
        leaves.append(with_graph(tensor).detach().requires_grad_())
        return leaves[-1].clone()

    return leaves, mapped(inputs, copy)


def with_graph(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made under inference_mode and can't be in a graph."""
    return tensor.clone() if tensor.is_inference() else tensor


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of tuples, lists and mappings with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    return tuple(mapped(item, change) for item in value) if isinstance(value, tuple) else value


def tensors_in(value: Any) -> Iterable[Tensor]:
    """All tensors of a nest of tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def size_of(inputs: Any) -> int:
    """N: the length of the first tensor that has one."""
    return next((len(tensor) for tensor in tensors_in(inputs) if tensor.ndim), 1)


def chosen(inputs: Any, index: Tensor, *, count: int | None = None) -> Any:
    """Copies of some samples of a nest of tensors; what isn't as long as there are samples belongs to all of them.

    Args:
        inputs: the nest, of inputs or of targets.
        index: of the samples, (n,).
        count: how many samples there are; by default ``size_of(inputs)``.
    """
    count = size_of(inputs) if count is None else count

    def choose(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)] if tensor.ndim and len(tensor) == count else tensor

    return mapped(inputs, choose)


def samples_of(batch: tuple[Any, Any], index: Tensor) -> tuple[Any, Any]:
    """Some samples of a batch: of its inputs and of its targets."""
    inputs, targets = batch
    return chosen(inputs, index), chosen(targets, index, count=size_of(inputs))
