"""``fit``: the training loop, one function to be read from top to bottom."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reslab.errors import RequestError
from reslab.records import BlockGradientRecord, EpochRecord, StepRecord
from reslab.train.compiled import compiled
from reslab.train.distributed import ALONE, Ranks, without_sync
from reslab.train.evaluate import AmpKind, Batches, Task, autocast, evaluate, to_device
from reslab.train.failure import NonFiniteError, Origin, find_origin
from reslab.train.meter import Meter, Reading, Waits
from reslab.train.optim import l1_penalty, moving_average
from reslab.train.rates import HOLD_WINDOW, Hold, RateCheck, long_hold, never_let_go, set_rate
from reslab.train.schedule import Schedule

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class FitOptions:
    """How to train, besides model, data, optimiser and schedule.

    Args:
        steps: optimiser steps of the whole run.
        device: where the model is and the batches go.
        amp: autocast in ``"bf16"`` or ``"fp16"`` (with loss scaling), or ``"none"``.
        channels_last: run convolutions in the N, H, W, C memory format.
        compile: run the model through torch.compile.
        accumulate: split each batch into so many parts and add up their gradients; the batch that a step sees stays
            the same, the memory shrinks. Batch norm sees the parts.
        clip_grad_norm: scale the gradient down to this norm where it is larger.
        l1: factor of the L1 penalty.
        ema_decay: keep a moving average of the weights, and validate and return that.
        patience: stop after so many epochs without a lower validation error.
        hold: keep the rate down until the network has begun to learn.
        ranks: the processes that train together; each gets its share of every batch.
        read_every: steps between two readings of loss and gradient norm. Each makes a GPU finish its work first, so 32
            there costs nothing; a failure is then noticed up to 31 steps late, with the weights as before it. By
            default 32 on a GPU whose optimiser can skip a step by itself, and 1 otherwise.
    """

    steps: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    amp: AmpKind = "none"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    clip_grad_norm: float | None = None
    l1: float = 0.0
    ema_decay: float | None = None
    patience: int | None = None
    hold: Hold | None = None
    ranks: Ranks = ALONE
    read_every: int | None = None


class Probe(Protocol):
    """Looks into the network while it trains."""

    def attach(self, model: nn.Module) -> Any:
        """A context in which the probe is attached to the model; opened for each step that is due, and no other."""

    def due(self, step: int) -> bool:
        """Whether it reads this step, which then runs uncompiled."""

    def read(self, step: int, *, grad_scale: float = 1.0) -> Sequence[BlockGradientRecord]:
        """What it saw in the backward pass of this step."""


class Recorder:
    """Receives what happens during ``fit``. This one forgets it; ``reslab.run`` has the one that writes it down."""

    def restore(self) -> dict[str, Any] | None:
        """The state to go on from, or None to start at step 0."""
        return None

    def step(self, record: StepRecord) -> None:
        """After each optimiser step."""

    def epoch(self, record: EpochRecord) -> None:
        """After each epoch."""

    def probe(self, records: Sequence[BlockGradientRecord]) -> None:
        """After each reading of a probe."""

    def checkpoint(self, state: dict[str, Any], *, step: int) -> None:
        """After each epoch and on interruption; ``state`` is all that going on needs."""

    def note(self, text: str) -> None:
        """Something that the user should know; each is said once."""


@dataclass
class Progress:
    """Where a run stands: everything that changes while it trains, but for model, optimiser and scaler.

    Args:
        step: optimiser steps taken.
        epoch: the epoch that the next step belongs to.
        batch: batches of that epoch already trained on.
        loss_sum: over the epoch's images so far.
        wrong: answers in the epoch so far.
        seen: images in the epoch so far.
        train_s: seconds of training in the epoch so far.
        wait_s: seconds of these spent waiting for batches.
        holding: whether the rate is still held down; None until the first step.
        held_wrong: answers since the hold last looked.
        held_seen: images since then.
        best_error: lowest validation error so far.
        best_loss: validation loss that came with it; breaks ties.
        best_epoch: when that was; -1 before the first validation.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    wrong: int = 0
    seen: int = 0
    train_s: float = 0.0
    wait_s: float = 0.0
    holding: bool | None = None
    held_wrong: int = 0
    held_seen: int = 0
    best_error: float = math.inf
    best_loss: float = math.inf
    best_epoch: int = -1

    def ran_out(self, patience: int | None) -> bool:
        """Whether the epochs since the best one have used up the patience; asked between epochs."""
        return patience is not None and self.batch == 0 and self.epoch - 1 - self.best_epoch >= patience

    def start_epoch(self, epoch: int) -> None:
        """Resets what counts per epoch."""
        self.epoch, self.batch = epoch, 0
        self.loss_sum, self.wrong, self.seen, self.train_s, self.wait_s = 0.0, 0, 0, 0.0, 0.0

    def count(self, reading: Reading, images: int) -> None:
        """Adds one step's numbers."""
        self.loss_sum += reading.loss * images
        self.wrong, self.seen = self.wrong + reading.wrong, self.seen + images
        self.held_wrong, self.held_seen = self.held_wrong + reading.wrong, self.held_seen + images

    def let_go(self, hold: Hold, *, step: int) -> bool:
        """Ends the hold if the last 100 steps' error is low enough; True at that moment."""
        if not self.holding or (step + 1) % HOLD_WINDOW:
            return False
        self.holding = self.held_wrong >= hold.until_error * self.held_seen
        self.held_wrong, self.held_seen = 0, 0
        return not self.holding


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
        probes: read after every backward pass.

    Raises:
        NonFiniteError: at a NaN or infinity in the loss or the gradient. The weights are those before that step.
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
    pending: list[StepRecord] = []  # steps whose loss and norm are still on the device
    status: Literal["done", "early", "interrupted"] = "done"

    def state() -> dict[str, Any]:
        return state_of(progress, best, model, optimizer, scaler, average)

    with ExitStack() as stack:
        interrupted = stack.enter_context(catch_interrupts(ranks, device))

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
                loss, wrong = torch.zeros((), device=device), torch.zeros((), device=device)
                due = [probe for probe in probes if probe.due(progress.step)]
                forward = eager if due else fast
                with ExitStack() as looking:
                    for probe in due:
                        looking.enter_context(probe.attach(model))
                    for index, (part, part_labels) in enumerate(split_batch(images, labels, options.accumulate)):
                        with without_sync(forward, last=index == options.accumulate - 1):
                            with autocast(options.amp, device):
                                outputs = forward(part)
                                part_loss = task.loss(outputs, part_labels)
                            share = len(part) / len(images)
                            scaler.scale(part_loss * share).backward()
                        loss += part_loss.detach() * share
                        wrong += task.num_wrong(outputs.detach(), part_labels)
                penalty = None
                if options.l1:
                    penalty = options.l1 * l1_penalty(model)
                    scaler.scale(penalty).backward()

                # ---- the gradient: unscaled, measured, clipped
                grad_scale = scaler.get_scale()
                scaler.unscale_(optimizer)
                max_norm = options.clip_grad_norm or math.inf
                grad_norm = nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
                meter.add(loss, grad_norm, wrong, grad_scale=grad_scale, penalty=penalty)
                pending.append(StepRecord(progress.step, progress.epoch, lr, math.nan, math.nan))

                # ---- every so often the device is waited for, and what came in is checked before the step is taken
                last = progress.step + 1 == options.steps or progress.batch + 1 == len(train_loader)
                reading = last or (progress.step + 1) % read_every == 0
                readings = meter.read() if reading else []
                for record, found in zip(pending, readings, strict=False):
                    if failed := failure_of(found, is_fp16=scaler.is_enabled()):
                        if record.step != progress.step:  # noticed late: the weights are still those before it
                            where = progress.batch - (progress.step - record.step)
                            images, labels = next(iter(train_loader.batches(progress.epoch, start=where)))
                            images, labels = images.to(device), labels.to(device)
                        origin = locate(model, task, images, labels, options=options, grad_scale=found.grad_scale)
                        raise NonFiniteError(
                            record.step, record.epoch, failed, lr=record.lr, origin=origin, images=images, labels=labels
                        )

                for probe in due:
                    recorder.probe(probe.read(progress.step, grad_scale=grad_scale))

                # ---- the step
                if read_every > 1:
                    optimizer.found_inf, optimizer.grad_scale = meter.bad, None  # type: ignore[attr-defined]
                scaler.step(optimizer)
                scaler.update()
                if average is not None:
                    average.update_parameters(model)
                if changed := rates.see(progress.step, expected=lr, optimizer=optimizer):
                    recorder.note(changed)
                    pending[-1] = replace(pending[-1], lr=float(optimizer.param_groups[0]["lr"]))

                # ---- what happened, as far as it is known
                if reading:
                    for record, found in zip(pending, readings, strict=True):
                        recorder.step(
                            replace(
                                record,
                                loss=found.loss,
                                grad_norm=found.grad_norm,
                                l1_penalty=found.penalty if options.l1 else None,
                                skipped=not math.isfinite(found.grad_norm),
                            )
                        )
                        progress.count(found, batch_size)
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
            validated = time.perf_counter()
            measured = plain = None
            if val_loader is not None:
                target = model if average is None else average.module
                measured = measure(target, task, val_loader, options=options)
                plain = None if average is None else measure(model, task, val_loader, options=options)
                found_now = (measured["error"], measured["loss"])
                if found_now < (progress.best_error, progress.best_loss) or progress.best_epoch < 0:
                    progress.best_error, progress.best_loss = found_now
                    progress.best_epoch, best = progress.epoch, copy_weights(target)
            recorder.epoch(
                EpochRecord(
                    epoch=progress.epoch,
                    step=progress.step,
                    lr=lr,
                    train_loss=progress.loss_sum / progress.seen,
                    train_error=progress.wrong / progress.seen,
                    val_loss=None if measured is None else measured["loss"],
                    val_error=None if measured is None else measured["error"],
                    val_error_plain=None if plain is None else plain["error"],
                    images_per_s=progress.seen / progress.train_s,
                    data_wait_frac=progress.wait_s / progress.train_s,
                    duration_s=progress.train_s + time.perf_counter() - validated,
                )
            )
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


def reading_interval(optimizer: torch.optim.Optimizer, options: FitOptions) -> int:
    """1 where asking costs nothing or a bad step must be stopped by hand, 32 otherwise."""
    skips_by_itself = optimizer.defaults.get("fused") or getattr(optimizer, "skips_by_itself", False)
    return 32 if options.device.type == "cuda" and skips_by_itself and options.amp != "fp16" else 1


def failure_of(found: Reading, *, is_fp16: bool) -> str | None:
    """``loss`` or ``gradient``, whichever is not finite; fp16's overflow at a scale of 1 or more is no failure."""
    if not math.isfinite(found.loss):
        return "loss"
    overflowed = is_fp16 and found.grad_scale >= 1
    return None if math.isfinite(found.grad_norm) or overflowed else "gradient"


def measure(model: nn.Module, task: Task, loader: Batches, *, options: FitOptions) -> dict[str, Any]:
    """The task's metrics on the validation split, in the precision of the training."""
    return evaluate(
        model,
        task,
        loader,
        device=options.device,
        amp=options.amp,
        channels_last=options.channels_last,
    )


def check_options(options: FitOptions, *, has_validation: bool, batch_size: int) -> None:
    """Refuses options that contradict each other or the data."""
    if options.steps < 1:
        raise RequestError(f"A run needs at least one step, got {options.steps}.")
    if options.patience is not None and not has_validation:
        raise RequestError("Early stopping (patience) needs a validation split: set val_split above 0.")
    if options.accumulate < 1 or options.accumulate > batch_size:
        raise RequestError(
            f"accumulate splits a batch of {batch_size} into 1 to {batch_size} parts, got {options.accumulate}."
        )
    if options.ema_decay is not None and not 0 < options.ema_decay < 1:
        raise RequestError(f"ema_decay lies in (0, 1), near 1, got {options.ema_decay}.")


def split_batch(images: Tensor, labels: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch in ``parts`` pieces of nearly equal size."""
    yield from zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)


def locate(
    model: nn.Module, task: Task, images: Tensor, labels: Tensor, *, options: FitOptions, grad_scale: float
) -> Origin:
    """Repeats the failed batch and finds the first module that produced a non-finite number."""

    def loss_of(outputs: Tensor) -> Tensor:
        penalty = options.l1 * l1_penalty(model) if options.l1 else 0.0
        return (task.loss(outputs, labels) + penalty) * grad_scale

    with autocast(options.amp, options.device):
        return find_origin(model, images, loss_of)


def copy_weights(model: nn.Module) -> Weights:
    """A copy of the state_dict on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def state_of(
    progress: Progress,
    best: Weights | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
) -> dict[str, Any]:
    """Everything that going on needs, in types that load without running code."""
    return {
        "progress": vars(progress).copy(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "average": None if average is None else average.state_dict(),
        "best": best,
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_state(
    saved: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
) -> tuple[Progress, Weights | None]:
    """Puts everything back as ``state_of`` found it."""
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved["scaler"])
    if (average is None) != (saved["average"] is None):
        raise RequestError("The checkpoint and this run disagree on whether a moving average is kept (ema_decay).")
    if average is not None:
        average.load_state_dict(saved["average"])
    torch.set_rng_state(saved["rng"])
    if saved["rng_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["rng_cuda"])
    return replace(Progress(), **saved["progress"]), saved["best"]


@contextmanager
def catch_interrupts(ranks: Ranks, device: torch.device) -> Iterator[Any]:
    """Turns the first SIGINT or SIGTERM into a flag that the loop asks for; the second one has its usual effect.

    The flag is up for all processes of the run as soon as it is for one, so that all stop after the same step.
    Outside the main thread, where signals can't be caught, the flag stays down.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ranks.any(False, device)
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handler)
    try:
        yield lambda: ranks.any(bool(caught), device)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
