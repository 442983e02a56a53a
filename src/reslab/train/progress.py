"""Where a run stands, and everything that going on from there needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reslab.errors import RequestError
from reslab.train.meter import Reading
from reslab.train.rates import HOLD_WINDOW, Hold

Weights = dict[str, Tensor]


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

    def improve(self, error: float, loss: float) -> bool:
        """Remembers the epoch's validation if it is the best so far; whether it was."""
        if self.best_epoch >= 0 and not (error, loss) < (self.best_error, self.best_loss):
            return False
        self.best_error, self.best_loss, self.best_epoch = error, loss, self.epoch
        return True

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
