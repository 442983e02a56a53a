"""What pixels become: brightness, contrast and the like, by another amount for each image of a batch.

All take and give uint8 (N, C, H, W) with 1 or 3 channels, equal torchvision's functions of these names bit by bit, and
take amounts as float64 (N,) on the CPU. Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiplies every level: 0 is black, 1 the image."""
    return (images * _per_image(factors, images)).clamp_(0, 255).to(torch.uint8)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blends with the grey image: 0 is grey, 1 the image; a grey image stays as it is."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blends with the mean of the grey image: 0 is flat, 1 the image."""
    # A sum of whole numbers is exact in float32 up to 256 x 256 pixels, in whatever order it is taken.
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blends with a blurred image: 0 is blurred, 1 the image, more is sharper; the outermost pixels stay."""
    if min(images.shape[-2:]) <= 2:
        return images
    levels = images.float()
    inner = levels[:, :, 1:-1, 1:-1]
    nine = F.avg_pool2d(levels, 3, stride=1, divisor_override=1)
    blurred = ((nine + 4 * inner) / 13).round_()  # 1 for each neighbour and 5 for the middle; never half-way
    sharper = torch.addcmul(inner, _per_image(1 - factors, images), blurred - inner)
    levels[:, :, 1:-1, 1:-1] = sharper.clamp_(0, 255)
    return levels.to(torch.uint8)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest ``bits``, 0 to 8, of each level."""
    masks = 256 - 2 ** (8 - bits.long())
    return images & masks.to(torch.uint8).view(-1, 1, 1, 1).to(images.device)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Inverts the levels at and above the threshold."""
    return torch.where(images >= _per_image(thresholds, images), 255 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel of each image to the levels 0 to 255; torchvision's own, which works per image."""
    stretched: Tensor = TF.autocontrast(images)
    return stretched


def equalize(images: Tensor) -> Tensor:
    """Spreads each channel's levels so that all occur about as often; torchvision's own, which works per image."""
    spread: Tensor = TF.equalize(images)
    return spread


def draw_jitter(number: int, *, amount: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factors and orders of colour jitter.

    Returns:
        Factors of brightness, contrast and saturation, float64 (3, N), uniform within ``amount`` of 1 and not below 0;
        and which of the three comes first, second and third, int64 (3, N), all orders alike.
    """
    low = max(0.0, 1 - amount)
    factors = low + torch.rand((3, number), dtype=torch.float64, generator=generator) * (1 + amount - low)
    return factors, torch.rand((3, number), dtype=torch.float64, generator=generator).argsort(dim=0)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast and saturation by ``factors`` (3, N), in each image's own order (3, N)."""
    images = images.clone()
    for turn in order:
        for kind, operation in enumerate((brightness, contrast, saturation)):
            chosen = torch.nonzero(turn == kind).squeeze(1)
            here = chosen.to(images.device)
            images[here] = operation(images[here], factors[kind, chosen])
    return images


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """(N,) -> float32 (N, 1, 1, 1) where the images are; only here, so that amounts are rounded once."""
    return values.float().view(-1, 1, 1, 1).to(images.device)


def _grey(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> whole float32 (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.unsqueeze(2).unbind(1)  # (N, 3, H, W) -> 3 x (N, 1, H, W)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """``factors`` of the images and the rest of the others. The sum is taken unrounded (fused), as torchvision's is."""
    part = images * _per_image(factors, images)
    return torch.addcmul(part, _per_image(1 - factors, images), others).clamp_(0, 255).to(torch.uint8)
