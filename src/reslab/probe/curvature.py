"""How sharply the loss bends: the Hessian's eigenvalue of greatest magnitude, by power iteration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from reslab.errors import RequestError
from reslab.probe.checks import check_batch, check_model
from reslab.probe.eager import eagerly
from reslab.probe.inputs import call, with_gradients
from reslab.probe.norms import dot
from reslab.probe.reading import Batch, LossFn, node_of
from reslab.probe.surface import seed_draws
from reslab.probe.untouched import untouched
from reslab.records import CurvatureRecord

MISSING = re.compile(
    r"derivative for '?([\w:.]+)'? is not implemented|[Dd]ouble backwards is not supported for (.+?) due"
)
"""What torch says of an operation that has a first derivative only."""
ONCE = once_differentiable(lambda context: None).__code__
"""Of the wrapper that says so of a custom function; the same for all of them."""


def largest_curvature(
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFn,
    *,
    iterations: int = 50,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> CurvatureRecord:
    """The eigenvalue of greatest magnitude, with its sign, of the Hessian over all parameters that train.

    The Hessian is that of the batch's loss, in train mode: batch norm is differentiated through the batch's own
    statistics. There is one forward pass, so that dropout and the like are drawn once; its graph and that of the
    gradient are kept until the end, about three times the memory of a training step. Attention runs by torch's plain
    kernel, since the fused ones have no second derivative.

    A Rayleigh quotient approaches an eigenvalue slowly where the next one is nearly as large, and not at all where one
    of opposite sign is: ``residual`` says how far off it can be, and ``has_converged`` asks for its square to be below
    the tolerance. Piecewise linear activations have no curvature of their own, and none is found at their kinks.

    Args:
        model: any; it is left as it was, bit for bit.
        batch: inputs and targets, on the model's device.
        loss_fn: outputs and targets to a scalar.
        iterations: at most.
        tolerance: relative, of the estimate.
        seed: of the vector to begin with, and of what the network draws.

    Raises:
        RequestError: if the model can't be read, or one of its operations can't be differentiated twice.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> batch = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)
        >>> round(largest_curvature(model, batch, nn.functional.mse_loss).largest, 3)  # x'x is diag(9, 1)
        9.0
    """
    if iterations < 2 or not 0 < tolerance < 1:
        raise RequestError(f"iterations is 2 or more, tolerance lies in (0, 1); got {iterations} and {tolerance}.")
    check_model(model)
    check_batch(batch)
    eager, plain = eagerly(), sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(False), torch.enable_grad(), untouched(model), eager, plain, named_operations():
        model = model if model.training else model.train()
        seed_draws(model, seed)
        _, arguments = with_gradients(batch[0])
        hessian = Hessian(model, loss_fn(call(model, arguments), batch[1]))
        return power_iteration(hessian, iterations=iterations, tolerance=tolerance, seed=seed)


class Hessian:
    """Of a loss, over the parameters that train; never written out, only multiplied with.

    Args:
        model: whose parameters.
        loss: its, with a graph.

    Raises:
        RequestError: if the loss is no scalar, or a part of its graph can't be differentiated twice.
    """

    def __init__(self, model: nn.Module, loss: Tensor) -> None:
        refuse_once_only(node_of(loss))
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss.reshape(()), self.parameters, create_graph=True, allow_unused=True)
        self.gradients = [gradient for gradient in gradients if gradient is not None and gradient.requires_grad]
        self.bent = [gradient is not None and gradient.requires_grad for gradient in gradients]
        self.sizes = [parameter.numel() for parameter in self.parameters]

    def times(self, vector: Tensor) -> Tensor:
        """Its product with a vector over all parameters; one backward pass through the gradient's graph.

        Shape:
            (P,) -> (P,)
        """
        if not self.gradients:  # the loss is linear in all weights
            return torch.zeros_like(vector)
        parts = zip(vector.split(self.sizes), self.parameters, self.bent, strict=True)
        weights = [part.view_as(parameter).to(parameter) for part, parameter, bent in parts if bent]
        products = torch.autograd.grad(
            self.gradients, self.parameters, weights, retain_graph=True, materialize_grads=True
        )
        return torch.cat([product.detach().flatten().to(vector) for product in products])


def power_iteration(hessian: Hessian, *, iterations: int, tolerance: float, seed: int) -> CurvatureRecord:
    """Multiplies a vector again and again, until its Rayleigh quotient stays."""
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
def named_operations() -> Iterator[None]:
    """Turns torch's complaint about a missing second derivative into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        match = MISSING.search(str(error))
        if match is None:
            raise
        raise not_twice(match[1] or match[2]) from error


def not_twice(operation: str) -> RequestError:
    """The error that names the operation as torch names it."""
    return RequestError(
        f"{operation} can't be differentiated twice, which a Hessian needs. Replace the operation by one that can, such"
        " as plain tensor arithmetic that does the same."
    )


def refuse_once_only(root: Node) -> None:
    """Refuses functions that can be differentiated once only, of which torch may say nothing and take them for linear.

    These are custom functions marked so, and reentrant checkpointing, which hides the parameters inside.
    """
    seen, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        name = node.name().removesuffix("Backward")
        if name == "CheckpointFunction":
            raise RequestError(
                "Checkpointing with use_reentrant=True hides what it recomputes from a Hessian: use_reentrant=False."
            )
        if is_marked(getattr(node, "_forward_cls", None)):
            raise not_twice(name)
        found = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= found
        waiting += found


def is_marked(function: Any) -> bool:
    """Whether the backward pass of a custom function stands under ``once_differentiable``, maybe with others."""
    backward = getattr(function, "backward", None)
    while backward is not None:
        if getattr(backward, "__code__", None) is ONCE:
            return True
        backward = getattr(backward, "__wrapped__", None)
    return False
