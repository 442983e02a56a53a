"""Schedules: the learning rate as a function of the step; and whether the rate that was applied was the scheduled one.

All but ``Hold`` are pure functions, so that a resumed run is at the right rate at once, and the rate of any step can be
read beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from reslab.errors import RequestError
from reslab.records import Score
from reslab.records.training import ERROR
from reslab.training.options import ScheduleOptions

Schedule = Callable[[int], float]
"""Step, counted from 0, to learning rate."""


def constant(lr: float) -> Schedule:
    """Use ``lr`` at every step."""
    return lambda step: lr


def multistep(lr: float, *, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Multiply ``lr`` by ``gamma`` at each milestone.

    Args:
        lr: rate at step 0.
        milestones: steps at which the rate drops.
        gamma: factor of each drop.

    Example:
        >>> rate = multistep(0.1, milestones=[2, 4])
        >>> [round(rate(step), 4) for step in range(6)]
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 4.2: 0.1, divided by 10 at 32k and 48k of 64k iterations.
    """
    return lambda step: float(lr * gamma ** sum(step >= milestone for milestone in milestones))


def cosine(lr: float, *, total_steps: int, final_lr: float = 0.0) -> Schedule:
    """Follow half a cosine from ``lr`` at step 0 to ``final_lr`` at ``total_steps``.

    Reference:
        Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.
    """
    return lambda step: final_lr + (lr - final_lr) * _cosine_fraction(step / total_steps)


def one_cycle(
    lr: float, *, total_steps: int, rise_share: float = 0.3, start_divisor: float = 25.0, end_divisor: float = 1e4
) -> Schedule:
    """Rise by half a cosine from ``lr / start_divisor`` to ``lr``, then fall to ``lr / start_divisor / end_divisor``.

    Args:
        lr: peak rate.
        total_steps: length of the run.
        rise_share: fraction of the steps until the peak.
        start_divisor: peak over first rate.
        end_divisor: first over last rate.

    Reference:
        Smith and Topin 2017, arXiv:1708.07120.

    Deviates:
        Momentum stays as it is; torch's OneCycleLR cycles it too unless told otherwise. The rates are equal to torch's.
    """
    first, last = lr / start_divisor, lr / start_divisor / end_divisor
    peak_step = rise_share * total_steps - 1
    end_step = total_steps - 1

    def rate(step: int) -> float:
        if step <= peak_step:
            return lr + (first - lr) * _cosine_fraction(step / peak_step)
        return last + (lr - last) * _cosine_fraction((step - peak_step) / (end_step - peak_step))

    return rate


def triangle(lr: float, *, total_steps: int, rise_share: float = 0.2, final_lr: float = 0.0) -> Schedule:
    """Rise in a straight line to ``lr``, and fall in one to ``final_lr`` at ``total_steps``.

    Args:
        lr: peak rate.
        total_steps: length of the run.
        rise_share: fraction of the steps until the peak.
        final_lr: rate that the line down ends at.

    Example:
        >>> rate = triangle(1.0, total_steps=10, rise_share=0.2)
        >>> [round(rate(step), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.125]

    Reference:
        Smith 2015, arXiv:1506.01186, sec. 3.2, a single cycle of the triangular policy.

    Deviates:
        The first step has the first rate above zero, since a step at rate zero would be lost.
    """
    peak_step = max(1.0, rise_share * total_steps)

    def rate(step: int) -> float:
        left = (total_steps - step) / (total_steps - peak_step)
        return lr * (step + 1) / peak_step if step + 1 <= peak_step else final_lr + (lr - final_lr) * min(1.0, left)

    return rate


def warm_up(schedule: Schedule, *, steps: int, start: float = 0.1) -> Schedule:
    """Multiply the first ``steps`` rates by a line from ``start`` to 1; from then on the schedule is as it was.

    Milestones and totals keep their places: the warm-up lies over the schedule's beginning and doesn't shift it.

    Example:
        >>> rate = warm_up(constant(1.0), steps=3, start=0.1)
        >>> [round(rate(step), 2) for step in range(5)]
        [0.1, 0.4, 0.7, 1.0, 1.0]

    Reference:
        Goyal et al. 2017, arXiv:1706.02677, sec. 2.2, gradual warm-up.
    """
    if steps < 0 or not 0 < start <= 1:
        raise RequestError(f"A warm-up needs steps >= 0 and a start in (0, 1], got {steps} and {start}.")
    return lambda step: schedule(step) * (start + (1 - start) * step / steps if step < steps else 1.0)


def make_schedule(options: ScheduleOptions, *, lr: float, total_steps: int, steps_per_epoch: int) -> Schedule:
    """Make the schedule of a whole run; ``Hold`` is left to the caller, who knows the network's depth.

    Raises:
        RequestError: if the warm-up fills the whole run.
    """
    match options.kind:
        case "constant":
            rate = constant(lr)
        case "multistep":
            milestones = [round(fraction * total_steps) for fraction in options.milestones]
            rate = multistep(lr, milestones=milestones, gamma=options.gamma)
        case "cosine":
            rate = cosine(lr, total_steps=total_steps, final_lr=options.final_lr)
        case "one_cycle":
            rate = one_cycle(lr, total_steps=total_steps, rise_share=options.rise_share)
        case "triangle":
            rate = triangle(lr, total_steps=total_steps, rise_share=options.rise_share, final_lr=options.final_lr)
    warmup_steps = round(options.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise RequestError(
            f"A warm-up of {warmup_steps} steps would fill the whole run of {total_steps}. Lower --warmup-epochs."
        )
    return warm_up(rate, steps=warmup_steps, start=options.warmup_start) if warmup_steps else rate


def _cosine_fraction(progress: float) -> float:
    """Half a cosine: 1 at progress 0, 0 at progress 1 and after."""
    return (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2


# ---- a schedule with feedback


class Hold:
    """A schedule that keeps the rate low until the network has begun to learn.

    Args:
        schedule: whose rate is kept low.
        total_steps: of the run; a hold that lasts for half of it, or 2,000 steps, is worth a word.
        fraction: of the scheduled rate, while it is held.
        until: training score (as trained, over the last 100 steps) from which the rate is let go, permanently.
        score: which score it is.

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 4.2: for 110 layers 0.01 until the training error is below 80 %, about
        400 iterations, then 0.1.

    Deviates:
        The score is looked at every 100 steps; the paper doesn't say how often.
    """

    WINDOW = 100
    """Steps that the score is taken over."""

    def __init__(
        self, schedule: Schedule, *, total_steps: int, fraction: float = 0.1, until: float = 0.8, score: Score = ERROR
    ) -> None:
        self.schedule, self.fraction, self.until, self.score = schedule, fraction, until, score
        self.long_hold = min(2000, max(1, total_steps // 2))  # five times the paper's 400, or half of a short run
        self.state: dict[str, Any] = {"holding": True, "score_sum": 0.0, "num_items": 0}

    def __call__(self, step: int) -> float:
        """The rate of a step, as far as is known by now."""
        return self.schedule(step) * (self.fraction if self.state["holding"] else 1.0)

    def count(self, score_sum: float, num_items: int) -> None:
        """Note a step's score, summed over its items."""
        self.state["score_sum"] += score_sum
        self.state["num_items"] += num_items

    def see(self, step: int) -> str | None:
        """Decide after a step whether to let go; return what is worth saying about it."""
        if not self.state["holding"]:
            return None
        if (step + 1) % self.WINDOW == 0:
            mean = self.state["score_sum"] / max(1, self.state["num_items"])
            self.state = {"holding": not self.score.is_better(mean, than=self.until), "score_sum": 0.0, "num_items": 0}
            if not self.state["holding"]:
                return f"warm-up ended after {step + 1} steps: the rate is the scheduled one now"
        if step + 1 != self.long_hold:
            return None
        return (
            f"The warm-up has not ended after {step + 1} steps: the rate is still {self.fraction:g} of the scheduled"
            f" one, because the training {self.score.name} has not become better than"
            f" {self.score.format(self.until)} over {self.WINDOW} steps. Training goes on at this rate until it does."
        )


# ---- whether the rate did what its schedule said


class RateCheck:
    """Compares the rate that an optimiser really has at each step with what its schedule says.

    Two well-known reproductions trained for days at a rate that nobody had meant: a warm-up that never ended, and a
    rate that something else had changed. Works in any loop: call ``see`` right after ``optimizer.step()``.

    Example:
        >>> check = RateCheck()
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
        >>> check.see(0, expected=0.1, optimizer=optimizer)
        'The learning rate of step 0 was 0.01, and the schedule says 0.1: something changed it behind the schedule.'
        >>> check.see(1, expected=0.1, optimizer=optimizer) is None  # it warns once
        True
    """

    def __init__(self) -> None:
        self.has_warned = False

    def see(self, step: int, *, expected: float, optimizer: torch.optim.Optimizer) -> str | None:
        """A sentence at the first step whose rate is another, for any parameter group; None otherwise."""
        rates = [(float(group["lr"]), group.get("lr_scale", 1.0)) for group in optimizer.param_groups]
        wrong = [rate for rate, scale in rates if not math.isclose(rate, expected * scale)]
        if self.has_warned or not wrong:
            return None
        self.has_warned = True
        return (
            f"The learning rate of step {step} was {wrong[0]:.6g}, and the schedule says {expected:.6g}: something"
            " changed it behind the schedule."
        )


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group its fraction of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
