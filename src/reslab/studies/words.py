"""How the conclusions of studies write what they compare."""

from __future__ import annotations

import math
from typing import Literal

from reslab.records import StudyRow, as_percent

LEVEL = 0.05
"""Welch's test: a difference that seeds alone would make less often than this is called clear."""
LEAST = 0.003
"""And it is three tenths of a point at least: one image of the digits' test split is 0.28."""
ONE_SEED = 0.05
"""Of single runs: five points, for there is no spread to compare with."""


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


def p_value(first: StudyRow, second: StudyRow, key: str) -> float:
    """How often seeds alone would make two means differ so much; NaN for a single seed of either.

    Reference:
        Welch 1947, Biometrika 34: the t-test without equal variances.
    """
    from scipy.stats import ttest_ind

    samples = [row.values.get(key, ()) for row in (first, second)]
    if min(map(len, samples)) < 2:
        return math.nan
    if all(len(set(numbers)) == 1 for numbers in samples):  # no spread at all
        return float(samples[0][0] == samples[1][0])
    return float(ttest_ind(*samples, equal_var=False).pvalue)


def difference_of(first: StudyRow, second: StudyRow, key: str) -> Literal["better", "worse", "equal", "one seed"]:
    """Whether the first's error is clearly lower, clearly higher, or seeds can't tell.

    Example:
        >>> rows = [StudyRow("x", {}, {"error": numbers}, {}, 0) for numbers in ((0.1, 0.11), (0.2, 0.21))]
        >>> [difference_of(rows[0], other, "error") for other in rows], difference_of(*reversed(rows), "error")
        (['equal', 'better'], 'worse')
    """
    difference, chance = first.mean(key) - second.mean(key), p_value(first, second, key)
    if math.isnan(chance):
        return "one seed"
    if chance >= LEVEL or abs(difference) < LEAST:
        return "equal"
    return "better" if difference < 0 else "worse"


def is_worse(row: StudyRow, other: StudyRow, key: str) -> bool:
    """Clearly; of single runs, by five points; and what diverged every time is worse than anything.

    Example:
        >>> rows = [StudyRow("x", {}, {"error": numbers}, {}, 0) for numbers in ((0.1,), (0.2,))]
        >>> is_worse(rows[1], rows[0], "error"), is_worse(rows[0], rows[1], "error")
        (True, False)
    """
    if not row.num_ended:
        return True
    found = difference_of(row, other, key)
    return row.mean(key) - other.mean(key) > ONE_SEED if found == "one seed" else found == "worse"


def compared(first: StudyRow, second: StudyRow, key: str, *, names: tuple[str, str]) -> str:
    """Two errors and whether they differ by more than their seeds do.

    Example:
        >>> rows = [StudyRow("x", {}, {"error": numbers}, {}, 0) for numbers in ((0.1, 0.11), (0.2, 0.21))]
        >>> compared(*rows, "error", names=("with", "without"))
        'with 10.50 % (± 0.71, n = 2), without 20.50 % (± 0.71, n = 2): with is better by 10.00 points'
    """
    figures = f"{names[0]} {told(first, key)}, {names[1]} {told(second, key)}"
    found = difference_of(first, second, key)
    if found == "one seed":
        return f"{figures}; one seed says nothing about the spread"
    if found == "equal":
        return f"{figures}: no difference that {len(first.values[key])} seeds can show"
    points = 100 * abs(first.mean(key) - second.mean(key))
    return f"{figures}: {names[0] if found == 'better' else names[1]} is better by {points:.2f} points"
