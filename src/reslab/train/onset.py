"""What went before a failure: which gradient began to grow first, when, and how fast; or that nothing did."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from reslab.records import FlightRecord

FEW = 6
"""Steps below which nothing is usual, so that nothing can be said to have left it."""
OUTSIDE = 4.0
"""Deviations of what is usual, beyond which a value is outside of it."""
GRADIENT, LOSS = 10.0, 1.5
"""Times the usual norm, or loss, that the last value must be at least for it to have grown."""


@dataclass(frozen=True)
class Growth:
    """How something grew, up to the last step.

    Args:
        start: step at which it left what was usual, as the line through its logarithm says.
        factor: per step, from there on.
        times: the last value over the usual one.
        has_jumped: it was outside of what is usual at the last step only.
        before: step up to which what is usual was taken, where the growth began before it; None otherwise.
    """

    start: int
    factor: float
    times: float
    has_jumped: bool = False
    before: int | None = None


def growth_of(history: Sequence[tuple[int, float]], *, least: float) -> Growth | None:
    """How the values grew towards the end; None if they didn't.

    What is usual is the median of the first quarter, and the spread of the changes from step to step, all on a
    logarithmic axis. Values that are 0 or not finite are left out.

    Args:
        history: steps and values.
        least: times the usual value that the last one must be.

    Example:
        >>> found = growth_of([(step, max(1.0, 2.0 ** (step - 20))) for step in range(30)], least=10)
        >>> found.start, round(found.factor, 2), round(found.times)
        (20, 2.0, 512)
    """
    known = [(step, math.log(value)) for step, value in history if math.isfinite(value) and value > 0]
    if len(known) < FEW:
        return None
    early = known[: max(3, len(known) // 4)]
    usual = statistics.median(log for _, log in early)
    limit = usual + max(math.log(2 if least > 2 else (1 + least) / 2), OUTSIDE * spread([log for _, log in known]))
    outside = list(takewhile(lambda point: point[1] > limit, reversed(known)))[::-1]
    if not outside or outside[-1][1] < usual + math.log(least):
        return None
    times = math.exp(known[-1][1] - usual)
    if len(outside) == 1:
        return Growth(outside[0][0], times, times, has_jumped=True)
    slope, offset = statistics.linear_regression(*zip(*outside, strict=True))
    start = (usual - offset) / slope if slope > 0 else outside[0][0]
    start = min(max(round(start), known[0][0]), outside[0][0])
    return Growth(start, math.exp(slope), times, before=early[-1][0] if start <= early[-1][0] else None)


def spread(logs: Sequence[float]) -> float:
    """Standard deviation of independent noise with such changes from one value to the next, a trend left out."""
    changes = [after - before for before, after in pairwise(logs)]
    middle = statistics.median(changes)
    return 1.4826 / math.sqrt(2) * statistics.median(abs(change - middle) for change in changes)


def explain(records: Sequence[FlightRecord]) -> str:
    """One or two sentences on what went before the last record's step; empty if nothing did.

    Args:
        records: in order of step; the last one is the step that failed.
    """
    before = len(records) - 1
    if before < 1:
        return ""
    if before < FEW:
        return few_steps(records[:-1])
    return onset(records) or (
        f"It came out of nothing: in the {before} steps before it neither the loss nor any parameter's gradient had"
        " grown; look at this one batch."
    )


def onset(records: Sequence[FlightRecord]) -> str:
    """What began to grow first, how fast, and what followed; empty if nothing has grown up to the last record."""
    names = records[-1].grad_norms
    found = {
        name: growth
        for name in names
        if (growth := growth_of([(r.step, r.grad_norms.get(name, 0.0)) for r in records], least=GRADIENT))
    }
    loss = growth_of([(record.step, record.loss) for record in records], least=LOSS)
    if not found:
        return "" if loss is None else f"The loss {course(loss)}, while no parameter's gradient did."
    first = min(found, key=lambda name: (found[name].start, -found[name].times))
    return with_gradients(first, found[first], loss, share=f"{len(found)} of {len(names)}")


def few_steps(records: Sequence[FlightRecord]) -> str:
    """The numbers themselves, where there are too few of them for more."""
    losses = ", ".join(f"{record.loss:.3g}" for record in records)
    norms = ", ".join(f"{record.grad_norm:.3g}" for record in records)
    steps = "The only step before it" if len(records) == 1 else f"The {len(records)} steps before it"
    return f"{steps} had a loss of {losses} and a gradient norm of {norms}."


def with_gradients(name: str, growth: Growth, loss: Growth | None, *, share: str) -> str:
    """Some gradients have grown, a share of the parameters', and one of them first."""
    if loss is not None and loss.start < growth.start:
        return (
            f"The loss {course(loss)}; the gradients of {share} parameters followed, first that of {name}, which"
            f" {course(growth)}."
        )
    if loss is None:
        rest = "the loss had not risen yet"
    elif loss.start == growth.start:
        rest = "the loss rose with it"
    else:
        rest = f"the loss followed {steps(loss.start - growth.start)} later"
    return f"The gradient of {name} {course(growth)}, the first of {share} parameters to grow; {rest}."


def course(growth: Growth) -> str:
    """How something grew, in words."""
    times = f"{growth.times:.3g} times the usual"
    if growth.has_jumped:
        return f"jumped at step {growth.start}, to {times}"
    since = f"from step {growth.start} on" if growth.before is None else f"from before step {growth.before} on"
    return f"grew {since} by a factor of {growth.factor:.3g} a step, to {times}"


def steps(count: int) -> str:
    """A number of steps in words."""
    return "1 step" if count == 1 else f"{count} steps"
