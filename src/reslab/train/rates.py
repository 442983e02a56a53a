"""Whether the learning rate did what its schedule said.

Two well-known reproductions trained for days at a rate that nobody had meant: a warm-up that never ended, and a rate
that something else had changed. Both show in the rate that was really applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Hold:
    """Keeps the rate down until the network has begun to learn.

    Args:
        share: of the scheduled rate, while it is held.
        until_error: training error (as trained, over the last 100 steps) below which it is let go, for good.

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 4.2: for 110 layers 0.01 until the training error is below 80 %, about
        400 iterations, then 0.1.

    Deviates:
        The error is looked at every 100 steps; the paper doesn't say how often.
    """

    share: float = 0.1
    until_error: float = 0.8


HOLD_WINDOW = 100
"""Steps over which the error is taken that ends a hold."""


class RateCheck:
    """Compares the rate that an optimiser really has at each step with what its schedule says.

    Works in any loop: call ``see`` right after ``optimizer.step()``.

    Example:
        >>> check = RateCheck()
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
        >>> check.see(0, expected=0.1, optimizer=optimizer)
        'The learning rate of step 0 was 0.01, and the schedule says 0.1: something changed it behind the schedule.'
        >>> check.see(1, expected=0.1, optimizer=optimizer) is None  # said once
        True
    """

    def __init__(self) -> None:
        self.said = False

    def see(self, step: int, *, expected: float, optimizer: torch.optim.Optimizer) -> str | None:
        """A sentence at the first step whose rate is another, for any parameter group; None otherwise."""
        wrong = [rate for rate, share in applied_rates(optimizer) if not math.isclose(rate, expected * share)]
        if self.said or not wrong:
            return None
        self.said = True
        return (
            f"The learning rate of step {step} was {wrong[0]:.6g}, and the schedule says {expected:.6g}: something"
            " changed it behind the schedule."
        )


def applied_rates(optimizer: torch.optim.Optimizer) -> Iterable[tuple[float, float]]:
    """Rate and share of the scheduled rate of every parameter group."""
    return [(float(group["lr"]), group.get("lr_scale", 1.0)) for group in optimizer.param_groups]


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group its share of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def long_hold(total_steps: int) -> int:
    """Steps after which a hold that still lasts is worth a word: five times the paper's 400, or half of a short run."""
    return min(2000, max(1, total_steps // 2))


def never_let_go(hold: Hold, *, steps: int) -> str:
    """What to say of a hold that has lasted for long."""
    return (
        f"The warm-up has not ended after {steps} steps: the rate is still {hold.share:g} of the scheduled one, because"
        f" the training error has not fallen below {100 * hold.until_error:.0f} % over {HOLD_WINDOW} steps. Training"
        " goes on at this rate until it does."
    )
