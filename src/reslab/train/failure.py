"""When training meets a number that isn't one: where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reslab.errors import WorkFailed
from reslab.records import StepRecord


@dataclass(frozen=True)
class Origin:
    """Where a non-finite number first appeared.

    Args:
        module: name of the first module, in execution order of the pass, that produced it; empty if no module did.
        direction: ``"input"`` (the batch itself), ``"forward"``, ``"backward"``, or ``"norm"`` (all values are finite,
            their norm is not).
    """

    module: str
    direction: str

    def sentence(self) -> str:
        """For the error message."""
        if self.direction == "input":
            return "the batch itself holds NaN or infinity"
        if self.direction == "norm":
            return f"every gradient is finite but their norm overflows; the largest is in {self.module}"
        return f"the first module to produce it, in the {self.direction} pass, is {self.module or 'the loss itself'}"


class NonFiniteError(WorkFailed):
    """Training stopped at a non-finite loss or gradient.

    Args:
        record: of the failed optimiser step, with its step, epoch and rate; the weights are those before it.
        what: ``"loss"`` or ``"gradient"``.
        origin: where it first appeared.
        batch: images, (N, C, H, W), and their labels, (N,).
        before: what the steps before were like, in words; empty if there were none.
    """

    def __init__(
        self, record: StepRecord, what: str, *, origin: Origin, batch: tuple[Tensor, Tensor], before: str = ""
    ) -> None:
        where = f"step {record.step} (epoch {record.epoch}, lr {record.lr:.4g})"
        super().__init__(f"Non-finite {what} at {where}: {origin.sentence()}. {before}".rstrip())
        self.step, self.epoch, self.what, self.lr = record.step, record.epoch, what, record.lr
        self.origin, self.before = origin, before
        self.images, self.labels = batch


def find_origin(model: nn.Module, images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Origin:
    """Runs the batch once more and watches every leaf module.

    Args:
        model: as it was at the failed step, in train mode. Its norms' running statistics move by one more batch.
        images: the batch.
        loss_of: outputs to loss, as trained, scaling included.
    """
    if not torch.isfinite(images).all():
        return Origin("", "input")
    forward: list[str] = []
    backward: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            if not torch.isfinite(output).all():
                forward.append(name)
            elif output.requires_grad:
                output.register_hook(lambda gradient: None if torch.isfinite(gradient).all() else backward.append(name))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    model.zero_grad(set_to_none=True)
    try:
        loss = loss_of(model(images))
        if forward or not torch.isfinite(loss):
            return Origin(forward[0] if forward else "", "forward")
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    # A gradient that is wrong at a module's parameters only, and at no output: the parameter's own module made it.
    broken = backward or [
        name.rpartition(".")[0] for name, gradient in reversed(named) if not gradient.isfinite().all()
    ]
    if broken:
        return Origin(broken[0], "backward")
    return Origin(max(named, key=lambda item: float(item[1].abs().max()))[0], "norm")
