"""``watch``: readings of a network while it trains in a loop of one's own, and a verdict over the whole time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.probe.checks import check_model
from reslab.probe.diagnose import Diagnosis, facts_of, name_of
from reslab.probe.reading import Reader, unscaled
from reslab.probe.updates import Updates, with_step
from reslab.probe.verdict.evidence import Evidence
from reslab.probe.verdict.judge import judge
from reslab.records import LossRecord, ReadingRecord


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
        self._updates = Updates(model, optimizer)
        self._reader: Reader | None = None
        self._is_followed = self._awaits_loss = False  # this call; a backward pass after it
        self._open, self._pass = ExitStack(), ExitStack()

    def __enter__(self) -> Self:
        before = self.model.register_forward_pre_hook(self._begin, with_kwargs=True)
        after = self.model.register_forward_hook(self._end, with_kwargs=True, always_call=True)
        for handle in (before, after):
            self._open.callback(handle.remove)
        self._open.enter_context(intercepted(self._backward))
        self._open.enter_context(self._updates.following())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._pass.close()
        self._open.close()
        self._take_update()
        self._reader, self._awaits_loss = None, False

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Before each call of the model: at a step that is due, follow it, on inputs that ask for a gradient."""
        if not module.training or not torch.is_grad_enabled():
            return None
        self._pass.close()  # what a call that no backward pass followed has left
        self._take_update()
        self.step, self._reader, self._awaits_loss = self.step + 1, None, True
        if self.step % self.every:
            return None
        self._reader = Reader(module, (arguments, keywords), connected=True)
        self._pass.enter_context(self._reader.following())
        self._is_followed = True
        return self._reader.arguments

    def _end(self, module: nn.Module, arguments: Any, keywords: Any, outputs: Any) -> None:
        """After each call that was followed."""
        if not self._is_followed:  # not due, or an evaluation before the backward pass
            return
        self._is_followed = False
        self._pass.close()
        if self._reader is not None:
            self._reader.outputs = outputs
        if outputs is None:  # the model has raised
            self._reader, self._awaits_loss = None, False

    def _backward(self, loss: Tensor, run: Callable[..., None]) -> None:
        """In place of the backward pass: the same, read if it is due."""
        if not self._awaits_loss:
            return run()
        self._awaits_loss = False
        reader, self._reader = self._reader, None
        scale = self.scaler.get_scale() if self.scaler is not None and self.scaler.is_enabled() else 1.0
        self._losses.append((self.step, loss.detach().reshape(()), scale))
        self._updates.before_backward(is_due=reader is not None)
        if reader is None:
            return run()
        with reader.attached(loss) as leaves:
            run(inputs=reader.wanted(leaves))
        self._updates.after_backward(grad_scale=scale)
        self._readings.append(unscaled(reader.record(step=self.step), scale))

    def _take_update(self) -> None:
        """The last reading learns what the optimiser made of its gradient."""
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
        return Diagnosis(
            self.readings,
            judge(Evidence(self.readings, self.losses)),
            losses=self.losses,
            name=name_of(self.model),
            facts=facts_of(self.model),
        )


def watch(
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    every: int = 50,
    scaler: torch.amp.GradScaler | None = None,
) -> Watch:
    """A context in which the model's training is watched; see ``Watch``."""
    return Watch(model, optimizer=optimizer, every=every, scaler=scaler)


class intercepted:
    """Puts a function in place of ``torch.autograd.backward``, which ``Tensor.backward`` calls, for one scalar.

    Args:
        instead: gets the loss and what runs the real backward pass, of ``inputs`` only, where they are given.
    """

    def __init__(self, instead: Callable[[Tensor, Callable[..., None]], None]) -> None:
        self.instead = instead

    def __enter__(self) -> None:
        self.real = torch.autograd.backward

        # stands in for torch's own function, and takes whatever that takes
        def backward(tensors: Tensor | Sequence[Tensor], *arguments: Any, **keywords: Any) -> None:
            found = [tensors] if isinstance(tensors, Tensor) else list(tensors)

            def run(inputs: Sequence[Tensor] | None = None) -> None:
                chosen = {} if inputs is None or keywords.get("inputs") else {"inputs": inputs}
                self.real(tensors, *arguments, **keywords | chosen)

            if len(found) == 1 and found[0].numel() == 1 and found[0].grad_fn is not None:
                self.instead(found[0], run)
            else:
                run()

        torch.autograd.backward = backward  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        torch.autograd.backward = self.real
