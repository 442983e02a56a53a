"""The loss around the weights that a network has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SliceRecord:
    """The loss along one random direction in which every filter is scaled to the norm of the filter that it moves.

    Args:
        name: of the network.
        positions: along the direction; 0 is where the network stands, 1 as far from it as its weights are from 0.
        losses: there.
        norms: how batch norm was treated: ``frozen`` statistics, or those of the ``batch``.
        seed: of the direction.
    """

    name: str
    positions: tuple[float, ...]
    losses: tuple[float, ...]
    norms: str
    seed: int


@dataclass(frozen=True)
class PlaneRecord:
    """The loss on the plane of two such directions.

    Args:
        name: of the network.
        positions: along each direction.
        losses: row by row: the first index is along the second direction.
        norms: as in ``SliceRecord``.
        seed: of the directions.
    """

    name: str
    positions: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    norms: str
    seed: int


@dataclass(frozen=True)
class CurvatureRecord:
    """The greatest eigenvalue of the loss's Hessian, by magnitude.

    Args:
        largest: the eigenvalue, with its sign.
        iterations: that it took.
        change: of the estimate in the last of them, relative: how exact it is.
        has_converged: whether that is below the tolerance that was asked for.
    """

    largest: float
    iterations: int
    change: float
    has_converged: bool
