"""The loss around the weights that a network has: along a direction, how sharply it bends, how noisy its gradient is.

Directions are those of Li et al. 2018, arXiv:1712.09913, sec. 4: Gaussian, with every filter scaled to the norm of
the filter that it moves. A network whose filters are larger is moved farther, so that two networks which differ in
the scale of their weights only, as batch norm allows, look the same. What is not moved: biases, gains and whatever else
has rank 1 or 0, and frozen parameters, since training doesn't move them either. A filter of zeros stays.

The filters of a weight are its first dimension, as in linear layers and convolutions. In transposed convolutions that
dimension is the input; each row of an embedding is a filter, and so is the whole of a (1, N, D) position embedding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from reslab.errors import RequestError
from reslab.models.graph import in_order
from reslab.probe._forward import node_of
from reslab.probe._norms import dot
from reslab.probe.batch import BatchLoss, LossOf, ModelCall, check_loss, check_model, size_of
from reslab.records.depth import CurvatureRecord, SliceRecord
from reslab.untouched import untouched

Norms = Literal["batch", "frozen"]
"""``batch``: train mode, statistics of the batch at every point. ``frozen``: eval mode, with the stored ones."""
NO_SECOND_DERIVATIVE = re.compile(
    r"derivative for '?([\w:.]+)'? is not implemented|[Dd]ouble backwards is not supported for (.+?) due"
)
"""What torch says of an operation that has a first derivative only."""
ONCE = once_differentiable(lambda context: None).__code__
"""Of the wrapper that says so of a custom function; the same for all of them."""
NUM_PARTS = 4
"""Parts of a batch whose gradients are compared, for the noise."""


def loss_slice(
    model: nn.Module,
    loss_of: LossOf,
    *,
    name: str = "",
    span: float = 1.0,
    num_points: int = 51,
    norms: Norms = "batch",
    seed: int = 0,
) -> SliceRecord:
    """Measure the loss along one direction, from ``-span`` to ``span``; the model is left as it was, bit for bit.

    The same seed moves two networks along the same direction if the shapes of their weights are the same, in the same
    order, as those of plain and residual twins are. Random numbers, such as dropout's, are the same at every point, and
    so are the buffers that the forward pass begins with. A loss that is not finite is noted as it is.

    Args:
        model: any, on the batch's device. In train mode it keeps the layers that it holds in eval mode.
        loss_of: runs it on one batch up to the loss.
        name: noted in the record.
        span: how far to go; 1 is as far as the weights are from 0.
        num_points: forward passes: odd, so that the network itself is the middle one.
        norms: ``batch`` or ``frozen``, see ``Norms``; the second needs statistics that fit the weights, which those of
            an untrained network don't.
        seed: of the direction, and of what the network draws.

    Raises:
        RequestError: if the model can't be moved, the loss isn't a scalar, or an argument is out of range.
    """
    check_model(model)
    if norms not in get_args(Norms):
        raise RequestError(f"norms is {' or '.join(map(repr, get_args(Norms)))}, got {norms!r}.")
    if not any(weight.ndim >= 2 and weight.requires_grad for weight in model.parameters()):
        raise RequestError(
            "No weight of the model has two dimensions and asks for a gradient: there is nothing to move."
        )
    positions, losses = positions_of(span, num_points), []
    with untouched(model, is_training=norms == "batch"), torch.no_grad():
        drawn = zip(model.parameters(), direction(model, torch.Generator().manual_seed(seed)), strict=True)
        moved = [(weight, weight.clone(), way) for weight, way in drawn if way is not None]
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        for position in positions:
            for weight, start, way in moved:
                weight.copy_(start).add_(way, alpha=position)
            for buffer, before in buffers:
                buffer.copy_(before)
            seed_draws(model, seed)
            with ModelCall().hooked(model):
                losses.append(check_loss(loss_of(model)).detach().reshape(()))
        return SliceRecord(name, positions, tuple(torch.stack(losses).tolist()), norms, seed)


def positions_of(span: float, num_points: int) -> tuple[float, ...]:
    """Evenly from ``-span`` to ``span``, exactly 0 in the middle."""
    if num_points < 3 or num_points % 2 == 0:
        raise RequestError(
            f"num_points is odd and at least 3, so that the network itself is in the middle; got {num_points}."
        )
    if not 0 < span < math.inf:
        raise RequestError(f"span is a distance above 0, such as 1.0; got {span}.")
    half = num_points // 2
    return tuple(span * (place / half) for place in range(-half, half + 1))


def direction(model: nn.Module, generator: torch.Generator) -> list[Tensor | None]:
    """Draw where each parameter is moved, None where it isn't; on the parameter's device.

    Drawn on the CPU in single precision, and for frozen weights too, so that neither device, precision nor freezing
    changes the direction of the others.
    """
    found: list[Tensor | None] = []
    for weight in model.parameters():
        is_weight = weight.ndim >= 2 and weight.is_floating_point()
        noise = torch.randn(weight.shape, generator=generator) if is_weight else None
        found.append(scaled(noise, weight) if noise is not None and weight.requires_grad else None)
    return found


def scaled(noise: Tensor, weight: Tensor) -> Tensor:
    """The noise, each filter with the norm of the weight's, in the weight's precision: (F, *), (F, *) -> (F, *)."""
    exact = torch.promote_types(weight.dtype, torch.float32)
    noise = noise.to(weight.device, exact)
    kept = tuple(range(1, weight.ndim))
    lengths = torch.linalg.vector_norm(weight.to(exact), dim=kept, keepdim=True)
    drawn = torch.linalg.vector_norm(noise, dim=kept, keepdim=True)
    noise *= lengths / drawn.clamp_min(torch.finfo(exact).tiny)
    return noise.to(weight.dtype)


def seed_draws(model: nn.Module, seed: int) -> None:
    """Seed the CPU and the model's own devices; ``torch.manual_seed`` would reach devices that aren't put back."""
    torch.default_generator.manual_seed(seed)
    for device in {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


# ---- curvature


def largest_curvature(
    model: nn.Module, loss_of: LossOf, *, iterations: int = 50, tolerance: float = 1e-3, seed: int = 0
) -> CurvatureRecord:
    """Find the eigenvalue of greatest magnitude, with its sign, of the Hessian over all parameters that train.

    The Hessian is that of the batch's loss, in train mode: batch norm is differentiated through the batch's own
    statistics. There is one forward pass, so that dropout and the like are drawn once; its graph and that of the
    gradient are kept until the end, about three times the memory of a training step. Attention runs by torch's plain
    kernel, since the fused ones have no second derivative. The model is left as it was.

    It is found by power iteration. A Rayleigh quotient approaches an eigenvalue slowly where the next one is nearly as
    large, and not at all where one of opposite sign is: ``residual`` says how far off it can be, and ``has_converged``
    asks for its square to be below the tolerance. Piecewise linear activations have no curvature of their own, and none
    is found at their kinks.

    Args:
        model: any.
        loss_of: runs it on one batch up to the loss.
        iterations: at most.
        tolerance: relative, of the estimate.
        seed: of the vector to begin with, and of what the network draws.

    Raises:
        RequestError: if the model can't be read, or one of its operations can't be differentiated twice.
    """
    if iterations < 2 or not 0 < tolerance < 1:
        raise RequestError(f"iterations is 2 or more, tolerance lies in (0, 1); got {iterations} and {tolerance}.")
    check_model(model)
    plain = sdpa_kernel(SDPBackend.MATH)
    with untouched(model, is_training=True), torch.enable_grad(), plain, naming_operations():
        seed_draws(model, seed)
        with ModelCall().hooked(model):
            loss = loss_of(model)
        return power_iteration(Hessian(model, loss), iterations=iterations, tolerance=tolerance, seed=seed)


class Hessian:
    """Of a loss, over the parameters that train; never written out, only multiplied with.

    Raises:
        RequestError: if the loss isn't a scalar, or a part of its graph can't be differentiated twice.
    """

    def __init__(self, model: nn.Module, loss: Tensor) -> None:
        refuse_once_differentiable(loss)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss.reshape(()), self.parameters, create_graph=True, allow_unused=True)
        self.gradients = [gradient for gradient in gradients if gradient is not None and gradient.requires_grad]
        self.is_bent = [gradient is not None and gradient.requires_grad for gradient in gradients]
        self.sizes = [parameter.numel() for parameter in self.parameters]

    def times(self, vector: Tensor) -> Tensor:
        """Return its product with a vector over all parameters, (P,) -> (P,); one pass through the gradient's graph."""
        if not self.gradients:  # the loss is linear in all weights
            return torch.zeros_like(vector)
        parts = zip(vector.split(self.sizes), self.parameters, self.is_bent, strict=True)
        weights = [part.view_as(parameter).to(parameter) for part, parameter, is_bent in parts if is_bent]
        products = torch.autograd.grad(
            self.gradients, self.parameters, weights, retain_graph=True, materialize_grads=True
        )
        return torch.cat([product.detach().flatten().to(vector) for product in products])


def power_iteration(hessian: Hessian, *, iterations: int, tolerance: float, seed: int) -> CurvatureRecord:
    """Multiply a vector again and again, until its Rayleigh quotient stays."""
    first = hessian.parameters[0]
    start = torch.randn(sum(hessian.sizes), generator=torch.Generator().manual_seed(seed))
    vector = start.to(first.device, torch.promote_types(first.dtype, torch.float32))
    vector /= vector.norm()
    largest, change, residual, step = math.nan, math.inf, math.inf, 0
    for step in range(1, iterations + 1):
        product = hessian.times(vector)
        quotient, previous = dot(vector, product), largest
        length, rest = dot(product, product).sqrt(), product - quotient * vector
        largest, norm, distance = torch.stack([quotient, length, dot(rest, rest).sqrt()]).tolist()
        if norm == 0:  # no curvature in any direction that a random vector has a part in
            return CurvatureRecord(0.0, step, 0.0, 0.0, True)
        change, residual = relative(largest - previous, largest), relative(distance, largest)
        if not math.isfinite(norm) or (change < tolerance and residual**2 < tolerance):
            break
        vector = product / length
    has_converged = change < tolerance and residual**2 < tolerance
    return CurvatureRecord(largest, step, change, residual, has_converged)


def relative(difference: float, whole: float) -> float:
    """Infinite where there is nothing to compare with; never NaN unless the whole is."""
    if math.isnan(whole):
        return math.nan
    return abs(difference / whole) if whole and not math.isnan(difference) else math.inf


@contextmanager
def naming_operations() -> Iterator[None]:
    """Turns torch's complaint about a missing second derivative into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        match = NO_SECOND_DERIVATIVE.search(str(error))
        if match is None:
            raise
        raise not_twice(match[1] or match[2]) from error


def not_twice(operation: str) -> RequestError:
    return RequestError(
        f"{operation} can't be differentiated twice, which a Hessian needs. Replace the operation by one that can, such"
        " as plain tensor arithmetic that does the same."
    )


def refuse_once_differentiable(loss: Tensor) -> None:
    """Refuse functions that can be differentiated once only, which torch may silently take for linear.

    These are custom functions marked so, and reentrant checkpointing, which hides the parameters inside.
    """
    for node in reversed(in_order(node_of(loss))):
        name = node.name().removesuffix("Backward")
        if name == "CheckpointFunction":
            raise RequestError(
                "Checkpointing with use_reentrant=True hides what it recomputes from a Hessian: use_reentrant=False."
            )
        backward: Any = getattr(getattr(node, "_forward_cls", None), "backward", None)
        while backward is not None:  # the mark may stand under other decorators
            if getattr(backward, "__code__", None) is ONCE:
                raise not_twice(name)
            backward = getattr(backward, "__wrapped__", None)


# ---- noise


def noise_scale(model: nn.Module, loss_of: LossOf) -> float:
    """Estimate the batch size at which the gradient's noise is as large as itself: the simple noise scale, in samples.

    It is the trace of the samples' gradient covariance over the squared gradient; infinite where the noise hides the
    gradient altogether. In train mode; the loss is to be the mean over the samples. The model is left as it was.

    Raises:
        RequestError: if there are too few samples for four parts of two, or they can't be taken apart.

    Reference:
        McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.

    Deviates:
        The norms of four parts of one batch are compared with that of their mean; batch norms take their statistics
        from each part.
    """
    if not isinstance(loss_of, BatchLoss):
        raise RequestError(
            "The gradient's noise needs the samples of the batch, which is no pair of inputs and targets."
        )
    size = size_of(loss_of.batch[0])
    part = size // NUM_PARTS
    if part < 2:
        raise RequestError(f"{size} samples are too few for the noise of the gradient; it needs {2 * NUM_PARTS}.")
    with untouched(model, is_training=True), torch.enable_grad():
        rows = [
            flat_gradient(model, loss_of.samples(torch.arange(start, start + part)))
            for start in range(0, NUM_PARTS * part, part)
        ]
    mean = torch.stack(rows).mean(dim=0)
    squares = [(row - mean).square().sum() for row in rows]
    spread, square = torch.stack([torch.stack(squares).sum(), mean.square().sum()]).tolist()
    variance = spread / (NUM_PARTS - 1)  # of one part's gradient
    signal = square - variance / NUM_PARTS
    if variance == 0:
        return 0.0
    return variance * part / signal if signal > 0 else math.inf


def flat_gradient(model: nn.Module, loss_of: LossOf) -> Tensor:
    """Of all parameters together, (P,), in double precision; zeros for those that none reaches."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss_of(model), parameters, materialize_grads=True)
    return torch.cat([gradient.flatten().double() for gradient in found])
