"""What lies along the depth of a network: blocks, or layers where blocks are too few; and the stages they make."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.records import BlockFlowRecord, LayerFlowRecord, ReadingRecord

FEW = 8
"""Places below which a line through them says nothing of the depth."""

Place = BlockFlowRecord | LayerFlowRecord


@dataclass(frozen=True)
class Depth:
    """The horizontal axis of most pictures.

    Args:
        places: in order of execution; what is drawn at 0, 1, 2, ...
        unit: ``block`` or ``layer``.
    """

    places: tuple[Place, ...]
    unit: str

    @property
    def names(self) -> tuple[str, ...]:
        """Of the places."""
        return tuple(place.name for place in self.places)

    @property
    def norms(self) -> tuple[float, ...]:
        """Of the gradient at each place's input."""
        return tuple(place.grad_norm for place in self.places)


def depth_of(reading: ReadingRecord) -> Depth:
    """The residual additions, or the layers where there are too few of these; the same choice as the verdict's."""
    if len(reading.blocks) >= FEW or len(reading.blocks) > len(reading.layers):
        return Depth(reading.blocks, "block")
    return Depth(tuple(layer for layer in reading.layers if not math.isnan(layer.grad_norm)), "layer")


def is_measured(norm: float) -> bool:
    """Whether a logarithmic axis has a place for it."""
    return 0 < norm < math.inf


# ---- stages


@dataclass(frozen=True)
class Stage:
    """A run of places whose modules lie in the same module.

    Args:
        name: path of that module; empty at the top.
        first: index of its first place.
        last: index of its last place.
    """

    name: str
    first: int
    last: int


def stages_of(names: Sequence[str]) -> list[Stage]:
    """Runs of places with one stage.

    Example:
        >>> stages_of(["layer1.0", "layer1.1", "layer2.0"])
        [Stage(name='layer1', first=0, last=1), Stage(name='layer2', first=2, last=2)]
    """
    stages, start = [], 0
    for name, run in itertools.groupby(map(stage_of, names)):
        length = len(list(run))
        stages.append(Stage(name, start, start + length - 1))
        start += length
    return stages


def stage_of(name: str) -> str:
    """The path of a module up to the number that it has among its like.

    Example:
        >>> [stage_of(name) for name in ("layer1.0", "blocks.3.mlp", "stages.0.blocks.2", "encoder.layer_3", "fc")]
        ['layer1', 'blocks', 'stages.0', 'encoder', '']
    """
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    numbers = numbers or [place for place, part in enumerate(parts) if re.search(r"\d$", part) and place]
    stage = parts[: numbers[-1]] if numbers else []
    if len(stage) > 1 and stage[-1] in ("blocks", "layers") and stage[-2].isdigit():
        stage = stage[:-1]
    return ".".join(stage)


# ---- the line through a profile


@dataclass(frozen=True)
class Slope:
    """A straight line through the logarithms.

    Args:
        first: index of the first place that it was fitted to.
        last: index of the last.
        start: its value at ``first``, in decades.
        slope: decades per place, positive towards the loss.
        fit: share of the variance that it explains, R squared.
        per: places that make a block: 1 where they are blocks, 2 where they are layers.
    """

    first: int
    last: int
    start: float
    slope: float
    fit: float
    per: int

    def at(self, place: int) -> float:
        """Decades there."""
        return self.start + self.slope * (place - self.first)

    @property
    def unit(self) -> str:
        """What it is per, in words."""
        return "block" if self.per == 1 else "two layers"

    @property
    def factor(self) -> float:
        """By which the gradient grows per block, or two layers, towards the input."""
        return float(10.0 ** (-self.slope * self.per))


def slope_of(depth: Depth) -> Slope | None:
    """Through all layers, or through the half of the blocks that is nearer to the loss, as the verdict's rules do.

    None where places are few, or where a gradient is 0 or not finite.
    """
    norms = depth.norms
    if len(norms) < FEW or not all(map(is_measured, norms)):
        return None
    first = len(norms) // 2 if depth.unit == "block" else 0
    decades = [math.log10(norm) for norm in norms[first:]]
    places = range(len(decades))
    per = 1 if depth.unit == "block" else 2
    if statistics.pstdev(decades) == 0:
        return Slope(first, len(norms) - 1, decades[0], 0.0, 1.0, per)
    slope, start = statistics.linear_regression(places, decades)
    return Slope(first, len(norms) - 1, start, slope, statistics.correlation(places, decades) ** 2, per)
