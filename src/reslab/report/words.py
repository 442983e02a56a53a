"""How the page writes numbers, times and any other value of a record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from reslab.records import as_percent

DASH = "\N{EN DASH}"
NAMES = {
    "num_train": "training images",
    "num_val": "validation images",
    "num_test": "test images",
    "num_parameters": "parameters",
    "num_classes": "number of classes",
}


def name_of(key: str) -> str:
    """What the page calls a key of a record.

    Example:
        >>> name_of("num_train"), name_of("weight_decay")
        ('training images', 'weight decay')
    """
    return NAMES.get(key, key.replace("_", " "))


def in_words(value: Any) -> str:
    """Any value of a record.

    Example:
        >>> in_words(1727962), in_words(True), in_words({"mean": [0.5], "size": 8}), in_words(["cat", "dog"])
        ('1,727,962', 'yes', 'mean: 0.5; size: 8', 'cat, dog')
    """
    if value is None or value in ("", [], {}):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{name_of(key)}: {in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(in_words(item) for item in value[:12])
        return shown if len(value) <= 12 else f"{shown} \N{HORIZONTAL ELLIPSIS} ({len(value)} in all)"
    return str(value)


def percent(share: float | None) -> str:
    """An error, or a dash where there is none."""
    return DASH if share is None else as_percent(share)


def duration(seconds: float) -> str:
    """Two units at most.

    Example:
        >>> duration(83.4), duration(7380)
        ('1 min 23 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def moment(started: str) -> str:
    """To the minute; whatever isn't ISO 8601 as it is.

    Example:
        >>> moment("2026-01-05T10:00:31+00:00")
        '2026-01-05 10:00 UTC'
    """
    try:
        return datetime.fromisoformat(started).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return started


def ratio(value: float) -> str:
    """Three digits.

    Example:
        >>> ratio(1240.4), ratio(3.14159), ratio(2.5e9)
        ('1,240', '3.14', '2.5e+09')
    """
    return f"{float(f'{value:.3g}'):,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"
