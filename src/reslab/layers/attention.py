"""Channel attention at the end of a branch: squeeze-and-excite, and its one-convolution form ECA."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from reslab.layers.nd import CONVS, Ndim, mean_of_positions

AttentionKind = Literal["none", "se", "eca"]


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
        """Gates ``x``."""
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
        """Gates ``x``."""
        means = mean_of_positions(x)
        gates = torch.sigmoid(self.conv(means.flatten(1).unsqueeze(1)))  # (N, C, 1, ...) -> (N, 1, C)
        gated = x * gates.reshape_as(means)
        return gated if self.gain == 1 else self.gain * gated


def make_attention(kind: Literal["se", "eca"], channels: int, *, ndim: Ndim, gain: float = 1.0) -> nn.Module:
    """The attention of that kind."""
    return (
        SqueezeExcite(channels, ndim=ndim, gain=gain)
        if kind == "se"
        else EfficientChannelAttention(channels, gain=gain)
    )
