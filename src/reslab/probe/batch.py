"""What a probe runs: a model on one batch, up to the loss. Inputs and targets are tensors, or nests of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.untouched import untouched

LossFn: TypeAlias = Callable[[Any, Any], Tensor]
"""Outputs and targets to a scalar."""
LossOf: TypeAlias = Callable[[nn.Module], Tensor]
"""Runs a model on one batch, as a training step does, and returns the loss, a scalar."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a batch that is a pair, as a function of the model; its samples can be taken apart.

    Args:
        batch: inputs and targets: a tensor, a tuple of arguments or a dict of keywords for the model, and what
            ``loss_fn`` takes besides its outputs.
        loss_fn: outputs and targets to a scalar.

    Raises:
        RequestError: if the batch isn't a pair.

    Example:
        >>> BatchLoss((torch.ones(2, 3), torch.zeros(2, 3)), nn.functional.mse_loss)(nn.Identity())
        tensor(1.)
    """

    batch: tuple[Any, Any]
    loss_fn: LossFn

    def __post_init__(self) -> None:
        batch: Any = self.batch
        is_row = isinstance(batch, tuple | list)
        if not is_row or len(batch) != 2:
            found = f"{len(batch)} items" if is_row else f"a {type(batch).__name__}"
            raise RequestError(f"A batch is a pair of inputs and targets, got {found}.")

    def __call__(self, model: nn.Module) -> Tensor:
        inputs, targets = self.batch
        return self.loss_fn(call(model, inputs), mapped(targets, with_graph))

    def samples(self, index: Tensor) -> BatchLoss:
        """Return the loss of some samples; ``index`` is (n,)."""
        inputs, targets = self.batch
        return BatchLoss((chosen(inputs, index), chosen(targets, index, count=size_of(inputs))), self.loss_fn)


def first_samples(loss_of: LossOf, count: int) -> LossOf:
    """Return the loss of the first samples, at most ``count``; of all of them where they can't be taken apart."""
    if not isinstance(loss_of, BatchLoss) or size_of(loss_of.batch[0]) <= count:
        return loss_of
    return loss_of.samples(torch.arange(count))


def inputs_of(model: nn.Module, loss_of: LossOf) -> Any:
    """Return what the model is given first; where that isn't known, by a pass that leaves no trace."""
    if isinstance(loss_of, BatchLoss):
        return loss_of.batch[0]
    with untouched(model), torch.no_grad(), ModelCall().hooked(model) as seen:
        loss_of(model)
    return seen.inputs


# ---- calls of the model


class Arguments(NamedTuple):
    """All that a model is called with."""

    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}


def call(model: nn.Module, inputs: Any) -> Any:
    """Return the model's output for a tensor, a tuple of arguments, a dict of keywords or ``Arguments``."""
    if isinstance(inputs, Arguments):
        return model(*inputs.positional, **inputs.keywords)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


class ModelCall:
    """The inputs and outputs of a model in one forward pass: inputs are replaced by copies that ask for a gradient.

    The copies may be written over; the leaves and what the user passed in may not. Of several calls the first is kept,
    and the leaves of all.

    Args:
        connected: whether an input that asks for a gradient stays what it is, so that it gets it.
    """

    def __init__(self, *, connected: bool = False) -> None:
        self.connected = connected
        self.inputs: Arguments | None = None
        self.outputs: Any = None
        self.leaves: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        return size_of(self.inputs)

    def begin(self, positional: tuple[Any, ...], keywords: dict[str, Any]) -> Arguments:
        """Return what the model is called with instead."""
        given = Arguments(positional, keywords)
        if self.inputs is None:
            self.inputs = given
        elif any(tensor.requires_grad for tensor in tensors_in(given)):
            return given  # made of what an earlier call has returned
        with torch._C.DisableTorchFunction():  # the copies are no part of what a trace follows
            leaves, copies = with_gradients(given, connected=self.connected)
        self.leaves += leaves
        return Arguments(*copies)

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[ModelCall]:
        """While this is open, the model's calls are seen."""

        def end(module: nn.Module, inputs: Any, outputs: Any) -> None:
            self.outputs = outputs if self.outputs is None else self.outputs

        before = model.register_forward_pre_hook(lambda _, *given: self.begin(*given), prepend=True, with_kwargs=True)
        after = model.register_forward_hook(end)
        try:
            yield self
        finally:
            before.remove()
            after.remove()


# ---- nests of tensors


def with_gradients(inputs: Any, *, connected: bool = False) -> tuple[list[Tensor], Any]:
    """Return leaves that stand for the floating-point inputs, and inputs made of copies of these; see ``ModelCall``."""
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
    """Return the tensor, or a copy of one that was made under inference_mode and can't be in a graph."""
    return tensor.clone() if tensor.is_inference() else tensor


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the same nest of tuples, lists and mappings with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [mapped(item, change) for item in value]
        return items if isinstance(value, list) else type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def tensors_in(value: Any) -> Iterable[Tensor]:
    """Yield all tensors of a nest, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def size_of(inputs: Any) -> int:
    """Return N: the length of the first tensor that has one."""
    return next((len(tensor) for tensor in tensors_in(inputs) if tensor.ndim), 1)


def chosen(inputs: Any, index: Tensor, *, count: int | None = None) -> Any:
    """Return copies of some samples, (n,), of a nest; what isn't as long as there are samples belongs to all of them.

    ``count`` is how many samples there are; by default ``size_of(inputs)``.
    """
    count = size_of(inputs) if count is None else count

    def choose(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)] if tensor.ndim and len(tensor) == count else tensor

    return mapped(inputs, choose)


# ---- what no probe can look into


def check_model(model: nn.Module) -> None:
    """Refuse a model that can't be read, with the reason."""
    if not isinstance(model, nn.Module):
        raise RequestError(f"Expected a torch.nn.Module, got a {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise RequestError("A scripted model hides its operations. Pass the model that it was made from.")
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise RequestError("The model is on the meta device: it has shapes but no values. Load its weights first.")
    if any(tensor.is_quantized for tensor in tensors):
        raise RequestError("The model is quantised: it has no gradients. Pass the model that it was made from.")
    if any(tensor.is_inference() for tensor in tensors):
        raise RequestError("The model was made under inference_mode: its weights can't have gradients.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RequestError("Nothing in the model asks for a gradient: call requires_grad_(True) on what is to train.")


def check_loss(loss: object) -> Tensor:
    """Refuse what is not a scalar; a tensor of one element is one."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r:.40}, no tensor"
        raise RequestError(f"loss_fn returned {found}; expected a scalar tensor, such as a mean over the batch.")
    return loss
