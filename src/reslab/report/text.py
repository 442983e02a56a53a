"""How pages write numbers, times and any other value of a record."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
NAMES = {"num_train": "training images", "num_val": "validation images", "num_test": "test images"}
NAMES |= {"num_parameters": "parameters", "num_classes": "number of classes"}


def name_of(key: str) -> str:
    """Return what a page calls a key of a record; paths into the config stay as they are typed.

    Example:
        >>> name_of("num_train"), name_of("test_set"), name_of("optim.weight_decay")
        ('training images', 'test set', 'optim.weight_decay')
    """
    return NAMES.get(key, key if "." in key else key.replace("_", " "))


def in_words(value: Any) -> str:
    """Write any value of a record.

    Example:
        >>> in_words(1727962), in_words(True), in_words({"mean": [0.5], "size": 8}), in_words(["cat", "dog"])
        ('1,727,962', 'yes', 'mean: 0.5; size: 8', 'cat, dog')
    """
    if value is None or value in ("", [], {}):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{name_of(key)}: {in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(in_words(item) for item in value[:12])
        return shown if len(value) <= 12 else f"{shown} \N{HORIZONTAL ELLIPSIS} ({len(value)} in all)"
    return str(value)


def plural(count: int, noun: str) -> str:
    """Write a count with its noun.

    Example:
        >>> plural(1, "run"), plural(1200, "run"), plural(2, "branch")
        ('1 run', '1,200 runs', '2 branches')
    """
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('nch') else 's'}"


def duration(seconds: float) -> str:
    """Write a time in two units at most.

    Example:
        >>> duration(8.34), duration(83.4), duration(7380)
        ('8.3 s', '1 min 23 s', '2 h 3 min')
    """
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(started: str) -> str:
    """Write a time of day to the minute; whatever isn't ISO 8601 stays as it is.

    Example:
        >>> moment("2026-01-05T10:00:31+00:00")
        '2026-01-05 10:00 UTC'
    """
    try:
        return datetime.fromisoformat(started).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return started


def ratio(value: float) -> str:
    """Write a factor with three digits.

    Example:
        >>> ratio(1240.4), ratio(3.14159), ratio(3.02e6), ratio(2.5e12)
        ('1,240', '3.14', '3,020,000', '2.5e+12')
    """
    return f"{float(f'{value:.3g}'):,.0f}" if 100 <= value < 1e9 else f"{value:.3g}"


def times(factor: float) -> str:
    """Write a factor with its sign; one that many blocks make much of has four decimals.

    Example:
        >>> [times(factor)[1:] for factor in (1.184, 0.5, 1.0014, 250.0)]
        ['1.18', '0.50', '1.0014', '2.5e+02']
    """
    if 0.01 <= factor < 100:
        return f"{TIMES}{factor:.{4 if 1e-4 < abs(factor - 1) < 0.01 else 2}f}"
    return f"{TIMES}{factor:.2g}"


def percent(fraction: float) -> str:
    """Write a fraction in whole percent, not to be broken between number and sign."""
    return f"{100 * fraction:.0f}\N{NO-BREAK SPACE}%"


def five_digits(value: float) -> float | None:
    """Round for a chart; None for what JSON has no word for."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
