"""What a learning-rate range test found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RangeStep:
    """One step of a learning-rate range test.

    Args:
        step: counts from 0.
        lr: rate of this step.
        loss: of its batch, before the weights move.
        mean_lr: exponential average of the rates so far, over their logarithms, bias-corrected.
        mean_loss: exponential average of the losses so far, with the same weights.
    """

    step: int
    lr: float
    loss: float
    mean_lr: float
    mean_loss: float


@dataclass(frozen=True)
class RangeRecord:
    """lr-range.json: what a learning-rate range test found.

    Args:
        name: network and data.
        optimizer: its kind.
        batch_size: images a step.
        seed: of everything random.
        lowest: first rate of the range.
        highest: last rate of the range.
        num_steps: planned.
        ending: ``done``, ``diverged`` or ``not finite``.
        lr: suggested rate; None if there is nothing to suggest.
        steepest_lr: where the mean loss falls fastest.
        tenth_lr: a tenth of the rate at the lowest mean loss.
        reason: in words.
        steps: those that were taken.
    """

    name: str
    optimizer: str
    batch_size: int
    seed: int
    lowest: float
    highest: float
    num_steps: int
    ending: str
    lr: float | None
    steepest_lr: float | None
    tenth_lr: float | None
    reason: str
    steps: list[RangeStep]
