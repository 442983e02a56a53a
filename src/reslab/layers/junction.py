"""Junctions: how a block joins its shortcut to its branch."""

from __future__ import annotations

from torch import Tensor, nn


class Add(nn.Module):
    """``shortcut + branch``: the residual addition.

    Shape:
        shortcut (N, C, H, W), branch (N, C, H, W) -> (N, C, H, W)

    Reference:
        He et al. 2015, arXiv:1512.03385, eq. 1.
    """

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Adds the shortcut into the branch, in place: autograd needs the value of neither."""
        return branch.add_(shortcut)


class BranchOnly(nn.Module):
    """The branch alone: the junction of a plain network.

    Shape:
        shortcut is ignored, branch (N, C, H, W) -> (N, C, H, W)
    """

    def forward(self, shortcut: None, branch: Tensor) -> Tensor:
        """Returns ``branch``."""
        return branch
