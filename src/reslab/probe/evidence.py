"""What the rules of the verdict look at, and what they return."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.records import ReadingRecord
from reslab.records.depth import DepthRecord
from reslab.records.diagnosis import BlockFlowRecord, LossRecord, Severity, UpdateRecord

MIN_PLACES = 8
"""Blocks or layers below which a line through them says nothing of the depth."""
MIN_BRANCH = 1e-6
"""Of what the shortcut carries; a branch that adds less has not started."""


class NotChecked(Exception):
    """A rule can't be applied; the message says why, after "not checked, because"."""


@dataclass(frozen=True)
class Found:
    """What a rule has found.

    Args:
        where: block, layer or parameter.
        number: that was measured.
        threshold: that it was compared with.
        sentence: what it means, for a person.
        actions: instead of the rule's.
        would_change: instead of the rule's.
        severity: instead of the rule's.
    """

    where: str
    number: float
    threshold: float
    sentence: str
    actions: tuple[str, ...] | None = None
    would_change: str | None = None
    severity: Severity | None = None


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

    def blocks(self) -> tuple[BlockFlowRecord, ...]:
        """The residual additions that a gradient has reached."""
        if not self.now.blocks:
            hidden = f", and {self.now.unsplit[0]} can't be split" if self.now.unsplit else ""
            raise NotChecked(f"no residual addition was seen{hidden}")
        blocks = tuple(block for block in self.now.blocks if block.grad_norm > 0 and math.isfinite(block.grad_norm))
        if not blocks:
            raise NotChecked("no gradient has reached a residual addition")
        return blocks

    def updates(self) -> list[UpdateRecord]:
        """The optimiser's steps that were seen."""
        found = [reading.update for reading in self.readings if reading.update is not None]
        if not found:
            raise NotChecked(
                "no optimiser step was seen: it needs a run, or reslab.watch and optimizer.step() without a closure"
            )
        return found


@dataclass(frozen=True)
class Line:
    """A straight line through values at 0, 1, 2, ...

    Args:
        slope: per place.
        fit: fraction of the variance that the line explains, R squared; 1 for values that don't vary.
    """

    slope: float
    fit: float


def line_through(values: Sequence[float]) -> Line:
    """Fit a line by least squares."""
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
        unit: what a place is: ``block`` or ``layer``.
    """

    names: tuple[str, ...]
    decades: tuple[float, ...]
    unit: str

    @property
    def line(self) -> Line:
        """The slope is that per block, or per two layers; positive towards the loss.

        Through the layers of a plain network; of blocks, through the half that is nearer to the loss, where a residual
        network's gradient grows most slowly, so that exponential growth shows best there.
        """
        if self.unit == "block":
            return line_through(self.decades[len(self.decades) // 2 :])
        line = line_through(self.decades)
        return Line(2 * line.slope, line.fit)

    @property
    def step(self) -> str:
        """What the slope is per, in words."""
        return "block" if self.unit == "block" else "two layers"

    @property
    def growth(self) -> float:
        """Decades from the loss to the input: positive where the gradient grows on its way back."""
        return self.decades[0] - self.decades[-1]


def flow_profile(reading: ReadingRecord, *, min_places: int = MIN_PLACES) -> Profile:
    """Return the profile of the residual additions, or of the layers where there are too few of these.

    Raises:
        NotChecked: if there are too few of both, or if a gradient is 0 or not finite: other rules report that.
    """
    if len(reading.blocks) >= MIN_PLACES or len(reading.blocks) > len(reading.layers):
        unit, found = "block", [(block.name, block.grad_norm) for block in reading.blocks]
    else:
        layers = [(layer.name, layer.grad_norm) for layer in reading.layers]
        unit, found = "layer", [(name, norm) for name, norm in layers if not math.isnan(norm)]
    if len(found) < min_places:
        raise NotChecked(f"a line through {len(found)} {unit}s says nothing; it needs {min_places}")
    if not all(math.isfinite(norm) and norm > 0 for _, norm in found):
        raise NotChecked("some gradients are 0 or not finite")
    return Profile(tuple(name for name, _ in found), tuple(math.log10(norm) for _, norm in found), unit)


def has_not_started(block: BlockFlowRecord) -> bool:
    """Return whether a branch adds next to nothing to what the shortcut carries."""
    if block.branch is None or block.shortcut is None:
        return False
    carried = block.shortcut.variance + block.shortcut.mean_square
    return carried > 0 and block.branch.variance + block.branch.mean_square <= MIN_BRANCH * carried
