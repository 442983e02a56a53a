"""``fit``: the training loop, one function to be read from top to bottom, and the steps that it is made of."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reslab.distributed import Ranks, without_sync
from reslab.errors import RequestError
from reslab.records import EpochRecord, ReadingRecord, Score, StepRecord
from reslab.records.training import FlightRecord
from reslab.training.batches import num_items, split_batch
from reslab.training.evaluation import evaluate
from reslab.training.execution import ExecutionMode, compiled
from reslab.training.failure import FlightRecorder, NonFiniteError, clip_gradients, describe_before, find_origin
from reslab.training.optim import l1_penalty, moving_average
from reslab.training.options import TrainOptions
from reslab.training.progress import (
    Meter,
    Progress,
    Reading,
    Taken,
    Waits,
    Weights,
    copy_weights,
    load_state,
    state_of,
)
from reslab.training.schedule import Hold, RateCheck, Schedule, set_rate

if TYPE_CHECKING:
    from reslab.data.loader import Loader
    from reslab.tasks.task import Task

Status = Literal["done", "early", "interrupted"]


class Probe(Protocol):
    """Looks into the network while it trains."""

    def attach(self, model: nn.Module) -> Any:
        """A context in which the probe is attached to the model: for the forward and backward pass of a due step."""

    def due(self, step: int) -> bool:
        """Whether it reads this step, which then runs uncompiled."""

    def read(self, step: int, *, grad_scale: float = 1.0) -> Sequence[ReadingRecord]:
        """What it saw in this step, which has just been taken; its gradients are still there, unscaled and clipped."""


class Recorder:
    """Receives what happens during ``fit``. This one forgets it; ``reslab.run`` has the one that writes it down."""

    def restore(self) -> dict[str, Any] | None:
        """The state to resume from, or None to start at step 0."""
        return None

    def step(self, record: StepRecord) -> None:
        """After each optimiser step."""

    def epoch(self, record: EpochRecord) -> None:
        """After each epoch."""

    def probe(self, records: Sequence[ReadingRecord]) -> None:
        """After each reading of a probe."""

    def flight(self, records: Sequence[FlightRecord]) -> None:
        """The last steps, before training fails or as it begins to diverge."""

    def checkpoint(self, state: dict[str, Any], *, step: int) -> None:
        """After each epoch and on interruption; ``state`` is all that a resumed run needs."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def close(self) -> None:
        """At the end, by whoever made it."""


@dataclass(frozen=True)
class FitResult:
    """How training ended.

    Args:
        status: ``done``, ``early`` (patience ran out) or ``interrupted``.
        steps: optimiser steps taken.
        epoch: the last epoch that was trained in.
        last: weights after the last step (their moving average, if one was kept).
        plain: the weights themselves after the last step, where a moving average was kept; None otherwise.
        best: weights with the best validation score; None without validation.
        best_epoch: when that was.
    """

    status: Status
    steps: int
    epoch: int
    last: Weights
    plain: Weights | None
    best: Weights | None
    best_epoch: int | None


def fit(
    model: nn.Module,
    task: Task,
    loaders: tuple[Loader, Loader | None],
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    options: TrainOptions,
    mode: ExecutionMode | None = None,
    recorder: Recorder | None = None,
    probes: Sequence[Probe] = (),
) -> FitResult:
    """Train ``model`` for ``options.steps`` steps and leave it with the weights of the last one.

    If patience runs out before, training stops and the model gets the best weights back.

    Args:
        model: on the device of ``mode``.
        task: says what a batch holds: loss, score and metrics.
        loaders: of the training and of the validation split (or None).
        optimizer: over the model's parameters; its rates are set by the schedule before each step.
        schedule: step to learning rate.
        options: length, clipping, L1 penalty, moving average, patience, parts per batch. What says how the network is
            built, seeded or placed has no effect here.
        mode: precision, memory format, compilation, processes and device; by default plain fp32 where the model is.
        recorder: gets every record and checkpoint.
        probes: read after every step that they are due at.

    Raises:
        NonFiniteError: at a NaN or infinity in the loss or the gradient. The weights are those before that step.
            The recorder gets the last hundred steps before, and the error says in words how it came.
            Under fp16, a gradient that overflows is no failure: the step is skipped and the loss scale halved, until
            the scale falls below 1.

    Ctrl-C (SIGINT) and SIGTERM end the run after the current step, with a checkpoint to resume from; a second one ends
    it at once.
    """
    train_loader, val_loader = loaders
    mode, recorder = mode or ExecutionMode.of(model), recorder or Recorder()
    ranks = mode.ranks
    check_options(options, has_validation=val_loader is not None, batch_size=train_loader.batch_size)
    mode.prepare(model)
    scaler = torch.amp.GradScaler(mode.device.type, enabled=mode.amp == "fp16")
    average = moving_average(model, options.ema_decay) if options.ema_decay else None
    progress, best = Progress(), None
    if (saved := recorder.restore()) is not None:
        progress, best = load_state(saved, model, optimizer, scaler, average)
    hold = schedule if isinstance(schedule, Hold) else None
    if hold is not None:
        hold.state = progress.hold = progress.hold or hold.state
    eager = ranks.wrap(model)
    fast = compiled(eager) if mode.compile else eager
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    read_every = reading_interval(optimizer, mode)
    meter, rates, waits = Meter(ranks), RateCheck(), Waits()
    flight = FlightRecorder(model, parameters, read_every=read_every)
    status: Status = "done"

    def state() -> dict[str, Any]:
        return state_of(progress, best, model, optimizer, scaler, average)

    with catch_interrupts(ranks) as interrupted:
        while progress.step < options.steps:
            if progress.ran_out(options.patience):
                status = "early"
                break

            # ---- one epoch, or what is left of it
            model.train()
            started, stopping = time.perf_counter(), False
            for batch in waits.over(train_loader.batches(progress.epoch, start=progress.batch)):
                batch = mode.move(batch)

                # ---- the rate of this step, as the schedule says, for every group
                lr = schedule(progress.step)
                set_rate(optimizer, lr)

                # ---- forward and backward; a step that is probed runs uncompiled
                optimizer.zero_grad(set_to_none=True)
                due = [probe for probe in probes if probe.due(progress.step)]
                with ExitStack() as attached:
                    for probe in due:
                        attached.enter_context(probe.attach(model))
                    taken = backward(eager if due else fast, task, batch, l1=options.l1, parts=options.accumulate,
                                     mode=mode, scaler=scaler)  # fmt: skip

                # ---- the gradient: unscaled, measured, clipped
                grad_scale = scaler.get_scale()
                scaler.unscale_(optimizer)
                grad_norm, norms = clip_gradients(parameters, options.clip_grad_norm or math.inf)
                flight.note(progress.step, norms)
                meter.add(
                    StepRecord(progress.step, progress.epoch, lr, math.nan, math.nan), taken, grad_norm, grad_scale
                )

                # ---- every so often the device is waited for, and what came in is checked before the step is taken
                is_last = progress.step + 1 == options.steps or progress.batch + 1 == len(train_loader)
                is_read = is_last or (progress.step + 1) % read_every == 0
                readings = meter.read() if is_read else []
                if failed := first_failure(readings, is_fp16=scaler.is_enabled()):
                    recorder.flight(last_steps := flight.complete_until(failed[0].record, readings))
                    batch = failed_batch(failed[0].record, batch, progress, loader=train_loader, mode=mode)
                    raise failure(failed, last_steps, model, task, batch, l1=options.l1, mode=mode)

                # ---- the step
                if read_every > 1:
                    optimizer.found_inf, optimizer.grad_scale = meter.bad, None  # type: ignore[attr-defined]
                scaler.step(optimizer)
                scaler.update()
                for probe in due:
                    recorder.probe(probe.read(progress.step, grad_scale=grad_scale))
                if average is not None:
                    average.update_parameters(model)
                if changed := rates.see(progress.step, expected=lr, optimizer=optimizer):
                    recorder.note(changed)
                    applied = float(optimizer.param_groups[0]["lr"])
                    readings = [*readings[:-1], replace(readings[-1], record=replace(readings[-1].record, lr=applied))]

                # ---- what happened, as far as it is known
                for reading in readings:
                    recorder.step(reading.record)
                    progress.count(reading)
                    if warning := flight.complete(reading.record):
                        recorder.flight(flight.records())
                        recorder.note(warning)
                    if hold is not None and reading.score_sum is not None:
                        hold.count(reading.score_sum, reading.num_items)
                if hold is not None:
                    if remark := hold.see(progress.step):
                        recorder.note(remark)
                    progress.hold = hold.state
                progress.step, progress.batch = progress.step + 1, progress.batch + 1
                if is_read and (slow := waits.complaint(readings[-1].num_items)):
                    recorder.note(slow)
                stopping = is_read and interrupted()
                if stopping or progress.step == options.steps:
                    break
            progress.train_s += time.perf_counter() - started
            progress.wait_s += waits.seconds

            # ---- an interrupt leaves a state from which the same epoch goes on
            if stopping and progress.step < options.steps and progress.batch < len(train_loader):
                recorder.checkpoint(state(), step=progress.step)
                status = "interrupted"
                break

            # ---- the epoch's end: validate, remember the best, record, save
            validation = validate(model, average, task, val_loader, mode=mode)
            if (found := validation.scores) and progress.improve(found[task.score.name], found["loss"], task.score):
                best = copy_weights(model if average is None else average.module)
            recorder.epoch(epoch_record(progress, validation, task.score, lr=lr))
            progress.start_epoch(progress.epoch + 1)
            recorder.checkpoint(state(), step=progress.step)
            if stopping and progress.step < options.steps:
                status = "interrupted"
                break

    last_weights = copy_weights(model if average is None else average.module)
    plain_weights = None if average is None else copy_weights(model)
    if status == "early" and best is not None:
        model.load_state_dict(best)
    return FitResult(
        status=status,
        steps=progress.step,
        epoch=max(0, progress.epoch - (progress.batch == 0)),
        last=last_weights,
        plain=plain_weights,
        best=best,
        best_epoch=progress.best_epoch if best is not None else None,
    )


def check_options(options: TrainOptions, *, has_validation: bool, batch_size: int) -> None:
    """Refuse options that contradict each other or the data."""
    if options.steps < 1:
        raise RequestError(f"A run needs at least one step, got {options.steps}.")
    if options.patience and not has_validation:
        raise RequestError("Early stopping (patience) needs a validation split: set val_split above 0.")
    if options.accumulate > batch_size:
        raise RequestError(
            f"accumulate splits a batch of {batch_size} into 1 to {batch_size} parts, got {options.accumulate}."
        )


def reading_interval(optimizer: torch.optim.Optimizer, mode: ExecutionMode) -> int:
    """Steps between two readings of loss and gradient norm: 1 where asking costs nothing or a bad step must be stopped
    by hand, 32 where each reading would make a GPU finish its work first. A failure is then noticed up to 31 steps
    late, with the weights as before it.
    """
    skips_by_itself = optimizer.defaults.get("fused") or getattr(optimizer, "skips_by_itself", False)
    return 32 if mode.device.type == "cuda" and skips_by_itself and mode.amp != "fp16" else 1


def backward(
    forward: nn.Module,
    task: Task,
    batch: Any,
    *,
    mode: ExecutionMode,
    scaler: torch.amp.GradScaler,
    l1: float = 0.0,
    parts: int = 1,
) -> Taken:
    """Add the gradient of the batch-mean loss, times the scaler's scale, to the parameters'.

    Args:
        forward: the network, as it runs: wrapped for several processes, compiled, or neither.
        task: gives the loss.
        batch: on the device.
        mode: precision.
        scaler: of fp16's loss; a disabled one scales by 1.
        l1: factor of the penalty on the absolute values of the weights.
        parts: that the batch is split into to save memory; their gradients add up.
    """
    total, loss, count = num_items(batch), torch.zeros((), device=mode.device), 0
    score: Tensor | None = None
    pieces = split_batch(batch, min(parts, total))
    for index, piece in enumerate(pieces):
        with without_sync(forward, last=index == len(pieces) - 1):
            with mode.autocast():
                step = task.step(forward, piece)
            share = num_items(piece) / total
            scaler.scale(step.loss * share).backward()
        loss += step.loss.detach() * share
        count += step.num_items
        if step.score is not None:
            score = step.score.detach() + (0 if score is None else score)
    penalty = None
    if l1:
        penalty = l1 * l1_penalty(forward)
        scaler.scale(penalty).backward()
        penalty = penalty.detach()
    return Taken(loss, count, score, penalty)


@dataclass(frozen=True)
class Validation:
    """What the end of an epoch has measured.

    Args:
        scores: named numbers of the weights that count; empty without a validation split.
        plain: the same of the weights themselves, where a moving average counts; empty otherwise.
        seconds: that it took.
    """

    scores: dict[str, float]
    plain: dict[str, float]
    seconds: float


def validate(
    model: nn.Module, average: AveragedModel | None, task: Task, loader: Loader | None, *, mode: ExecutionMode
) -> Validation:
    """Compute the task's metrics on the validation split, in the precision of the training."""
    began = time.perf_counter()
    if loader is None:
        return Validation({}, {}, 0.0)
    scores = numbers_in(evaluate(model if average is None else average.module, task, loader, mode=mode))
    plain = {} if average is None else numbers_in(evaluate(model, task, loader, mode=mode))
    return Validation(scores, plain, time.perf_counter() - began)


def numbers_in(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are single numbers, which records keep; counts and tables are left to ``evaluate``.

    Example:
        >>> numbers_in({"loss": 0.5, "confusion": [[1]], "num_items": 3})
        {'loss': 0.5}
    """
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def epoch_record(progress: Progress, found: Validation, score: Score, *, lr: float) -> EpochRecord:
    """Make the epoch's record, at its end."""
    scores = {"train_loss": progress.loss_sum / progress.seen}
    if progress.scored:
        scores[f"train_{score.name}"] = progress.score_sum / progress.scored
    scores |= {f"val_{name}": value for name, value in found.scores.items()}
    scores |= {f"val_{score.name}_plain": value for name, value in found.plain.items() if name == score.name}
    return EpochRecord(
        epoch=progress.epoch,
        step=progress.step,
        lr=lr,
        items_per_s=progress.seen / progress.train_s,
        duration_s=progress.train_s + found.seconds,
        data_wait_frac=progress.wait_s / progress.train_s,
        scores=scores,
    )


# ---- what can go wrong


def first_failure(readings: Sequence[Reading], *, is_fp16: bool) -> tuple[Reading, Literal["loss", "gradient"]] | None:
    """The first step whose loss or gradient is not finite, and which of them.

    Under fp16 a gradient that overflows at a loss scale of 1 or more is no failure.
    """
    for reading in readings:
        if not math.isfinite(reading.record.loss):
            return reading, "loss"
        if not math.isfinite(reading.record.grad_norm) and not (is_fp16 and reading.grad_scale >= 1):
            return reading, "gradient"
    return None


def failed_batch(record: StepRecord, batch: Any, progress: Progress, *, loader: Loader, mode: ExecutionMode) -> Any:
    """The batch of the failed step: an earlier one of the same epoch where the failure is noticed late."""
    late = progress.step - record.step
    return mode.move(next(iter(loader.batches(progress.epoch, start=progress.batch - late)))) if late else batch


def failure(
    failed: tuple[Reading, str],
    last_steps: Sequence[FlightRecord],
    model: nn.Module,
    task: Task,
    batch: Any,
    *,
    l1: float,
    mode: ExecutionMode,
) -> NonFiniteError:
    """The error to raise: the failed batch is repeated, to find the first module that produced a bad number."""
    reading, what = failed

    def loss_of() -> Tensor:
        penalty = l1 * l1_penalty(model) if l1 else 0.0
        return (task.step(model, batch).loss + penalty) * reading.grad_scale

    with mode.autocast():
        origin = find_origin(model, batch, loss_of)
    return NonFiniteError(reading.record, what, origin=origin, batch=batch, before=describe_before(last_steps))


@contextmanager
def catch_interrupts(ranks: Ranks) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag that the loop asks for; the second one has its usual effect.

    The flag is up for all processes of the run as soon as it is for one, so that all stop after the same step.
    Outside the main thread, where signals can't be caught, the flag stays down.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ranks.any(False)
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handler)
    try:
        yield lambda: ranks.any(bool(caught))
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
