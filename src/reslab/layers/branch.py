"""What stands on a branch besides convolutions, norms and activations: channel attention, drop path, scalars.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from reslab.layers.nd import CONVS, mean_of_positions
from reslab.layers.spec import DropPathRule, Ndim


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a gate in (0, 1) that two 1x1 convolutions compute from all channels' means.

    Args:
        channels: C.
        ndim: dimensions of a position.
        gain: constant factor of the result; 2 in networks without norms, since the gates start near 1/2.

    Shape:
        (N, C, *) -> (N, C, *)

    Reference:
        Hu et al. 2017, arXiv:1709.01507, sec. 3; the gain: Brock et al. 2021, arXiv:2102.06171, sec. 4.

    Deviates:
        C / 16 is rounded to a multiple of 8, at least 8, as timm does.
    """

    def __init__(self, channels: int, *, ndim: Ndim = 2, gain: float = 1.0) -> None:
        super().__init__()
        hidden = max(8, int(channels / 16 + 4) // 8 * 8)
        self.fc1 = CONVS[ndim](channels, hidden, kernel_size=1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = CONVS[ndim](hidden, channels, kernel_size=1)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.fc2(self.act(self.fc1(mean_of_positions(x)))))
        return x * gates if self.gain == 1 else self.gain * (x * gates)


class EfficientChannelAttention(nn.Module):
    """Multiplies each channel by a gate in (0, 1) that a short 1-D convolution computes from its neighbours' means.

    Args:
        channels: C; the kernel's length is the odd number next to (log2(C) + 1) / 2, at least 3.
        gain: constant factor of the result.

    Shape:
        (N, C, *) -> (N, C, *)

    Reference:
        Wang et al. 2019, arXiv:1910.03151, eq. 9 and 12 with gamma = 2, b = 1.
    """

    def __init__(self, channels: int, *, gain: float = 1.0) -> None:
        super().__init__()
        length = int((math.log2(channels) + 1) / 2)
        kernel = max(3, length if length % 2 else length + 1)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        means = mean_of_positions(x)
        gates = torch.sigmoid(self.conv(means.flatten(1).unsqueeze(1)))  # (N, C, 1, ...) -> (N, 1, C)
        gated = x * gates.reshape_as(means)
        return gated if self.gain == 1 else self.gain * gated


class DropPath(nn.Module):
    """Drop path, or stochastic depth: drops the whole branch at random while training.

    It stands on a branch, never on a shortcut.

    Args:
        rate: probability of being dropped, in [0, 1].
        rule: see ``DropPathRule``.
        per: one draw per ``"sample"`` or per ``"batch"``; by default the rule's own.

    Shape:
        branch (N, C, *) -> (N, C, *)

    Reference:
        Huang et al. 2016, arXiv:1603.09382, sec. 3, eq. 2 and 5.
    """

    def __init__(
        self, rate: float, *, rule: DropPathRule = "timm", per: Literal["sample", "batch"] | None = None
    ) -> None:
        super().__init__()
        self.rate = rate
        self.rule = rule
        self.per = per or ("batch" if rule == "paper" else "sample")

    def forward(self, branch: Tensor) -> Tensor:
        keep = 1 - self.rate
        if not self.training:
            return branch * keep if self.rule == "paper" else branch
        num_draws = branch.shape[0] if self.per == "sample" else 1
        mask = torch.bernoulli(torch.full((num_draws, *[1] * (branch.ndim - 1)), keep, device=branch.device))
        if self.rule == "timm" and keep > 0:
            mask = mask / keep
        return branch * mask.to(branch.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}, rule={self.rule}, per={self.per}"


def drop_rates(rate: float, num_blocks: int, *, rule: DropPathRule) -> list[float]:
    """Return the rate of each block, growing linearly with depth to ``rate`` at the last.

    The paper's first block is dropped too (l / L, l from 1); timm's never (i / (L - 1), i from 0).
    """
    if rule == "paper":
        return [rate * index / num_blocks for index in range(1, num_blocks + 1)]
    return [rate * index / max(num_blocks - 1, 1) for index in range(num_blocks)]


class ScalarBias(nn.Module):
    """``x + bias`` with one learned number, 0 at the start: what Fixup has in place of a norm.

    Its learning rate is a tenth of the others', and it is exempt from weight decay.

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
        return x if self.factor == 1 else x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:.4g}"
