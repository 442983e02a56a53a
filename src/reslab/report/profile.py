"""The gradient along the depth of a network: its norms block by block, its stages, the line through them, and the norms
of healthy networks (measured by ``benchmarks/reference_flow.py``).
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reslab.records import ReadingRecord

MIN_POINTS = 8
"""Blocks or layers below which a line through them says nothing about the depth."""
HEALTHY_FILE = Path(__file__).with_name("healthy_flow.json")
FRACTIONS = [step / 20 for step in range(21)]
"""Of the depth, from the first block, 0, to the last, 1: where the norms of healthy networks are kept."""


def is_measured(norm: float) -> bool:
    """Whether a logarithmic axis has a place for it."""
    return 0 < norm < math.inf


@dataclass(frozen=True)
class GradientProfile:
    """Gradient norms along the depth, at the inputs of blocks or layers in order of execution.

    A tenth of the samples have less than ``low``, a tenth more than ``high``; NaN where samples can't be distinguished.
    """

    step: int
    names: tuple[str, ...]
    norms: tuple[float, ...]
    unit: str = "block"  # or "layer" where there are too few blocks
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def growth(self) -> float:
        """The first norm over the last; NaN where that can't be said."""
        ends = (self.norms[0], self.norms[-1]) if self.norms else (0.0, 0.0)
        return ends[0] / ends[1] if all(map(is_measured, ends)) else math.nan


def depth_profile(reading: ReadingRecord) -> GradientProfile:
    """Return the residual additions, or the layers where there are too few of these: the same choice as the verdict's.

    The layers are those that everything goes through; the first, whose input is the data, has no norm.
    """
    blocks, layers = reading.blocks, reading.layers
    if len(blocks) >= MIN_POINTS or len(blocks) > len(layers):
        low, high = (tuple(getattr(block, f"grad_norm_{end}") for block in blocks) for end in ("low", "high"))
        names, norms = tuple(block.name for block in blocks), tuple(block.grad_norm for block in blocks)
        return GradientProfile(reading.step, names, norms, low=low, high=high)
    known = [layer for layer in layers if not math.isnan(layer.grad_norm)]
    names, norms = tuple(layer.name for layer in known), tuple(layer.grad_norm for layer in known)
    return GradientProfile(reading.step, names, norms, unit="layer")


def block_profile(reading: ReadingRecord) -> GradientProfile:
    """Return the blocks, also those of a plain network, so that twins have as many as each other."""
    found = reading.block_norms()
    return GradientProfile(reading.step, tuple(norm.block for norm in found), tuple(norm.grad_norm for norm in found))


# ---- stages


@dataclass(frozen=True)
class StageSpan:
    name: str  # path of that module; empty at the top
    first: int  # index of its first name
    last: int


def stages_of(names: Sequence[str]) -> list[StageSpan]:
    stages, start = [], 0
    for name, run in itertools.groupby(map(stage_of, names)):
        end = start + len(list(run))
        stages.append(StageSpan(name, start, end - 1))
        start = end
    return stages


def stage_of(name: str) -> str:
    """Return the path of a module up to the number that it has among its like: ``layer1`` of ``layer1.0.conv2``."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    numbers = numbers or [place for place, part in enumerate(parts) if re.search(r"\d$", part) and place]
    stage = parts[: numbers[-1]] if numbers else []
    if len(stage) > 1 and stage[-1] in ("blocks", "layers") and stage[-2].isdigit():
        stage = stage[:-1]
    return ".".join(stage)


# ---- the line through the norms


@dataclass(frozen=True)
class Slope:
    """A straight line through the logarithms of a profile."""

    first: int  # index of the first norm that it was fitted to
    last: int
    start: float  # its value at ``first``, in decades
    slope: float  # decades per block or layer, positive towards the loss
    fit: float  # fraction of the variance that it explains, R squared
    unit: str  # what ``factor`` is per: ``block``, or ``two layers``, which make a block

    def at(self, index: int) -> float:
        return float(10.0 ** (self.start + self.slope * (index - self.first)))

    @property
    def factor(self) -> float:
        """By how much the gradient grows per unit towards the input."""
        return float(10.0 ** (-self.slope * (1 if self.unit == "block" else 2)))


def slope_of(profile: GradientProfile) -> Slope | None:
    """Fit all layers, or the half of the blocks that is nearer to the loss, as the verdict's rules do.

    None where there are few, or where a norm is 0 or not finite.
    """
    norms = profile.norms
    if len(norms) < MIN_POINTS or not all(map(is_measured, norms)):
        return None
    first, unit = (len(norms) // 2, "block") if profile.unit == "block" else (0, "two layers")
    decades = [math.log10(norm) for norm in norms[first:]]
    slope, start, fit = 0.0, decades[0], 1.0
    if statistics.pstdev(decades):
        slope, start = statistics.linear_regression(range(len(decades)), decades)
        fit = statistics.correlation(range(len(decades)), decades) ** 2
    return Slope(first, len(norms) - 1, start, slope, fit, unit)


# ---- healthy networks


@cache
def healthy_decades() -> tuple[list[float], list[float]]:
    """Return 5 and 95 % of healthy networks: decades above the last block's norm, at each of ``FRACTIONS``."""
    saved = json.loads(HEALTHY_FILE.read_text(encoding="utf-8"))
    return saved["low"], saved["high"]


def decades_at(norms: Sequence[float], fractions: Sequence[float]) -> list[float] | None:
    """Return decades above the last norm at fractions of the depth; None where a norm is 0 or not finite."""
    if len(norms) < 2 or not all(map(is_measured, norms)):
        return None
    import numpy as np

    decades = [math.log10(norm / norms[-1]) for norm in norms]
    return [float(value) for value in np.interp(fractions, np.linspace(0, 1, len(norms)), decades)]


def healthy_band(profiles: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return 5 and 95 % of many profiles, point by point, to a hundredth of a decade."""
    cuts = [statistics.quantiles(column, n=20, method="inclusive") for column in zip(*profiles, strict=True)]
    return [round(cut[0], 2) for cut in cuts], [round(cut[-1], 2) for cut in cuts]
