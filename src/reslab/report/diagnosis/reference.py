"""How the gradient lies along the depth of healthy networks, as measured: ``benchmarks/reference_flow.py``."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).with_name("healthy_flow.json")
SHARES = [place / 20 for place in range(21)]
"""Of the depth, from the first place, 0, to the last, 1."""


@dataclass(frozen=True)
class Reference:
    """5 to 95 % of healthy networks.

    Args:
        networks: their names.
        low: decades above the last place's gradient, at each of ``SHARES``.
        high: the same, of the upper end.
    """

    networks: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@cache
def reference() -> Reference:
    """As it was saved."""
    saved = json.loads(DATA.read_text(encoding="utf-8"))
    return Reference(tuple(saved["networks"]), tuple(saved["low"]), tuple(saved["high"]))


def decades_at(norms: Sequence[float], shares: Sequence[float]) -> list[float] | None:
    """A profile's decades above its last place at shares of the depth; None where a norm is 0 or not finite.

    Example:
        >>> decades_at([100.0, 10.0, 1.0], [0.0, 0.25, 1.0])
        [2.0, 1.5, 0.0]
    """
    if len(norms) < 2 or not all(0 < norm < math.inf for norm in norms):
        return None
    decades = [math.log10(norm / norms[-1]) for norm in norms]
    return [_between(decades, share * (len(decades) - 1)) for share in shares]


def band_of(profiles: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """5 and 95 % of profiles, place by place, to a hundredth of a decade."""
    cuts = [statistics.quantiles(column, n=20, method="inclusive") for column in zip(*profiles, strict=True)]
    return [round(cut[0], 2) for cut in cuts], [round(cut[-1], 2) for cut in cuts]


def _between(values: Sequence[float], place: float) -> float:
    """The straight line between neighbours."""
    left = min(int(place), len(values) - 2)
    return values[left] + (place - left) * (values[left + 1] - values[left])
