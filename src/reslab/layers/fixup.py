"""The scalars that stand in for norms under Fixup."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarBias(nn.Module):
    """``x + bias`` with one learned number, 0 at the start.

    Its rate is a tenth of the others', and it is exempt from weight decay.

    Reference:
        Zhang et al. 2019, arXiv:1901.09321, sec. 3, rule 3; the rate: the authors' training code.

    Deviates:
        The authors' CIFAR script decays the scalars too; a penalty has no reason to pull a scale of 1 to 0.
    """

    no_decay: tuple[str, ...] = ("bias",)
    lr_scales: dict[str, float] = {"bias": 0.1}  # noqa: RUF012  # read only

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Adds the bias."""
        return x + self.bias


class ScalarAffine(nn.Module):
    """``x * scale + bias`` with two learned numbers, 1 and 0 at the start: the end of a Fixup branch."""

    no_decay: tuple[str, ...] = ("scale", "bias")
    lr_scales: dict[str, float] = {"scale": 0.1, "bias": 0.1}  # noqa: RUF012  # read only

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scales, then adds the bias."""
        return x * self.scale + self.bias


class Multiply(nn.Module):
    """``x * factor`` with a constant.

    Args:
        factor: the constant.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Scales."""
        return x if self.factor == 1 else x * self.factor

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.factor:.4g}"
