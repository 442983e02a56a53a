"""LAMB: Adam whose step is as long, in each tensor, as a fixed share of that tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from reslab.train.skipping import SkippingOptimizer


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
