"""What rules look at, and the few numbers that several of them share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.records import DepthRecord, LossRecord, ReadingRecord

FEW = 8
"""Places below which a line through them says nothing of the depth."""


class NotChecked(Exception):
    """A rule can't be applied; the message says why, after "not checked, because"."""


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen.

    Args:
        readings: of one network, in order of step; at least one.
        losses: of the training that they belong to, step by step, where they are known.
        depth: what more was measured of the network as it is now, if anything.
    """

    readings: tuple[ReadingRecord, ...]
    losses: tuple[LossRecord, ...] = ()
    depth: DepthRecord | None = None

    @property
    def now(self) -> ReadingRecord:
        """The last reading."""
        return self.readings[-1]

    @property
    def at_start(self) -> bool:
        """Whether nothing has been trained yet, as far as is known."""
        return self.now.step == 0


@dataclass(frozen=True)
class Line:
    """A straight line through values at 0, 1, 2, ...

    Args:
        slope: per place.
        fit: share of the variance that the line explains, R squared; 1 for values that don't vary.
    """

    slope: float
    fit: float


def line_through(values: Sequence[float]) -> Line:
    """By least squares.

    Example:
        >>> line_through([1.0, 2.0, 3.0])
        Line(slope=1.0, fit=1.0)
    """
    places = range(len(values))
    if statistics.pstdev(values) == 0:
        return Line(0.0, 1.0)
    slope, _ = statistics.linear_regression(places, values)
    return Line(slope, statistics.correlation(places, values) ** 2)


@dataclass(frozen=True)
class Profile:
    """The gradient along the depth, on a logarithmic axis; from the input to the loss.

    Args:
        names: of the places.
        decades: log10 of the gradient norm at each.
        per_block: places that make a block: 1 where they are blocks, 2 where they are layers.
        unit: what a place is, in words.
    """

    names: tuple[str, ...]
    decades: tuple[float, ...]
    per_block: int
    unit: str

    @property
    def line(self) -> Line:
        """The slope is that per block, positive towards the loss.

        Through the layers of a plain network; of blocks, through the half that is nearer to the loss, where a residual
        network's gradient grows most slowly, so that exponential growth shows best there.
        """
        is_residual = self.unit == "block"
        line = line_through(self.decades[len(self.decades) // 2 :] if is_residual else self.decades)
        return Line(line.slope * self.per_block, line.fit)

    @property
    def step(self) -> str:
        """What the slope is per, in words."""
        return "block" if self.unit == "block" else "two layers"

    @property
    def growth(self) -> float:
        """Decades from the loss to the input: positive where the gradient grows on its way back."""
        return self.decades[0] - self.decades[-1]


def flow_profile(reading: ReadingRecord, *, few: int = FEW) -> Profile:
    """Of the residual additions, or of the layers where there are too few of these.

    Args:
        reading: with both.
        few: places below which there is none.

    Raises:
        NotChecked: if there are too few of both, or if a gradient is 0 or not finite: other rules tell of that.
    """
    if len(reading.blocks) >= FEW or len(reading.blocks) > len(reading.layers):
        names = [block.name for block in reading.blocks]
        norms, per_block, unit = [block.grad_norm for block in reading.blocks], 1, "block"
    else:
        layers = [layer for layer in reading.layers if not math.isnan(layer.grad_norm)]
        names = [layer.name for layer in layers]
        norms, per_block, unit = [layer.grad_norm for layer in layers], 2, "layer"
    if len(norms) < few:
        raise NotChecked(f"a line through {len(norms)} places says nothing; it takes {few}")
    if not all(math.isfinite(norm) and norm > 0 for norm in norms):
        raise NotChecked("some gradients are 0 or not finite")
    return Profile(tuple(names), tuple(map(math.log10, norms)), per_block, unit)
