"""Drop path, or stochastic depth: whole branches left out at random while training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

DropPathRule = Literal["timm", "paper"]
"""``timm``: a draw for each sample, kept branches are scaled up, eval is as if nothing were dropped. ``paper``: one
draw for the batch, nothing is scaled in training, eval scales branches down by the share that was kept."""


class DropPath(nn.Module):
    """Leaves the branch out with probability ``rate`` while training. Stands on a branch, never on a shortcut.

    Args:
        rate: probability of being dropped, in [0, 1].
        rule: see ``DropPathRule``.
        per: one draw for each ``"sample"`` or for the ``"batch"``; by default the rule's own.

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
        """Drops, keeps or scales ``branch``."""
        keep = 1 - self.rate
        if not self.training:
            return branch * keep if self.rule == "paper" else branch
        num_draws = branch.shape[0] if self.per == "sample" else 1
        mask = torch.bernoulli(torch.full((num_draws, *[1] * (branch.ndim - 1)), keep, device=branch.device))
        if self.rule == "timm" and keep > 0:
            mask = mask / keep
        return branch * mask.to(branch.dtype)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"rate={self.rate:.3g}, rule={self.rule}, per={self.per}"


def drop_rates(rate: float, num_blocks: int, *, rule: DropPathRule) -> list[float]:
    """The rate of each block, growing linearly with depth to ``rate`` at the last.

    The paper's first block is dropped too (l / L, l from 1); timm's never (i / (L - 1), i from 0).

    Example:
        >>> drop_rates(0.5, 5, rule="timm"), drop_rates(0.5, 5, rule="paper")
        ([0.0, 0.125, 0.25, 0.375, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5])
    """
    if rule == "paper":
        return [rate * index / num_blocks for index in range(1, num_blocks + 1)]
    return [rate * index / max(num_blocks - 1, 1) for index in range(num_blocks)]


def make_drop_path(rate: float, *, rule: DropPathRule) -> nn.Module:
    """Drop path, or nothing where the rate is 0."""
    return DropPath(rate, rule=rule) if rate > 0 else nn.Identity()
