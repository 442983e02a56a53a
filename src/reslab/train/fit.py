"""``fit``: the training loop, one function to be read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reslab.records import EpochRecord, FlightRecord, ReadingRecord, StepRecord
from reslab.train.backward import backward
from reslab.train.compiled import compiled
from reslab.train.evaluate import Batches, Task, autocast, evaluate, to_device
from reslab.train.failure import NonFiniteError, find_origin
from reslab.train.flight import Flight, clip_gradients
from reslab.train.interrupts import catch_interrupts
from reslab.train.meter import Meter, Reading, Waits
from reslab.train.onset import explain
from reslab.train.optim import l1_penalty, moving_average
from reslab.train.options import FitOptions, check_options, reading_interval
from reslab.train.progress import Progress, Weights, copy_weights, load_state, state_of
from reslab.train.rates import RateCheck, long_hold, never_let_go, set_rate
from reslab.train.schedule import Schedule

Metrics = dict[str, Any]


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
        """The state to go on from, or None to start at step 0."""
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
        """After each epoch and on interruption; ``state`` is all that going on needs."""

    def note(self, text: str) -> None:
        """Something that the user should know; each is said once."""

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
        best: weights with the lowest validation error; None without validation.
        best_epoch: when that was.
    """

    status: Literal["done", "early", "interrupted"]
    steps: int
    epoch: int
    last: Weights
    plain: Weights | None
    best: Weights | None
    best_epoch: int | None


def fit(
    model: nn.Module,
    task: Task,
    loaders: tuple[Batches, Batches | None],
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    options: FitOptions,
    recorder: Recorder | None = None,
    probes: Sequence[Probe] = (),
) -> FitResult:
    """Trains ``model`` for ``options.steps`` steps and leaves it with the weights of the last one.

    If patience runs out before, training stops and the model gets the best weights back.

    Args:
        model: on ``options.device``; takes images (N, C, H, W).
        task: loss and metrics.
        loaders: of the training and of the validation split (or None).
        optimizer: over the model's parameters; its rates are set by the schedule before each step.
        schedule: step to learning rate.
        options: see ``FitOptions``.
        recorder: gets every record and checkpoint.
        probes: read after every step that they are due at.

    Raises:
        NonFiniteError: at a NaN or infinity in the loss or the gradient. The weights are those before that step.
            The recorder gets the last hundred steps before, and the error says in words how it came.
            Under fp16, a gradient that overflows is no failure: the step is skipped and the loss scale halved, until
            the scale falls below 1.

    Ctrl-C (SIGINT) and SIGTERM end the run after the current step, with a checkpoint to go on from; a second
    one ends it at once.
    """
    train_loader, val_loader = loaders
    device, ranks, recorder = options.device, options.ranks, recorder or Recorder()
    check_options(options, has_validation=val_loader is not None, batch_size=train_loader.batch_size)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
    average = moving_average(model, options.ema_decay) if options.ema_decay is not None else None
    progress, best = Progress(holding=options.hold is not None), None
    if (saved := recorder.restore()) is not None:
        progress, best = load_state(saved, model, optimizer, scaler, average)
    eager = ranks.wrap(model, device)
    fast = compiled(eager) if options.compile else eager
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    read_every = options.read_every or reading_interval(optimizer, options)
    meter, rates, waits = Meter(ranks, device), RateCheck(), Waits()
    flight = Flight(model, parameters, read_every=read_every)
    pending: list[StepRecord] = []  # steps whose loss and norm are still on the device
    status: Literal["done", "early", "interrupted"] = "done"

    def state() -> dict[str, Any]:
        return state_of(progress, best, model, optimizer, scaler, average)

    with catch_interrupts(ranks, device) as interrupted:
        while progress.step < options.steps:
            if progress.ran_out(options.patience):
                status = "early"
                break

            # ---- one epoch, or what is left of it
            model.train()
            started, stopping = time.perf_counter(), False
            for images, labels in waits.over(train_loader.batches(progress.epoch, start=progress.batch)):
                images = to_device(images, device, channels_last=options.channels_last)
                labels = labels.to(device, non_blocking=True)
                batch_size = len(images) * ranks.world

                # ---- the rate of this step, as the schedule says, for every group
                lr = schedule(progress.step)
                if progress.holding and options.hold is not None:
                    lr *= options.hold.share
                set_rate(optimizer, lr)

                # ---- forward and backward
                optimizer.zero_grad(set_to_none=True)
                due = [probe for probe in probes if probe.due(progress.step)]
                forward = eager if due else fast
                with ExitStack() as looking:
                    for probe in due:
                        looking.enter_context(probe.attach(model))
                    loss, wrong = backward(forward, task, images, labels, options=options, scaler=scaler)
                    penalty = None
                    if options.l1:
                        penalty = options.l1 * l1_penalty(model)
                        scaler.scale(penalty).backward()

                # ---- the gradient: unscaled, measured, clipped
                grad_scale = scaler.get_scale()
                scaler.unscale_(optimizer)
                grad_norm, norms = clip_gradients(parameters, options.clip_grad_norm or math.inf)
                flight.note(progress.step, norms)
                meter.add(loss, grad_norm, wrong, grad_scale=grad_scale, penalty=penalty)
                pending.append(StepRecord(progress.step, progress.epoch, lr, math.nan, math.nan))

                # ---- every so often the device is waited for, and what came in is checked before the step is taken
                last = progress.step + 1 == options.steps or progress.batch + 1 == len(train_loader)
                reading = last or (progress.step + 1) % read_every == 0
                readings = meter.read() if reading else []
                if failed := first_failure(pending, readings, is_fp16=scaler.is_enabled()):
                    late = progress.step - failed[0].step  # noticed late: the weights are still those before it
                    if late:
                        images, labels = batch_before(train_loader, progress, steps=late)
                    for record, found in zip(pending, readings[: len(pending) - late], strict=False):
                        flight.complete(complete(record, found, has_penalty=penalty is not None))
                    recorder.flight(last_steps := flight.records())
                    batch = images.to(device), labels.to(device)
                    raise failure(model, task, batch, failed, options=options, before=explain(last_steps))

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
                    pending[-1] = replace(pending[-1], lr=float(optimizer.param_groups[0]["lr"]))

                # ---- what happened, as far as it is known
                if reading:
                    for record, found in zip(pending, readings, strict=True):
                        completed = complete(record, found, has_penalty=penalty is not None)
                        recorder.step(completed)
                        progress.count(found, batch_size)
                        if warning := flight.complete(completed):
                            recorder.flight(flight.records())
                            recorder.note(warning)
                    pending = []
                if options.hold is not None and progress.let_go(options.hold, step=progress.step):
                    recorder.note(f"warm-up ended after {progress.step + 1} steps: the rate is the scheduled one now")
                progress.step, progress.batch = progress.step + 1, progress.batch + 1
                if options.hold is not None and progress.holding and progress.step == long_hold(options.steps):
                    recorder.note(never_let_go(options.hold, steps=progress.step))
                if reading and (slow := waits.complaint(batch_size)):
                    recorder.note(slow)
                stopping = reading and interrupted()
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
            validation = validate(model, average, task, val_loader, options=options)
            if (measured := validation.measured) and progress.improve(measured["error"], measured["loss"]):
                best = copy_weights(model if average is None else average.module)
            recorder.epoch(epoch_record(progress, validation, lr=lr))
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


def first_failure(
    records: Sequence[StepRecord], readings: Sequence[Reading], *, is_fp16: bool
) -> tuple[StepRecord, Reading, Literal["loss", "gradient"]] | None:
    """The first step whose loss or gradient is not finite, and which of them.

    Under fp16 a gradient that overflows at a loss scale of 1 or more is no failure.
    """
    for record, found in zip(records, readings, strict=False):
        if not math.isfinite(found.loss):
            return record, found, "loss"
        if not math.isfinite(found.grad_norm) and not (is_fp16 and found.grad_scale >= 1):
            return record, found, "gradient"
    return None


def complete(record: StepRecord, found: Reading, *, has_penalty: bool) -> StepRecord:
    """A step's record with what the device knew of it."""
    return replace(
        record,
        loss=found.loss,
        grad_norm=found.grad_norm,
        l1_penalty=found.penalty if has_penalty else None,
        skipped=not math.isfinite(found.grad_norm),
    )


@dataclass(frozen=True)
class Validation:
    """What the end of an epoch has measured.

    Args:
        measured: metrics of the weights that count; None without a validation split.
        plain: metrics of the weights themselves, where a moving average counts; None otherwise.
        seconds: that it took.
    """

    measured: Metrics | None
    plain: Metrics | None
    seconds: float


def validate(
    model: nn.Module, average: AveragedModel | None, task: Task, loader: Batches | None, *, options: FitOptions
) -> Validation:
    """The task's metrics on the validation split, in the precision of the training."""
    began = time.perf_counter()
    if loader is None:
        return Validation(None, None, 0.0)

    def metrics(of: nn.Module) -> Metrics:
        return evaluate(of, task, loader, device=options.device, amp=options.amp, channels_last=options.channels_last)

    measured = metrics(model if average is None else average.module)
    plain = None if average is None else metrics(model)
    return Validation(measured, plain, time.perf_counter() - began)


def epoch_record(progress: Progress, found: Validation, *, lr: float) -> EpochRecord:
    """The epoch's record, at its end."""
    measured, plain = found.measured, found.plain
    return EpochRecord(
        epoch=progress.epoch,
        step=progress.step,
        lr=lr,
        items_per_s=progress.seen / progress.train_s,
        data_wait_frac=progress.wait_s / progress.train_s,
        duration_s=progress.train_s + found.seconds,
        scores={
            "train_loss": progress.loss_sum / progress.seen,
            "train_error": progress.wrong / progress.seen,
            **({} if measured is None else {"val_loss": measured["loss"], "val_error": measured["error"]}),
            **({} if plain is None else {"val_error_plain": plain["error"]}),
        },
    )


def batch_before(loader: Batches, progress: Progress, *, steps: int) -> tuple[Tensor, Tensor]:
    """The batch of so many steps ago, in the same epoch."""
    return next(iter(loader.batches(progress.epoch, start=progress.batch - steps)))


def failure(
    model: nn.Module,
    task: Task,
    batch: tuple[Tensor, Tensor],
    failed: tuple[StepRecord, Reading, Literal["loss", "gradient"]],
    *,
    options: FitOptions,
    before: str,
) -> NonFiniteError:
    """The error to raise: the failed batch is repeated, to find the first module that produced a non-finite number."""
    (images, labels), (record, found, what) = batch, failed

    def loss_of(outputs: Tensor) -> Tensor:
        penalty = options.l1 * l1_penalty(model) if options.l1 else 0.0
        return (task.loss(outputs, labels) + penalty) * found.grad_scale

    with autocast(options.amp, options.device):
        origin = find_origin(model, images, loss_of)
    return NonFiniteError(record, what, origin=origin, batch=batch, before=before)
