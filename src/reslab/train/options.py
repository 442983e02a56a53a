"""How to train, besides model, data, optimiser and schedule; and what contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from reslab.distributed import LOCAL, Ranks
from reslab.errors import RequestError
from reslab.train.evaluate import AmpKind
from reslab.train.rates import Hold


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
    ranks: Ranks = LOCAL
    read_every: int | None = None


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


def reading_interval(optimizer: torch.optim.Optimizer, options: FitOptions) -> int:
    """1 where asking costs nothing or a bad step must be stopped by hand, 32 otherwise."""
    skips_by_itself = optimizer.defaults.get("fused") or getattr(optimizer, "skips_by_itself", False)
    return 32 if options.device.type == "cuda" and skips_by_itself and options.amp != "fp16" else 1
