"""Mixup and CutMix: images of a batch mixed with their neighbours, and their labels in the same shares.

Shape letters: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reslab.data.augment.erase import inside
from reslab.data.augment.options import Augmentation


def mix_batch(
    images: Tensor, labels: Tensor, *, augmentation: Augmentation, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix, as asked for; with both on, each batch takes one of the two with equal chance.

    Shape:
        images normalised (N, C, H, W), labels int64 (N,) -> images (N, C, H, W), targets float32 (N, K)
    """
    targets = F.one_hot(labels, num_classes).float()
    cuts = augmentation.cutmix > 0
    if cuts and augmentation.mixup > 0:
        cuts = bool(torch.rand((), generator=generator) < 0.5)
    if not cuts:
        return mixup(images, targets, draw_shares(len(images), alpha=augmentation.mixup, generator=generator))
    shares = draw_shares(len(images), alpha=augmentation.cutmix, generator=generator)
    height, width = images.shape[-2:]
    return cutmix(images, targets, draw_cuts(shares, height=height, width=width, generator=generator))


def draw_shares(number: int, *, alpha: float, generator: torch.Generator) -> Tensor:
    """What is left of each image: float64 (N,), Beta(alpha, alpha)."""
    seed = int(torch.randint(2**62, (), generator=generator))  # torch's Beta draws from the global generator only
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, number))


def mixup(images: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """A weighted mean of each image and the one before it.

    Args:
        images: normalised (N, C, H, W).
        targets: (N, K).
        shares: of the image itself, (N,).

    Reference:
        Zhang et al. 2017, arXiv:1710.09412; torchvision's MixUp, with its partners.

    Deviates:
        Each image has a share of its own; the paper and torchvision draw one a batch. One image sees the same
        distribution either way.
    """
    return _mean_with_previous(images, shares), _mean_with_previous(targets, shares)


def draw_cuts(shares: Tensor, *, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes (top, left, height, width) with about 1 - ``shares`` (N,) of the area, cut off at the borders: (N, 4).

    Reference:
        Yun et al. 2019, arXiv:1905.04899, sec. 3.1; torchvision's CutMix, with its rounding.
    """
    number = len(shares)
    half = (1 - shares).sqrt() / 2
    middle_y = torch.randint(height, (number,), generator=generator)
    middle_x = torch.randint(width, (number,), generator=generator)
    half_height, half_width = (half * height).long(), (half * width).long()
    top, left = (middle_y - half_height).clamp(min=0), (middle_x - half_width).clamp(min=0)
    bottom, right = (middle_y + half_height).clamp(max=height), (middle_x + half_width).clamp(max=width)
    return torch.stack([top, left, bottom - top, right - left], dim=1)


def cutmix(images: Tensor, targets: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """A box of each image taken from the one before it; targets by the box's true area.

    Args:
        images: normalised (N, C, H, W).
        targets: (N, K).
        boxes: (top, left, height, width) within the image, (N, 4).

    Reference:
        Yun et al. 2019, arXiv:1905.04899; torchvision's CutMix, with its partners.

    Deviates:
        Each image has a box of its own; torchvision draws one a batch. One image sees the same distribution.
    """
    area = boxes[:, 2] * boxes[:, 3]
    mixed = torch.where(inside(boxes, images), images.roll(1, 0), images)
    return mixed, _mean_with_previous(targets, 1 - area / (images.shape[-2] * images.shape[-1]))


def _mean_with_previous(values: Tensor, shares: Tensor) -> Tensor:
    """(N, ...) with shares (N,) -> (N, ...)."""
    shares = shares.float().view(-1, *[1] * (values.ndim - 1)).to(values.device)
    return values.roll(1, 0) * (1 - shares) + values * shares
