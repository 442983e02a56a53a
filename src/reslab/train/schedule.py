"""Schedules: the learning rate as a pure function of the step.

A schedule has no state, so a resumed run is at the right rate at once, and the rate of any step can be read beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from reslab.errors import RequestError

Schedule = Callable[[int], float]
"""Step, counted from 0, to learning rate."""


def constant(lr: float) -> Schedule:
    """``lr`` at every step."""
    return lambda step: lr


def multistep(lr: float, *, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """``lr`` times ``gamma`` for each milestone passed.

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
    """Half a cosine from ``lr`` at step 0 to ``final_lr`` at ``total_steps``.

    Reference:
        Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.
    """
    return lambda step: final_lr + (lr - final_lr) * _cosine_share(step / total_steps)


def one_cycle(
    lr: float, *, total_steps: int, rise_share: float = 0.3, start_divisor: float = 25.0, end_divisor: float = 1e4
) -> Schedule:
    """Rises by half a cosine from ``lr / start_divisor`` to ``lr``, then falls to ``lr / start_divisor / end_divisor``.

    Args:
        lr: peak rate.
        total_steps: length of the run.
        rise_share: share of the steps until the peak.
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
            return lr + (first - lr) * _cosine_share(step / peak_step)
        return last + (lr - last) * _cosine_share((step - peak_step) / (end_step - peak_step))

    return rate


def triangle(lr: float, *, total_steps: int, rise_share: float = 0.2, final_lr: float = 0.0) -> Schedule:
    """A straight line up to ``lr``, and a straight line down to ``final_lr`` at ``total_steps``.

    Args:
        lr: peak rate.
        total_steps: length of the run.
        rise_share: share of the steps until the peak.
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


def _cosine_share(progress: float) -> float:
    """1 at progress 0, 0 at progress 1 and after."""
    return (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2


def warm_up(schedule: Schedule, *, steps: int, start: float = 0.1) -> Schedule:
    """Multiplies the first ``steps`` rates by a line from ``start`` to 1; from then on the schedule is as it was.

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
