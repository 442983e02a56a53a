"""The loss around the weights that a network has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SliceRecord:
    """The loss along one random direction in which every filter is scaled to the norm of the filter that it moves.

    Args:
        name: of the network; may be empty.
        positions: along the direction, the middle one 0: 0 is where the network stands, 1 as far from it as its
            weights are from 0.
        losses: there; may be infinite or NaN.
        norms: how batch norm was treated: ``frozen`` statistics, or those of the ``batch``.
        seed: of the direction, and of what the network draws, such as dropout.
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
        name: of the network; may be empty.
        positions: along each direction, as in ``SliceRecord``.
        losses: row by row: the first index is along the second direction. The first direction is that of the slice with
            the same seed.
        norms: as in ``SliceRecord``.
        seed: as in ``SliceRecord``.
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
        largest: the estimate, with its sign; NaN where the Hessian is not finite.
        iterations: that it took: products of the Hessian with a vector.
        change: of the estimate in the last of them, relative.
        residual: |H v - largest v| for the unit vector v that it belongs to, relative to ``largest``: within that
            distance there is an eigenvalue for certain, and usually much nearer.
        has_converged: whether both are as small as was asked for.
    """

    largest: float
    iterations: int
    change: float
    residual: float
    has_converged: bool
