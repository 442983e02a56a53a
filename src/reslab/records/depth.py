"""What a full diagnosis measures in addition: paths, shattering, Jacobians, lesions, the twin, the loss landscape."""

from __future__ import annotations

from dataclasses import dataclass, field


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


@dataclass(frozen=True)
class PathRecord:
    """The gradient at the first block's input, taken apart by how many branches a path goes through.

    Args:
        energies: of k = 0, 1, ...: the squared norm of what came through exactly k branches, as a fraction; they add up
            to 1. Of very many blocks only those around the greatest were followed; the others are 0.
        effective: mean k, weighted by them: how many branches the gradient goes through.
        low: 5 % of the energy lie at this k or below.
        high: 95 % of it do.
        proxy: the same mean, estimated from one backward pass.
        gap: norm of the whole gradient less the sum of all parts, over the whole: rounding, and what was left out.
        num_samples: of the batch; norms and energies are over all of it.
    """

    energies: tuple[float, ...]
    effective: float
    low: int
    high: int
    proxy: float
    gap: float
    num_samples: int


@dataclass(frozen=True)
class ShatteringRecord:
    """How long the gradient at the input stays the same on the way from one image to another.

    Args:
        distances: fractions of the way.
        similarities: mean cosine between the gradient there and the one at the beginning.
        half: where the cosine first falls below a half, between two distances on the straight line over their
            logarithm; the first distance if it is below already there; infinite if it never is.
        num_pairs: of images.
    """

    distances: tuple[float, ...]
    similarities: tuple[float, ...]
    half: float
    num_pairs: int


@dataclass(frozen=True)
class JacobianRecord:
    """How one part of the network stretches small changes of its input, with norms frozen to the batch's statistics.

    Args:
        name: of the part, such as ``layer1``; ``all`` for the way from input to output.
        mean_square: mean squared singular value, over directions of the output.
        largest: greatest singular value; NaN, and no others, where something can't be differentiated twice.
        singular_values: estimates of some, greatest first, each distinct one once; the greatest are the most exact. Of
            a part with few outputs they are all there are, and exact.
        num_samples: that it was measured on, side by side.
    """

    name: str
    mean_square: float
    largest: float
    singular_values: tuple[float, ...]
    num_samples: int


@dataclass(frozen=True)
class LesionRecord:
    """The loss without one block's branch; its shortcut stays.

    Args:
        index: of the block, as in ``BlockFlowRecord``.
        name: of the block.
        loss: without it.
        increase: of the loss over that of the whole network.
    """

    index: int
    name: str
    loss: float
    increase: float


@dataclass(frozen=True)
class TwinRecord:
    """The same network with the same weights, its shortcuts cut.

    Args:
        loss: of the same batch.
        grad_norms: of the gradient at the input of each block, in the order of the blocks; NaN where none arrived.
    """

    loss: float
    grad_norms: tuple[float, ...]


@dataclass(frozen=True)
class DepthRecord:
    """Every measurement of how depth affects the network.

    Args:
        paths: None if it wasn't measured; ``not_measured`` says why.
        shattering: the same.
        jacobians: of each stage, and of all.
        lesions: of each block.
        loss: of the whole network, that lesions are compared with.
        twin: with the shortcuts cut.
        curvature: of the loss around the weights.
        slice: of the loss, along a random direction.
        noise_scale: samples at which the gradient's noise is as large as itself.
        not_measured: the reason, by name of a field.
    """

    paths: PathRecord | None = None
    shattering: ShatteringRecord | None = None
    jacobians: tuple[JacobianRecord, ...] = ()
    lesions: tuple[LesionRecord, ...] = ()
    loss: float | None = None
    twin: TwinRecord | None = None
    curvature: CurvatureRecord | None = None
    slice: SliceRecord | None = None
    noise_scale: float | None = None
    not_measured: dict[str, str] = field(default_factory=dict)
