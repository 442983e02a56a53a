"""Optimisers that torch doesn't have, or has for matrices only: Muon and LAMB.

Muon of torch 2.15 refuses the weights of convolutions. LAMB serves one recipe (rsb-a3), and no library that reslab
stands on has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, by K. Jordan: steepest at 0, bounded near 1
NUM_ITERATIONS = 5
TINY = 1e-12


class SkippingOptimizer(Optimizer):
    """An optimiser that leaves the weights alone where ``found_inf`` is 1, as torch's fused optimisers do.

    ``fit`` sets ``found_inf`` to a 0-dim tensor when it doesn't wait for the device at every step.
    """

    found_inf: Tensor | None = None
    grad_scale: Any = None
    skips_by_itself = True

    def apply(self, parameter: Tensor, step: Tensor, *, lr: float) -> None:
        """Parameter -= lr * step, unless the step is to be skipped."""
        if self.found_inf is not None:
            step = torch.where(self.found_inf > 0, 0.0, step)
        parameter.sub_(step, alpha=lr)

    def rescale(self, parameter: Tensor, factor: Tensor) -> None:
        """Parameter *= factor, unless the step is to be skipped."""
        if self.found_inf is not None:
            factor = torch.where(self.found_inf > 0, 1.0, factor)
        parameter.mul_(factor)


class Muon(SkippingOptimizer):
    """Orthogonalised momentum for the convolutions and linear layers inside a network, Nesterov's SGD for the rest.

    A group with ``"orthogonal": True`` holds weights of two axes or more; a convolution counts as the matrix (out, in *
    height * width). Their momentum is replaced by the nearest matrix with singular values near 1, times
    sqrt(max(1, rows / columns)). Other groups get the momentum itself.

    Args:
        params: groups.
        lr: rate.
        momentum: of both kinds.
        weight_decay: times the rate and the weight is taken off, beside the step (decoupled), in orthogonal groups;
            added to the gradient (L2) in the others.
        fixed_norm: scale each orthogonal weight to the norm sqrt(rows) before its step, so that a step is the same
            share of it all through a run. For weights that a norm follows: their length has no say in what they do.

    Reference:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: the iteration, its coefficients and the scale.
        The fixed norm is that of his airbench94_muon for CIFAR-10.

    Deviates:
        The iteration runs in float32 on the CPU, where bfloat16 is no faster for such small matrices.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.05,
        momentum: float = 0.6,
        weight_decay: float = 0.0,
        fixed_norm: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"orthogonal": False, "fixed_norm": fixed_norm})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        assert closure is None, "fit computes the gradient itself"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["orthogonal"]:
                self._orthogonal_steps(parameters, group)
            else:
                for parameter in parameters:
                    gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                    self.apply(parameter, self._momentum(parameter, gradient, group), lr=group["lr"])

    def _orthogonal_steps(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape go through the iteration together."""
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.flatten(1).shape].append(parameter)  # (O, I, H, W) -> (O, I*H*W)
        for members in by_shape.values():
            steps = torch.stack([self._momentum(p, grad_of(p), group).flatten(1) for p in members])
            for parameter, step in zip(members, orthogonalise(steps), strict=True):
                if group["fixed_norm"]:
                    self.rescale(parameter, len(parameter) ** 0.5 / parameter.norm().clamp(min=TINY))
                step = step.view_as(parameter).add(parameter, alpha=group["weight_decay"])
                self.apply(parameter, step, lr=group["lr"])

    def _momentum(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov's: the gradient plus momentum times the running sum that includes it."""
        state = self.state[parameter]
        if not state:
            state["sum"] = torch.zeros_like(parameter)
        state["sum"].mul_(group["momentum"]).add_(gradient)
        return gradient.add(state["sum"], alpha=group["momentum"])


def grad_of(parameter: Tensor) -> Tensor:
    """Its gradient, which is there."""
    assert parameter.grad is not None
    return parameter.grad


def orthogonalise(matrices: Tensor) -> Tensor:
    """Each matrix with its singular values brought near 1, times sqrt(max(1, rows / columns)).

    Shape:
        (B, rows, columns) -> the same

    Five steps of X <- aX + b(XX')X + c(XX')(XX')X, from X of norm 1. Singular values end between 0.7 and 1.2 or so;
    tiny ones (below about 0.001 of the norm) stay smaller.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrices.shape[-2:]
    wide = matrices if rows <= columns else matrices.mT
    wide = wide.bfloat16() if matrices.is_cuda else wide
    wide = wide / wide.flatten(1).norm(dim=1).clamp(min=TINY).view(-1, 1, 1)
    for _ in range(NUM_ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    found: Tensor = (wide if rows <= columns else wide.mT).to(matrices.dtype)
    return found.mul(max(1.0, rows / columns) ** 0.5)


class Lamb(SkippingOptimizer):
    """Layer-wise adaptive moments for batch training: for batches of thousands of images.

    The gradient of all parameters together is first scaled down to norm 1 where it is larger. A tensor's step is
    Adam's, plus its decay, scaled to the tensor's own norm: lr times |w| / |step|. Tensors that don't decay (norms,
    biases) take Adam's step as it is.

    Args:
        params: parameters or groups.
        lr: rate.
        betas: of the running means of the gradient and of its square.
        eps: added to the root of the latter.
        weight_decay: decoupled, inside the scaled step.
        max_grad_norm: of all parameters together; 0 for never.

    Reference:
        You et al. 2019, arXiv:1904.00962, Algorithm 2, with bias correction.

    Deviates:
        The paper clips nothing; the clipping and the unscaled step of what doesn't decay are as in the code that
        Wightman et al. 2021, arXiv:2110.00476, trained with.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.02,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        assert closure is None, "fit computes the gradient itself"
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        gradients = [p.grad for _, parameters in groups for p in parameters if p.grad is not None]
        clip = self._clip(gradients)
        for group, parameters in groups:
            for parameter in parameters:
                assert parameter.grad is not None
                self._move(parameter, parameter.grad * clip, group)

    def _clip(self, gradients: list[Tensor]) -> Tensor | float:
        if not self.max_grad_norm or not gradients:
            return 1.0
        norm: Tensor = torch.stack([gradient.norm() for gradient in gradients]).norm()
        return torch.clamp(self.max_grad_norm / norm.clamp(min=1e-12), max=1.0)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        mean_share, square_share = group["betas"]
        state["mean"].lerp_(gradient, 1 - mean_share)
        state["square"].mul_(square_share).addcmul_(gradient, gradient, value=1 - square_share)
        mean = state["mean"] / (1 - mean_share ** state["step"])
        root = (state["square"] / (1 - square_share ** state["step"])).sqrt_()
        step = mean / root.add_(group["eps"])
        if group["weight_decay"]:
            step.add_(parameter, alpha=group["weight_decay"])
            weight_norm, step_norm = parameter.norm(), step.norm()
            ratio = torch.where((weight_norm > 0) & (step_norm > 0), weight_norm / step_norm, 1.0)
            step.mul_(ratio)
        self.apply(parameter, step, lr=group["lr"])
