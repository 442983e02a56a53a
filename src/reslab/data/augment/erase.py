"""Random erasing: a rectangle of a normalised image replaced by the training mean.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reslab.data.augment.geometry import draw_places, draw_sides, pick_first

AREAS = (0.02, 0.33)
ASPECTS = (0.3, 3.3)


def draw_rectangles(number: int, *, height: int, width: int, probability: float, generator: torch.Generator) -> Tensor:
    """Boxes (top, left, height, width) to erase: int64 (N, 4), of height and width 0 where nothing is erased.

    A box has 2 to 33 % of the area and an aspect ratio of 0.3 to 3.3, and is smaller than the image in both
    directions; nothing is erased if none of ten is.

    Reference:
        Zhong et al. 2017, arXiv:1708.04896; torchvision's RandomErasing, whose rule and numbers these are.
    """
    drawn = torch.rand(number, dtype=torch.float64, generator=generator) < probability
    sides = draw_sides(number, pixels=height * width, area=AREAS, aspect=ASPECTS, generator=generator)
    high, wide, found = pick_first(sides, (sides[0] < height) & (sides[1] < width))
    top, left = draw_places(high, height, generator=generator), draw_places(wide, width, generator=generator)
    boxes = torch.stack([top, left, high, wide], dim=1).long()
    return boxes * (drawn & found).unsqueeze(1)


def inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Which pixels lie in their image's box: (N, 4) -> bool (N, 1, H, W) where the images are."""
    top, left, high, wide = boxes.to(images.device).view(-1, 4, 1, 1, 1).unbind(1)
    rows = torch.arange(images.shape[-2], device=images.device).view(-1, 1)
    columns = torch.arange(images.shape[-1], device=images.device)
    return (rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """0, the training mean, in each image's box; images normalised (N, C, H, W), boxes (N, 4)."""
    return images.masked_fill(inside(boxes, images), 0)
