"""Readings of a network while it trains: ``watch`` in a loop of one's own, ``StepReadings`` in the steps of ``fit``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.probe._reading import Reader, unscaled
from reslab.probe._updates import UpdateFollower, copies_of, step_taken, total_norm, with_step
from reslab.probe.batch import Arguments, check_model, size_of
from reslab.probe.diagnosis import Diagnosis, facts_of, name_of
from reslab.probe.evidence import Evidence
from reslab.probe.rules import judge
from reslab.records import ReadingRecord
from reslab.records.diagnosis import LossRecord

RunBackward: TypeAlias = Callable[..., None]
"""Runs the real backward pass, of ``inputs`` only, where they are given."""


class PassReader:
    """Reads forward passes of a training that isn't ours, each with the backward pass that follows it.

    Args:
        model: that trains.
        begins: asked before each call of the model in train mode, with its arguments: whether it is read.
        backward: called in place of the backward pass that follows, with the loss, the reader of the forward pass if
            it was read, and what runs the real backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        begins: Callable[[Arguments], bool],
        backward: Callable[[Tensor, Reader | None, RunBackward], None],
    ) -> None:
        self.model, self.begins, self.backward = model, begins, backward
        self.reader: Reader | None = None
        self._is_running = self._awaits_backward = False
        self._forward = ExitStack()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While this is open, passes are seen."""
        with ExitStack() as stack:
            stack.callback(self.forget)
            stack.callback(self.model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            stack.callback(self.model.register_forward_hook(self._end, always_call=True).remove)
            stack.enter_context(intercepted_backward(self._intercept))
            yield

    def forget(self) -> None:
        """Drops what a forward pass has left that no backward pass followed."""
        self._forward.close()
        self.reader, self._is_running, self._awaits_backward = None, False, False

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Before each call of the model: follow it if it is to be read, on inputs that ask for a gradient."""
        if not module.training or not torch.is_grad_enabled():
            return None
        is_read = self.begins(Arguments(arguments, keywords))
        self._awaits_backward = True
        if not is_read:
            return None
        self.reader, self._is_running = Reader(module, connected=True), True
        self._forward.enter_context(self.reader.following())
        return self.reader.call.begin(arguments, keywords)

    def _end(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        """After each call of the model, also one that is no training step."""
        if not self._is_running:
            return
        self._is_running = False
        self._forward.close()
        if outputs is None:  # the model has raised
            self.forget()
        elif self.reader is not None:
            self.reader.call.outputs = outputs

    def _intercept(self, loss: Tensor, run: RunBackward) -> None:
        if not self._awaits_backward:
            return run()
        self._awaits_backward = False
        reader, self.reader = self.reader, None
        self.backward(loss, reader, run)


def run_read(reader: Reader, loss: Tensor, run: RunBackward) -> None:
    """Run a backward pass that computes what it would have computed anyway, and read it."""
    with reader.attached(loss) as leaves:
        run(inputs=reader.wanted(leaves))


@contextmanager
def intercepted_backward(instead: Callable[[Tensor, RunBackward], None]) -> Iterator[None]:
    """Puts a function in place of ``torch.autograd.backward``, which ``Tensor.backward`` calls, for one scalar."""
    real = torch.autograd.backward

    # stands in for torch's own function, and takes whatever that takes
    def backward(tensors: Tensor | Sequence[Tensor], *arguments: Any, **keywords: Any) -> None:
        found = [tensors] if isinstance(tensors, Tensor) else list(tensors)

        def run(inputs: Sequence[Tensor] | None = None) -> None:
            chosen = {} if inputs is None or keywords.get("inputs") else {"inputs": inputs}
            real(tensors, *arguments, **keywords | chosen)

        if len(found) == 1 and found[0].numel() == 1 and found[0].grad_fn is not None:
            instead(found[0], run)
        else:
            run()

    torch.autograd.backward = backward  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.backward = real


class Watch:
    """Reads every so many training steps; between them it notes the loss, and costs next to nothing.

    A step is one call of the model in train mode, with the backward pass that follows it, and the optimiser's step that
    may follow that.

    Args:
        model: that trains.
        optimizer: the one whose steps are followed; by default any that holds weights of the model.
        every: steps between two readings; the first step is read.
        scaler: of fp16's loss, where there is one: its scale is divided out.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, every=2) as probe:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.zeros(8).long()).backward()
        ...         optimizer.step()
        >>> [reading.step for reading in probe.diagnosis.readings]
        [0, 2]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        every: int = 50,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if every < 1:
            raise RequestError(f"every is a number of steps from 1 on, got {every}.")
        check_model(model)
        self.model, self.every, self.scaler = model, every, scaler
        self.step = -1
        self._readings: list[ReadingRecord] = []
        self._losses: list[tuple[int, Tensor, float]] = []  # step, loss on the device, its scale
        self._updates = UpdateFollower(model, optimizer)
        self._passes = PassReader(model, begins=self._begins, backward=self._backward)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self._passes.attached())
        self._open.enter_context(self._updates.following())
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._take_update()

    def _begins(self, arguments: Arguments) -> bool:
        self._passes.forget()
        self._take_update()
        self.step += 1
        return self.step % self.every == 0

    def _backward(self, loss: Tensor, reader: Reader | None, run: RunBackward) -> None:
        scale = self.scaler.get_scale() if self.scaler is not None and self.scaler.is_enabled() else 1.0
        self._losses.append((self.step, loss.detach().reshape(()), scale))
        self._updates.before_backward(is_due=reader is not None)
        if reader is None:
            return run()
        run_read(reader, loss, run)
        self._updates.after_backward(grad_scale=scale)
        self._readings.append(unscaled(reader.record(step=self.step), scale))

    def _take_update(self) -> None:
        """Adds to the last reading what the optimiser made of its gradient."""
        taken, self._updates.taken = self._updates.taken, None
        if taken is not None and self._readings:
            self._readings[-1] = with_step(self._readings[-1], taken)

    @property
    def readings(self) -> tuple[ReadingRecord, ...]:
        """What has been read so far."""
        self._take_update()
        return tuple(self._readings)

    @property
    def losses(self) -> tuple[LossRecord, ...]:
        """The loss at each step so far."""
        values = torch.stack([loss.double().cpu() for _, loss, _ in self._losses]).tolist() if self._losses else []
        return tuple(
            LossRecord(step, value / scale) for (step, _, scale), value in zip(self._losses, values, strict=True)
        )

    @property
    def diagnosis(self) -> Diagnosis:
        """The verdict over what has been read so far."""
        if not self.readings:
            raise RequestError("Nothing has been read: no call of the model in train mode was followed by backward().")
        judged = judge(Evidence(self.readings, self.losses))
        name, facts = name_of(self.model), facts_of(self.model)
        return Diagnosis(self.readings, judged, losses=self.losses, name=name, facts=facts)


watch = Watch


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
        self._record: ReadingRecord | None = None
        self._num_samples, self._grad_norm = 0, 0.0
        self._before: dict[nn.Parameter, Tensor] = {}

    def due(self, step: int) -> bool:
        """Return whether this step is read."""
        return self.when(step)

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator[StepReadings]:
        """While this is open, the first forward and backward pass is read; at its end the weights are copied."""
        self._forget()
        with PassReader(model, begins=self._begins, backward=self._backward).attached():
            yield self
        self._grad_norm = total_norm(self.names)
        self._before = copies_of(self.names)

    def _begins(self, arguments: Arguments) -> bool:
        is_first = self._num_samples == 0
        self._num_samples += size_of(arguments)
        return is_first

    def _backward(self, loss: Tensor, reader: Reader | None, run: RunBackward) -> None:
        if reader is None:
            return run()
        run_read(reader, loss, run)
        self._record = reader.record(step=0)  # before further parts are added to the gradients

    def read(self, step: int, *, grad_scale: float = 1.0) -> list[ReadingRecord]:
        """Return what was seen; nothing if no pass was, or the step isn't due.

        Args:
            step: the step that has just been taken; its gradient still is in ``.grad``.
            grad_scale: factor that the loss was multiplied by (fp16 loss scaling); divided out.
        """
        record = self._record
        if record is None or not self.when(step):
            return []
        fraction = record.num_samples / self._num_samples
        record = unscaled(replace(record, step=step), grad_scale * fraction)
        taken_norm = total_norm(self.names)
        if math.isfinite(taken_norm):
            taken = step_taken(
                self.optimizer,
                self.names,
                self._before,
                grad_norm=self._grad_norm / grad_scale,
                taken_norm=taken_norm,
                leftover_norm=0.0,  # fit zeroes all gradients before it adds to them
            )
            record = with_step(record, taken)
        self._forget()
        return [record]


def step_readings(model: nn.Module, optimizer: torch.optim.Optimizer, *, total_steps: int) -> StepReadings:
    """Return the probe for a whole training: it reads the first step, the last one, and six between."""
    return StepReadings(model, optimizer, when=evenly(total_steps))


def evenly(total_steps: int, *, count: int = 8) -> Callable[[int], bool]:
    """Return a function that is true at ``count`` steps from the first to the last, as evenly as they can be."""
    chosen = {round(place * (total_steps - 1) / (count - 1)) for place in range(count)}
    return chosen.__contains__
