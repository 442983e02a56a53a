"""How the conclusions of studies write what they compare."""

from __future__ import annotations

import math
from typing import Literal

from reslab.records import StudyRow, as_percent

CLEARLY = 2.0
"""A difference of so many of its standard errors is called clear. With three seeds that is a hint, no proof."""


def told(row: StudyRow, key: str) -> str:
    """Mean of an error, its deviation and how many.

    Example:
        >>> told(StudyRow("x", {}, {"error": (0.25, 0.27)}, {}, 0), "error")
        '26.00 % (± 1.41, n = 2)'
        >>> told(StudyRow("x", {}, {"error": (0.25,)}, {}, 0), "error")
        '25.00 %'
    """
    mean, count, spread = as_percent(row.mean(key)), len(row.values.get(key, ())), row.deviation(key)
    if count < 2 or math.isnan(spread):
        return mean
    return f"{mean} (\N{PLUS-MINUS SIGN} {100 * spread:.2f}, n = {count})"


def standard_errors(first: StudyRow, second: StudyRow, key: str) -> float:
    """The difference of two means over its standard error, signed; infinite where nothing spreads, NaN for one seed."""
    counts = [len(row.values.get(key, ())) for row in (first, second)]
    if min(counts) < 2:
        return math.nan
    error = math.sqrt(sum(row.deviation(key) ** 2 / count for row, count in zip((first, second), counts, strict=True)))
    difference = first.mean(key) - second.mean(key)
    if error:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def verdict_of(first: StudyRow, second: StudyRow, key: str) -> Literal["better", "worse", "equal"]:
    """Whether the first's error is clearly lower, clearly higher, or no seed can tell.

    Example:
        >>> rows = [StudyRow("x", {}, {"error": numbers}, {}, 0) for numbers in ((0.1, 0.11), (0.2, 0.21))]
        >>> verdict_of(*rows, "error"), verdict_of(*reversed(rows), "error"), verdict_of(rows[0], rows[0], "error")
        ('better', 'worse', 'equal')
    """
    distance = standard_errors(first, second, key)
    return "better" if distance < -CLEARLY else "worse" if distance > CLEARLY else "equal"


def compared(first: StudyRow, second: StudyRow, key: str, *, names: tuple[str, str]) -> str:
    """Two errors and whether they differ by more than their seeds do.

    Example:
        >>> rows = [StudyRow("x", {}, {"error": numbers}, {}, 0) for numbers in ((0.1, 0.11), (0.2, 0.21))]
        >>> compared(*rows, "error", names=("with", "without"))
        'with 10.50 % (± 0.71, n = 2), without 20.50 % (± 0.71, n = 2): with is better by 10.00 points'
    """
    figures = f"{names[0]} {told(first, key)}, {names[1]} {told(second, key)}"
    difference = 100 * (first.mean(key) - second.mean(key))
    distance = standard_errors(first, second, key)
    better = names[0] if difference < 0 else names[1]
    if math.isnan(distance):
        return f"{figures}; one seed says nothing about the spread"
    if abs(distance) < CLEARLY:
        return f"{figures}: no difference that {len(first.values[key])} seeds can show"
    return f"{figures}: {better} is better by {abs(difference):.2f} points"
