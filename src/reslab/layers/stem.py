"""Stems: what stands between the image and the first block."""

from __future__ import annotations

from typing import Literal

from torch import nn

from reslab.errors import RequestError

StemKind = Literal["imagenet", "small"]


def make_stem(kind: StemKind, in_channels: int, width: int) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module]:
    """The stem's convolution, its norm, and its pool; a ReLU stands between the last two.

    Args:
        kind: ``"imagenet"`` is a 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2, for images of about 224
            pixels; ``"small"`` is a 3x3 convolution of stride 1, for images of 8 to 64 pixels.
        in_channels: channels of the image.
        width: channels of the result.

    Shape:
        (N, C, H, W) -> (N, width, H / 4, W / 4) for ``imagenet``, (N, width, H, W) for ``small``

    Reference:
        He et al. 2015, arXiv:1512.03385, Table 1 and sec. 4.2.
    """
    if kind == "imagenet":
        conv = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        return conv, nn.BatchNorm2d(width), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    if kind == "small":
        conv = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        return conv, nn.BatchNorm2d(width), nn.Identity()
    raise RequestError(f"Unknown stem {kind!r}. Expected 'imagenet' or 'small'.")
