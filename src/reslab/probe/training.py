"""Whole readings in the steps of a training by ``fit``, each with what the optimiser made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reslab.probe.checks import check_model
from reslab.probe.inputs import size_of
from reslab.probe.reading import Reader, unscaled
from reslab.probe.updates import step_taken, total_norm, with_step
from reslab.probe.watch import intercepted
from reslab.records import ReadingRecord


class StepReadings:
    """A probe for ``fit`` that reads chosen steps as ``watch`` does: forward, backward and the optimiser's step.

    The arithmetic of the training stays as it is. Where a batch is split into parts, the first part is read, as a batch
    of its own; the optimiser's step is that of the whole batch. A step that fp16 skipped has no ``update``.

    Args:
        model: that trains, in this process alone: of several processes, each sees a part of the batch only.
        optimizer: that updates it.
        when: step to whether it is read.

    Raises:
        RequestError: if the model can't be read, with the reason.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> probe = StepReadings(model, optimizer)
        >>> with probe.attach(model):
        ...     nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.zeros(8).long()).backward()
        >>> optimizer.step()
        >>> [reading.update.optimizer for reading in probe.read(0)]
        ['SGD']
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, when: Callable[[int], bool] = lambda step: True
    ) -> None:
        check_model(model)
        self.optimizer, self.when = optimizer, when
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self._forget()

    def _forget(self) -> None:
        self._reader: Reader | None = None
        self._record: ReadingRecord | None = None
        self._is_followed = False  # this call of the model
        self._num_samples, self._grad_norm = 0, 0.0
        self._before: dict[nn.Parameter, Tensor] = {}

    def due(self, step: int) -> bool:
        """Whether this step is read."""
        return self.when(step)

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator[StepReadings]:
        """While this is open, the first forward and backward pass is read; at its end the weights are copied."""
        self._forget()
        with ExitStack() as stack:
            self._pass = stack.enter_context(ExitStack())
            before = model.register_forward_pre_hook(self._begin, with_kwargs=True)
            after = model.register_forward_hook(self._end, with_kwargs=True, always_call=True)
            for handle in (before, after):
                stack.callback(handle.remove)
            stack.enter_context(intercepted(self._backward))
            yield self
        self._grad_norm = total_norm(list(self.names))
        self._before = {p: p.detach().clone() for p in self.names if p.grad is not None}

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Before each call of the model: the first one is followed, on inputs that ask for a gradient."""
        if not module.training or not torch.is_grad_enabled():
            return None
        is_first = self._num_samples == 0
        self._num_samples += size_of((arguments, keywords))
        if not is_first:
            return None
        self._reader, self._is_followed = Reader(module, (arguments, keywords), connected=True), True
        self._pass.enter_context(self._reader.following())
        return self._reader.arguments

    def _end(self, module: nn.Module, arguments: Any, keywords: Any, outputs: Any) -> None:
        """After the call that was followed."""
        if not self._is_followed:
            return
        self._is_followed = False
        self._pass.close()
        assert self._reader is not None, "what is followed has a reader"
        self._reader.outputs = outputs

    def _backward(self, loss: Tensor, run: Callable[..., None]) -> None:
        """In place of a backward pass: the same, read if it is the first."""
        reader, self._reader = self._reader, None
        if reader is None:
            return run()
        with reader.attached(loss) as leaves:
            run(inputs=reader.wanted(leaves))
        self._record = reader.record(step=0)  # before further parts are added to the gradients

    def read(self, step: int, *, grad_scale: float = 1.0) -> list[ReadingRecord]:
        """What was seen; none if no pass was, or the step isn't due.

        Args:
            step: the step that has just been taken, and is in ``.grad`` still.
            grad_scale: factor that the loss was multiplied by (fp16 loss scaling); divided out.
        """
        record = self._record
        if record is None or not self.when(step):
            return []
        share = record.num_samples / self._num_samples
        record = unscaled(replace(record, step=step), grad_scale * share)
        taken_norm = total_norm(list(self.names))
        if math.isfinite(taken_norm):
            record = with_step(
                record,
                step_taken(
                    self.optimizer,
                    self.names,
                    self._before,
                    grad_norm=self._grad_norm / grad_scale,
                    taken_norm=taken_norm,
                    leftover_norm=0.0,  # fit zeroes all gradients before it adds to them
                ),
            )
        self._forget()
        return [record]


def step_readings(model: nn.Module, optimizer: torch.optim.Optimizer, *, total_steps: int) -> StepReadings:
    """The probe for a whole training: the first step, the last one, and six between."""
    return StepReadings(model, optimizer, when=evenly(total_steps))


def evenly(total_steps: int, *, count: int = 8) -> Callable[[int], bool]:
    """True at ``count`` steps from the first to the last, as evenly as they can be.

    Example:
        >>> [step for step in range(100) if evenly(100, count=4)(step)]
        [0, 33, 66, 99]
    """
    chosen = {round(place * (total_steps - 1) / (count - 1)) for place in range(count)}
    return chosen.__contains__
