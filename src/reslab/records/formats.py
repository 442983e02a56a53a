"""How numbers are written everywhere."""

from __future__ import annotations


def as_percent(share: float | None) -> str:
    """How an error is written everywhere: two decimals, a dash where there is none.

    Example:
        >>> as_percent(0.0827), as_percent(None)
        ('8.27 %', '-')
    """
    return "-" if share is None else f"{100 * share:.2f} %"


def as_short(count: int | None) -> str:
    """How a large count is written where three digits do; a dash where there is none.

    Example:
        >>> as_short(4_089_184_256), as_short(853_018), as_short(10), as_short(None)
        ('4.09 G', '853 k', '10', '-')
    """
    if count is None:
        return "-"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 0.9995 * size:
            share = count / size
            return f"{share:.{0 if share >= 99.95 else 1 if share >= 9.995 else 2}f} {unit}"
    return str(count)
