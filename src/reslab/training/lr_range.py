"""The learning-rate range test: a few steps at rates that rise by powers of ten, and what the loss says about them.

Afterwards the network, its running statistics, the optimiser and the random numbers are as they were before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice, pairwise
from statistics import fmean, linear_regression, median
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from reslab.errors import RequestError
from reslab.records.training import RangeStep
from reslab.training.execution import ExecutionMode
from reslab.training.loop import backward
from reslab.training.options import TrainOptions
from reslab.training.schedule import set_rate
from reslab.untouched import unchanged

if TYPE_CHECKING:
    from reslab.data.loader import Loader
    from reslab.tasks.task import Task

MIN_STEPS, DEFAULT_STEPS, DEFAULT_EPOCHS = 10, (40, 100), 4
DIVERGENCE = 4.0
"""The test ends where the mean loss is this multiple of its lowest."""
MIN_FALL, MIN_FALL_ERRORS = 0.02, 6.0
"""What counts as a fall of the mean loss: this fraction of it, and this number of its own standard errors.

The lowest of many means lies below the true one: of 300 tests of pure noise, one in a hundred falls by 5.4."""
NORMAL_JUMP = 0.954
"""Median distance of two normal readings, in standard deviations."""
STEEP_FRACTION = 0.5
"""The loss falls steeply where its slope is at least so much of the steepest one."""

Ending = Literal["done", "diverged", "not finite"]


@dataclass(frozen=True)
class Sweep:
    """Which rates are tried: from the lowest to the highest, each by the same factor above the one before.

    Args:
        lowest: rate of the first step.
        highest: rate of the last step.
        steps: how many; 0 for as many as four epochs have, but 40 at least and 100 at most.

    Example:
        >>> sweep = Sweep(lowest=0.001, highest=10.0, steps=5)
        >>> [round(sweep.rate(step), 4) for step in range(5)]
        [0.001, 0.01, 0.1, 1.0, 10.0]
    """

    lowest: float = 1e-6
    highest: float = 10.0
    steps: int = 0

    def rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        return self.lowest * math.exp(math.log(self.highest / self.lowest) * step / (self.steps - 1))

    @property
    def keep(self) -> float:
        """The weight of a loss in the mean, relative to that of the next one: about a twentieth of all steps count."""
        return 1 - 1 / max(2.0, self.steps / 20)

    @property
    def reach(self) -> int:
        """The slope at a step is that of a line through this number of steps before and after it."""
        return max(2, self.steps // 25)

    def for_epochs_of(self, num_batches: int) -> Sweep:
        """With the number of steps filled in."""
        fitting = min(DEFAULT_STEPS[1], max(DEFAULT_STEPS[0], DEFAULT_EPOCHS * num_batches))
        return replace(self, steps=self.steps or fitting)

    def check(self) -> None:
        """Refuses what is no range."""
        if not 0 < self.lowest < self.highest < math.inf:
            raise RequestError(
                f"A range test goes from a rate above 0 up to a higher one, got lowest {self.lowest:g} and highest"
                f" {self.highest:g}. The defaults are 1e-6 and 10."
            )
        if self.steps and self.steps < MIN_STEPS:
            raise RequestError(
                f"A range test needs at least {MIN_STEPS} steps to tell a fall from noise, got {self.steps};"
                f" {DEFAULT_STEPS[1]} are usual, and 0 leaves the number open."
            )


@dataclass(frozen=True)
class Suggestion:
    """What the test recommends; None where there is nothing to recommend.

    Args:
        lr: the suggested rate: the last one at which the mean loss still falls steeply.
        steepest: where it falls fastest.
        tenth: a tenth of the rate at which it is lowest; None if that was not reached.
        reason: in words.
    """

    lr: float | None
    steepest: float | None
    tenth: float | None
    reason: str


@dataclass(frozen=True)
class LrRange:
    """What a range test found.

    Args:
        steps: all that were taken.
        ending: ``done``, or why it ended early: the mean loss ``diverged`` or a loss was ``not finite``.
        suggestion: which rate to use.
    """

    steps: tuple[RangeStep, ...]
    ending: Ending
    suggestion: Suggestion


# ---- the test


def lr_range_test(
    model: nn.Module,
    task: Task,
    loader: Loader,
    *,
    optimizer: torch.optim.Optimizer,
    sweep: Sweep = Sweep(),
    options: TrainOptions | None = None,
    mode: ExecutionMode | None = None,
    seen: Callable[[RangeStep], object] | None = None,
) -> LrRange:
    """Trains for a few steps at rising rates, puts everything back, and suggests a rate.

    Args:
        model: on its device.
        task: gives the loss.
        loader: of the training split; its epochs are gone through one after the other.
        optimizer: over the model's parameters; each group gets its share (``lr_scale``) of the rate.
        sweep: which rates.
        options: parts of a batch, clipping and L1 penalty are as in ``fit``; the rest has no effect.
        mode: precision, memory format and device; by default plain fp32 where the model is.
        seen: called after each step.

    Raises:
        RequestError: if the range is none.

    Reference:
        Smith 2015, arXiv:1506.01186, sec. 3.3.

    Deviates:
        Smith raises the rate linearly over several epochs and watches the validation accuracy. Here it rises
        exponentially, since the right one may lie in any power of ten, and the training loss is watched, which needs
        no second pass over the data; both as in fastai's ``lr_find``.
    """
    sweep.check()
    sweep = sweep.for_epochs_of(len(loader))
    options, mode = options or TrainOptions(), mode or ExecutionMode.of(model)
    scaler = torch.amp.GradScaler(mode.device.type, enabled=mode.amp == "fp16")
    means, taken, ending = Means(sweep.keep), list[RangeStep](), None
    with unchanged(model, optimizer):
        mode.prepare(model)
        model.train()
        for step, batch in enumerate(islice(endless(loader), sweep.steps)):
            set_rate(optimizer, lr := sweep.rate(step))
            loss = take_step(model, task, batch, optimizer=optimizer, options=options, mode=mode, scaler=scaler)
            taken.append(RangeStep(step, lr, loss, *means.add(lr, loss)))
            if seen is not None:
                seen(taken[-1])
            if ending := ending_of(taken):
                break
    return LrRange(tuple(taken), ending or "done", suggest(taken, sweep))


def take_step(
    model: nn.Module,
    task: Task,
    batch: Any,
    *,
    optimizer: torch.optim.Optimizer,
    options: TrainOptions,
    mode: ExecutionMode,
    scaler: torch.amp.GradScaler,
) -> float:
    """Take one training step as ``fit`` does, and return the loss before it."""
    optimizer.zero_grad(set_to_none=True)
    taken = backward(model, task, mode.move(batch), l1=options.l1, parts=options.accumulate, mode=mode, scaler=scaler)
    scaler.unscale_(optimizer)
    if options.clip_grad_norm:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, options.clip_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    return taken.loss.item()


def endless(loader: Loader) -> Iterator[Any]:
    """Yield the batches of one epoch after the other."""
    return chain.from_iterable(loader.batches(epoch) for epoch in count())


class Means:
    """Bias-corrected exponential averages of rate and loss, of the same weights: the loss doesn't lag behind the rate.

    Args:
        keep: weight of a reading relative to the next one.

    Example:
        >>> means = Means(0.5)
        >>> means.add(1.0, 3.0)
        (1.0, 3.0)
        >>> [round(mean, 3) for mean in means.add(0.1, 0.0)]  # the second one weighs twice as much
        [0.215, 1.0]

    Deviates:
        fastai draws the averaged loss over the rate of its last step, which puts its steepest descent at a rate that is
        too high.
    """

    def __init__(self, keep: float) -> None:
        self.keep, self.weight, self.log_lr, self.loss = keep, 0.0, 0.0, 0.0

    def add(self, lr: float, loss: float) -> tuple[float, float]:
        """Both means, this reading included."""
        self.weight = self.keep * self.weight + 1
        self.log_lr = self.keep * self.log_lr + math.log(lr)
        self.loss = self.keep * self.loss + loss
        return math.exp(self.log_lr / self.weight), self.loss / self.weight


def ending_of(taken: Sequence[RangeStep]) -> Ending | None:
    """Why the test should end after these steps; None if it should go on."""
    if not math.isfinite(taken[-1].loss):
        return "not finite"
    return "diverged" if taken[-1].mean_loss > DIVERGENCE * min(step.mean_loss for step in taken) else None


# ---- what it says


def suggest(taken: Sequence[RangeStep], sweep: Sweep) -> Suggestion:
    """The last rate at which the mean loss still falls steeply, that is, at half its fastest or faster.

    A schedule's peak belongs at the upper end of the useful rates: Smith puts it where progress slows, and that is
    where the steep descent ends. Two better-known rules come along. The steepest descent itself jumps between seeds,
    since a fresh network's loss falls twice: first to that of guessing, at tiny rates, and again when it begins to
    learn; for ResNet-20 on CIFAR-10 two seeds gave 0.0006 and 0.005. A tenth of the rate at the lowest loss is lower
    than needed, and so the one to try if the suggested rate proves unstable.

    Args:
        taken: the steps of a test.
        sweep: what was planned.

    Reference:
        Smith 2015, arXiv:1506.01186, sec. 3.3: the largest useful rate is where the accuracy slows, becomes ragged or
        falls. fastai's ``lr_find`` calls the two other rules ``steep`` and ``minimum``.
    """
    steps, is_cut = [step for step in taken if math.isfinite(step.mean_loss)], len(taken) < sweep.steps
    settled = max(sweep.reach, sweep.steps // 10)  # the means of the first steps are of too few
    if len(steps) <= settled + sweep.reach:
        return nothing("the loss grew from the first steps on. Lower --lowest.")
    start = fmean(step.loss for step in steps[:settled])
    bottom = min(range(settled, len(steps)), key=lambda index: steps[index].mean_loss)
    if start - steps[bottom].mean_loss <= max(MIN_FALL * abs(start), MIN_FALL_ERRORS * noise_of(steps, sweep)):
        return nothing(never_fell(start, steps[bottom].mean_loss, is_cut=is_cut))
    last = len(steps) - sweep.reach - 1
    slopes = {index: slope_at(steps, index, sweep.reach) for index in range(settled, min(bottom, last) + 1)}
    steepest = min(slopes, key=lambda index: slopes[index])
    steep = max(index for index, slope in slopes.items() if slope <= STEEP_FRACTION * slopes[steepest])
    if not is_cut and steep == last:
        return nothing(f"the loss still fell steeply at the highest rate, {taken[-1].lr:.2g}. Raise --highest.")
    lowest = steps[bottom].mean_lr if bottom < len(steps) - 1 else None
    return found(steps[steep].mean_lr, steps[steepest].mean_lr, lowest)


def nothing(reason: str) -> Suggestion:
    """No suggestion."""
    return Suggestion(None, None, None, f"No suggestion: {reason}")


def found(lr: float, steepest: float, lowest: float | None) -> Suggestion:
    """A suggestion with its reason."""
    fastest = f"; it falls fastest at {steepest:.2g}" if f"{steepest:.2g}" != f"{lr:.2g}" else ""
    reason = f"Learning rate {lr:.2g}: the last one at which the loss still falls steeply{fastest}"
    if lowest is None:
        return Suggestion(lr, steepest, None, f"{reason}.")
    safer = f" If {lr:.2g} proves unstable, take {lowest / 10:.2g}, a tenth of that." if lowest / 10 < lr else ""
    return Suggestion(lr, steepest, lowest / 10, f"{reason} and is lowest at {lowest:.2g}.{safer}")


def noise_of(steps: Sequence[RangeStep], sweep: Sweep) -> float:
    """Standard error of the mean loss, from how much the losses jump from one step to the next.

    The middle jump is taken: a loss that explodes at the end says nothing about the noise before.
    """
    jumps = [abs(second.loss - first.loss) for first, second in pairwise(steps)]
    of_one_loss = median(jumps) / NORMAL_JUMP
    return of_one_loss * math.sqrt((1 - sweep.keep) / (1 + sweep.keep))


def never_fell(start: float, lowest: float, *, is_cut: bool) -> str:
    """Why there is no suggestion, and what may help."""
    advice = (
        "If even the lowest rate is too high, lower --lowest; otherwise the network doesn't learn from this data."
        if is_cut
        else "Raise --highest or --steps; if that changes nothing, the network doesn't learn from this data."
    )
    return f"the loss never fell (it began at {start:.3g}, its lowest mean is {lowest:.3g}). {advice}"


def slope_at(steps: Sequence[RangeStep], index: int, reach: int) -> float:
    """Mean loss against the logarithm of the mean rate: slope of the line of least squares about a step."""
    near = steps[max(0, index - reach) : index + reach + 1]
    return linear_regression([math.log(step.mean_lr) for step in near], [step.mean_loss for step in near]).slope
