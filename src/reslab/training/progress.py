"""Where a run stands, what a resumed one needs, and what the loop measures without waiting for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reslab.distributed import Ranks
from reslab.errors import RequestError
from reslab.records import Score, StepRecord

Weights = dict[str, Tensor]
Item = TypeVar("Item")

# ---- the numbers of the last steps


@dataclass(frozen=True)
class Taken:
    """What one forward and backward pass came to; tensors are 0-dim, without gradient, and still on the device.

    Args:
        loss: mean over the batch.
        num_items: of the batch, in this process.
        score: summed over the items; None where the task has none for a single batch.
        penalty: the L1 term; None without one.
    """

    loss: Tensor
    num_items: int
    score: Tensor | None
    penalty: Tensor | None


@dataclass(frozen=True)
class Reading:
    """One step's numbers, read from the device; of all processes.

    Args:
        record: of the step; its gradient norm is the one before clipping.
        num_items: in the batch.
        score_sum: over the items; None where the task has none for a single batch.
        grad_scale: of fp16's loss scaling; 1 otherwise.
    """

    record: StepRecord
    num_items: int
    score_sum: float | None
    grad_scale: float


class Meter:
    """Keeps the numbers of several steps on the device and reads them all at once.

    A GPU that is asked for a number finishes all its work before it answers; asking every step costs a tenth of the
    time of a small network. ``bad`` is 1 from the first step with a NaN or infinity on: an optimiser that takes
    ``found_inf`` skips that step and all later ones by itself, so that the weights stay those before it.

    Args:
        ranks: whose numbers are added up.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.steps, self.rows = ranks, list[tuple[StepRecord, Taken]](), list[Tensor]()
        self.bad = torch.zeros((), device=ranks.device)

    def add(self, record: StepRecord, taken: Taken, grad_norm: Tensor, grad_scale: float) -> None:
        """Note one step; its tensors stay where they are."""
        loss, zero = taken.loss, taken.loss.new_zeros(())
        score, penalty = (zero if value is None else value for value in (taken.score, taken.penalty))
        row = torch.stack([loss, grad_norm, score, loss.new_full((), grad_scale), penalty]).float()
        self.bad = torch.maximum(self.bad, (~row[:2].isfinite().all()).float())
        self.steps.append((record, taken))
        self.rows.append(row)

    def read(self) -> list[Reading]:
        """The steps since the last reading: the loop's one wait for the device."""
        table, steps = torch.stack(self.rows), self.steps
        self.rows, self.steps = [], []
        if self.ranks.world > 1:
            table[:, 0], table[:, 2] = self.ranks.mean(table[:, 0]), self.ranks.sum(table[:, 2])
        return [
            Reading(
                replace(
                    record,
                    loss=loss,
                    grad_norm=norm,
                    l1_penalty=None if taken.penalty is None else penalty,
                    skipped=not math.isfinite(norm),
                ),
                num_items=taken.num_items * self.ranks.world,
                score_sum=None if taken.score is None else score,
                grad_scale=scale,
            )
            for (record, taken), (loss, norm, score, scale, penalty) in zip(steps, table.tolist(), strict=True)
        ]


MAX_WAIT_FRAC, MIN_BATCHES, MIN_S = 0.2, 20, 10.0
"""A loader is slow if the loop waits for it for more of its time, over at least this many batches and seconds."""


class Waits:
    """Measures how long a loop waits for its batches, and says so once if that is long.

    Example:
        >>> waits = Waits()
        >>> [batch for batch in waits.over([1, 2])], waits.complaint(128)
        ([1, 2], None)
    """

    def __init__(self) -> None:
        self.seconds, self.first, self.batches, self.began, self.has_warned = 0.0, 0.0, 0, 0.0, False

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches of an epoch as they are; ``seconds`` counts from its beginning."""
        self.seconds, self.batches, self.began = 0.0, 0, time.perf_counter()
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            if not self.batches:
                self.first = self.seconds  # workers start, or fill their queues
            self.batches += 1
            yield batch

    def complaint(self, items_per_batch: int) -> str | None:
        """Describe a slow loader, with the figure and the mend; only the first time that there is reason to."""
        running = time.perf_counter() - self.began - self.first
        waiting = self.seconds - self.first
        slow = self.batches >= MIN_BATCHES and running >= MIN_S and waiting > MAX_WAIT_FRAC * running
        if self.has_warned or not slow:
            return None
        self.has_warned = True
        items = self.batches * items_per_batch
        return (
            f"the loader is slower than the network: {items / running:,.0f} items/s where the network takes"
            f" {items / (running - waiting):,.0f} (data-bound: {100 * (1 - waiting / running):.0f} %). More --workers,"
            " smaller image files, or --cache-mib help."
        )


# ---- where a run stands


@dataclass
class Progress:
    """Everything that changes while a run trains, except model, optimiser and scaler.

    Args:
        step: optimiser steps taken.
        epoch: the epoch that the next step belongs to.
        batch: batches of that epoch already trained on.
        loss_sum: over the epoch's items so far.
        score_sum: over the epoch's items so far, of batches that had a score.
        scored: items of these batches.
        seen: items in the epoch so far.
        train_s: seconds of training in the epoch so far.
        wait_s: seconds of these spent waiting for batches.
        best_score: best validation score so far.
        best_loss: validation loss that came with it; breaks ties.
        best_epoch: when that was; -1 before the first validation.
        hold: state of a schedule that keeps the rate low; empty for another.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    score_sum: float = 0.0
    scored: int = 0
    seen: int = 0
    train_s: float = 0.0
    wait_s: float = 0.0
    best_score: float = math.nan
    best_loss: float = math.inf
    best_epoch: int = -1
    hold: dict[str, Any] | None = None

    def ran_out(self, patience: int) -> bool:
        """Whether the epochs since the best one have used up the patience (0: never); asked between epochs."""
        return patience > 0 and self.batch == 0 and self.epoch - 1 - self.best_epoch >= patience

    def improve(self, value: float, loss: float, score: Score) -> bool:
        """Remember the epoch's validation if it is the best so far; return whether it was."""
        is_tie = value == self.best_score and loss < self.best_loss
        if self.best_epoch >= 0 and not is_tie and not score.is_better(value, than=self.best_score):
            return False
        self.best_score, self.best_loss, self.best_epoch = value, loss, self.epoch
        return True

    def start_epoch(self, epoch: int) -> None:
        """Reset what counts per epoch."""
        self.epoch, self.batch = epoch, 0
        self.loss_sum, self.score_sum, self.scored, self.seen = 0.0, 0.0, 0, 0
        self.train_s, self.wait_s = 0.0, 0.0

    def count(self, reading: Reading) -> None:
        """Add one step's numbers."""
        self.loss_sum += reading.record.loss * reading.num_items
        self.seen += reading.num_items
        if reading.score_sum is not None:
            self.score_sum, self.scored = self.score_sum + reading.score_sum, self.scored + reading.num_items


def copy_weights(model: nn.Module) -> Weights:
    """Copy the state_dict to the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def state_of(
    progress: Progress,
    best: Weights | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
) -> dict[str, Any]:
    """Collect everything that a resumed run needs, in types that load without running code."""
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
    """Put everything back as ``state_of`` found it."""
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
