"""Shortcuts S(x): what goes past the branch. One class per kind; ``make_shortcut`` says which one a block gets.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from reslab.errors import RequestError, unknown
from reslab.layers.nd import CellMean, LayerFactory
from reslab.layers.spec import SHORTCUT_KINDS, ShortcutKind


class NoShortcut(nn.Module):
    """Nothing goes past the branch: the block of a plain network. Pairs with the ``BranchOnly`` junction."""

    def forward(self, x: Tensor) -> None:
        return None


class ZeroPad(nn.Module):
    """Option A: subsample with the stride, then fill the new channels with zeros. It has no parameters.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of the result, at least ``in_channels``.
        stride: every how many positions are kept, in each dimension.
        layout: ``"last"`` puts all new channels after the old ones; ``"both"`` half before and half after.

    Shape:
        x (N, C_in, *) -> (N, C_out, ceil(* / stride))

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 3.3, option A. The paper leaves the layout open.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, layout: Literal["last", "both"] = "last"
    ) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise RequestError(f"A zero-pad shortcut can't lose channels: {in_channels} in, {out_channels} out.")
        extra = out_channels - in_channels
        self.before = extra // 2 if layout == "both" else 0
        self.after = extra - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        ndim = x.ndim - 2
        if self.stride > 1:
            x = x[(slice(None), slice(None), *[slice(None, None, self.stride)] * ndim)]
        return F.pad(x, (*[0] * 2 * ndim, self.before, self.after))  # (N, C_in, *) -> (N, C_out, *)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class Projection(nn.Sequential):
    """Options B and C: a 1x1 convolution with the stride, then a norm.

    A Sequential, so that its state_dict keys are torchvision's ``downsample.0`` and ``downsample.1``, and with ``pool``
    those of timm's ResNet-D, ``downsample.1`` and ``downsample.2``.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of the result.
        stride: of the convolution, or with ``pool`` side of the cells that are averaged before it.
        layers: makes the layers.
        norm: whether there is one; a pre-activation block has none.
        pool: take the stride by a mean, as ResNet-D.

    Shape:
        x (N, C_in, *) -> (N, C_out, ceil(* / stride))

    Reference:
        He et al. 2015, arXiv:1512.03385, eq. 2 and sec. 3.3; the pool: He et al. 2018, arXiv:1812.01187, Fig. 2c.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        layers: LayerFactory | None = None,
        norm: bool = True,
        pool: bool = False,
    ) -> None:
        layers = layers or LayerFactory()
        pools = [CellMean(stride) if stride > 1 else nn.Identity()] if pool else []
        conv = layers.make_conv(in_channels, out_channels, 1, stride=1 if pool else stride, last=True)
        norms = [layers.make_norm(out_channels)] if norm and layers.norm != "none" else []
        super().__init__(*pools, conv, *norms)


def make_shortcut(
    kind: ShortcutKind,
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    layers: LayerFactory | None = None,
    norm: bool = True,
) -> nn.Module:
    """Make the shortcut that a block of these dimensions gets under ``kind``.

    ``zero_pad`` and ``projection`` say what happens where the dimensions change; elsewhere the shortcut is the
    identity.
    """
    if kind not in SHORTCUT_KINDS:
        raise unknown("shortcut", kind, SHORTCUT_KINDS)
    changes = stride != 1 or in_channels != out_channels
    if kind == "none":
        return NoShortcut()
    if kind == "projection_all" or (kind in ("projection", "projection_pool") and changes):
        pool = kind == "projection_pool"
        return Projection(in_channels, out_channels, stride=stride, layers=layers, norm=norm, pool=pool)
    if not changes:
        return nn.Identity()
    if kind == "zero_pad":
        return ZeroPad(in_channels, out_channels, stride=stride)
    if kind == "zero_pad_both":
        return ZeroPad(in_channels, out_channels, stride=stride, layout="both")
    raise RequestError(
        f"An identity shortcut needs equal dimensions, got {in_channels} -> {out_channels} channels with stride"
        f" {stride}. Use 'zero_pad' or 'projection'."
    )
