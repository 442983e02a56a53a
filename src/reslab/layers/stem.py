"""Stems: what stands between the image and the first block."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from reslab.errors import unknown
from reslab.layers.nd import Parts, ZeroPaddedMaxPool

StemKind = Literal["imagenet", "tensorflow", "deep", "deep_tiered", "small"]
"""``imagenet``: 7x7, stride 2, then max-pool. ``tensorflow``: the same, the pool padded with zeros. ``deep`` (ResNet-C
and -D): three 3x3, the first with stride 2, then max-pool. ``deep_tiered``: the same, widths 3/8, 1/2, 1. ``small``:
one 3x3."""

STEM_KINDS: tuple[StemKind, ...] = get_args(StemKind)


def make_stem(kind: StemKind, in_channels: int, width: int, *, parts: Parts) -> tuple[nn.Module, nn.Module]:
    """The stem's convolution, or convolutions, and its pool; norm and activation stand between the two.

    Args:
        kind: see ``StemKind``. The small stem is for images of 8 to 64 pixels, the others for about 224.
        in_channels: channels of the image.
        width: channels of the result.
        parts: makes the layers.

    Shape:
        (N, C, H, W) -> (N, width, H / 4, W / 4), but for ``small`` (N, width, H, W)

    Reference:
        He et al. 2015, arXiv:1512.03385, Table 1 and sec. 4.2; deep: He et al. 2018, arXiv:1812.01187, Fig. 2b; tiered:
        timm's "t" networks.
    """
    match kind:
        case "imagenet" | "tensorflow":
            pool = ZeroPaddedMaxPool(parts.ndim) if kind == "tensorflow" else parts.make_max_pool()
            return parts.make_conv(in_channels, width, 7, stride=2, last=True), pool
        case "deep" | "deep_tiered":
            first = 3 * width // 8 if kind == "deep_tiered" else width // 2
            return nn.Sequential(
                parts.make_conv(in_channels, first, 3, stride=2),
                parts.make_norm(first),
                parts.make_activation(),
                parts.make_conv(first, width // 2, 3),
                parts.make_norm(width // 2),
                parts.make_activation(),
                parts.make_conv(width // 2, width, 3, last=True),
            ), parts.make_max_pool()
        case "small":
            return parts.make_conv(in_channels, width, 3, last=True), nn.Identity()
        case _:
            raise unknown("stem", kind, STEM_KINDS)
