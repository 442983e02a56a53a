"""The part that our own optimisers share with torch's fused ones: skipping a step without asking the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


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
