"""Junctions: how a block joins its shortcut to its branch.

Each says its ``shortcut_gain``, by which it multiplies the shortcut at the start of training: over L blocks the pure
shortcut path has the product of the gains. A parameter that must not decay stands in ``no_decay``.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.layers.nd import Parts


class Add(nn.Module):
    """``shortcut + branch``: the residual addition.

    Args:
        in_place: write the sum over the branch. Not where the branch ends in an activation, whose derivative needs it.

    Shape:
        shortcut (N, C, *), branch (N, C, *) -> (N, C, *)

    Reference:
        He et al. 2015, arXiv:1512.03385, eq. 1.
    """

    shortcut_gain = 1.0

    def __init__(self, *, in_place: bool = True) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Adds."""
        return branch.add_(shortcut) if self.in_place else shortcut + branch


class BranchOnly(nn.Module):
    """The branch alone: the junction of a plain network.

    Shape:
        shortcut is ignored, branch (N, C, *) -> (N, C, *)
    """

    shortcut_gain = 0.0

    def forward(self, shortcut: None, branch: Tensor) -> Tensor:
        """Returns ``branch``."""
        return branch


class ScaledAdd(nn.Module):
    """``shortcut_gain * shortcut + branch_scale * branch``.

    SkipInit, ReZero, LayerScale, Inception's scale, 1 / sqrt(2), 1 / sqrt(L) and the constant scalings of the identity
    mappings paper are this with other numbers.

    Args:
        shortcut_gain: constant factor of the shortcut.
        branch_gain: factor of the branch, at the start if it is learned.
        learned: ``"no"``, one ``"scalar"``, or one number a ``"channel"``.
        channels: C, where there is one number a channel.

    Shape:
        shortcut (N, C, *), branch (N, C, *) -> (N, C, *); branch_scale () or (C,)
    """

    no_decay: tuple[str, ...] = ("branch_scale",)
    branch_scale: Tensor | float

    def __init__(
        self,
        *,
        shortcut_gain: float = 1.0,
        branch_gain: float = 1.0,
        learned: Literal["no", "scalar", "channel"] = "no",
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.shortcut_gain = shortcut_gain
        if learned == "no":
            self.branch_scale = branch_gain
        else:
            self.branch_scale = nn.Parameter(torch.full((channels,) if learned == "channel" else (), branch_gain))

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Scales and adds."""
        scale = self.branch_scale
        if isinstance(scale, Tensor) and scale.ndim:
            scale = scale.reshape(-1, *[1] * (branch.ndim - 2))  # (C,) -> (C, 1, ...)
        scaled = branch if isinstance(scale, float) and scale == 1 else branch * scale
        return (shortcut if self.shortcut_gain == 1 else shortcut * self.shortcut_gain) + scaled

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        kind = "learned" if isinstance(self.branch_scale, Tensor) else f"{self.branch_scale:.4g}"
        return f"shortcut_gain={self.shortcut_gain:.4g}, branch_scale={kind}"


class GatedAdd(nn.Module):
    """``(1 - g) * shortcut + g * branch``, or with ``exclusive=False`` the branch ungated; g = sigmoid(gate(shortcut)).

    Args:
        channels: C; there is a gate for each channel and position.
        bias: of the gate at the start; negative lets the shortcut through.
        exclusive: whether the branch gets the other share, or all of itself.
        kernel: side of the gate's kernel.
        parts: makes the gate's convolution.

    Shape:
        shortcut (N, C, *), branch (N, C, *) -> (N, C, *)

    Reference:
        He et al. 2016, arXiv:1603.05027, sec. 3.1; with a 3x3 gate: Srivastava et al. 2015, arXiv:1505.00387, eq. 3.

    Deviates:
        The gate's weights start at zero, so that the gain of the shortcut at the start is exactly 1 - sigmoid(bias);
        the papers don't say. Where the dimensions change the gate reads the shortcut's result, and not x, which has
        others.
    """

    no_decay: tuple[str, ...] = ("gate.bias",)  # a penalty would open the gate to 1/2

    def __init__(
        self,
        channels: int,
        *,
        bias: float = -6.0,
        exclusive: bool = True,
        kernel: int = 1,
        parts: Parts | None = None,
    ) -> None:
        super().__init__()
        parts = replace(parts or Parts(), conv="plain", conv_bias="all")
        self.gate = parts.make_conv(channels, channels, kernel)
        self.bias = bias
        self.exclusive = exclusive
        self.shortcut_gain = 1 - 1 / (1 + math.exp(-bias))

    def start(self) -> None:
        """Sets the starting values."""
        nn.init.zeros_(self.gate.weight)  # type: ignore[arg-type]
        nn.init.constant_(self.gate.bias, self.bias)  # type: ignore[arg-type]

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Gates and adds."""
        gate = torch.sigmoid(self.gate(shortcut))
        return (1 - gate) * shortcut + (gate * branch if self.exclusive else branch)


class DroppedShortcutAdd(nn.Module):
    """``dropout(shortcut) + branch``: what the identity mappings paper tried, and found to fail.

    Args:
        rate: share of the shortcut's elements dropped while training; the others are scaled up.

    Shape:
        shortcut (N, C, *), branch (N, C, *) -> (N, C, *)

    Reference:
        He et al. 2016, arXiv:1603.05027, sec. 3.1, "Dropout shortcut".
    """

    shortcut_gain = 1.0  # in expectation

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Drops and adds."""
        return F.dropout(shortcut, self.rate, training=self.training) + branch
