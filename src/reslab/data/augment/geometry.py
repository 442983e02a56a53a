"""Where pixels come from: shifts, mirrors, resized crops and affine warps, another one for each image of a batch.

Every operation comes in two parts: a function that draws the parameters of a whole batch from a CPU generator, and one
that applies parameters to images on any device. Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 10  # of torchvision, to find a box that fits
ASPECTS = (3 / 4, 4 / 3)
ONE = 1 << 14  # a weight of 1, in the fixed-point arithmetic of torch's resize of uint8 images


def draw_shifts(number: int, *, padding: int, generator: torch.Generator) -> Tensor:
    """How far down and right in the padded image each window begins: int64 (2, N), uniform from 0 to 2 ``padding``."""
    return torch.randint(2 * padding + 1, (2, number), generator=generator)


def shift(images: Tensor, shifts: Tensor, *, padding: int, fill: Tensor) -> Tensor:
    """Cuts each image's window out of the image padded with ``fill``, a value a channel.

    Shape:
        images (N, C, H, W), shifts (2, N), fill (C,) of the images' type -> (N, C, H, W)
    """
    number, _, height, width = images.shape
    padded = fill.view(1, -1, 1, 1).repeat(number, 1, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p+1, 2p+1, H, W)
    down, right = shifts.to(images.device)
    return windows[torch.arange(number, device=images.device), :, down, right]  # (N, C, H, W): a window of each image


def draw_mirrors(number: int, *, generator: torch.Generator) -> Tensor:
    """Which images are mirrored: bool (N,), half of them."""
    return torch.rand(number, generator=generator) < 0.5


def alternating_mirrors(indices: Tensor, *, epoch: int, seed: int) -> Tensor:
    """Which images are mirrored in this epoch: bool (N,), each in every second epoch, beginning at random.

    The beginning is a hash of ``seed`` and the image's index in the data set, so that nothing has to be kept.

    Reference:
        Jordan 2024, arXiv:2404.00498, sec. 3.6. The hash is SplitMix64: Steele et al. 2014, OOPSLA, fig. 17.
    """
    state = indices.cpu().numpy().astype(np.uint64) + np.array([seed % 2**64], dtype=np.uint64)
    state = _scramble(_scramble(np.array([seed % 2**64], dtype=np.uint64)) + state)
    return torch.from_numpy((state + np.uint64(epoch)) % np.uint64(2) == 1)


def _scramble(
    state: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """One step of SplitMix64: uint64 of any shape; sums and products wrap around."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors the images (N, C, H, W) at which ``mirrored``, bool (N,), is true."""
    return torch.where(mirrored.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def draw_sides(
    number: int, *, pixels: int, area: tuple[float, float], aspect: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sides of ten rectangles an image: area uniform, aspect ratio uniform on a logarithmic scale.

    Args:
        number: of images, N.
        pixels: of an image.
        area: smallest and largest share of the pixels.
        aspect: smallest and largest ratio of the first side to the second.
        generator: drawn from.

    Returns:
        First and second side in whole pixels, float64 (N, 10).
    """
    shares, ratios = torch.rand((2, number, TRIES), dtype=torch.float64, generator=generator)
    areas = pixels * (area[0] + shares * (area[1] - area[0]))
    low, high = math.log(aspect[0]), math.log(aspect[1])
    aspects = torch.exp(low + ratios * (high - low))
    return (areas * aspects).sqrt().round(), (areas / aspects).sqrt().round()


def pick_first(sides: tuple[Tensor, Tensor], fits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides of each image's first rectangle that fits, float64 (N,), and whether there is one, bool (N,)."""
    first = fits.int().argmax(1, keepdim=True)  # of equal values the first
    one, other = (side.gather(1, first).squeeze(1) for side in sides)
    return one, other, fits.any(1)


def draw_places(sizes: Tensor, room: int, *, generator: torch.Generator) -> Tensor:
    """Where lengths of ``sizes`` begin in a ``room``: whole float64 (N,), uniform from 0 to room - size."""
    return (torch.rand(len(sizes), dtype=torch.float64, generator=generator) * (room - sizes + 1)).floor()


def draw_crops(number: int, *, height: int, width: int, min_area: float, generator: torch.Generator) -> Tensor:
    """Boxes (top, left, height, width) of random resized crops: int64 (N, 4).

    A box has ``min_area`` to all of the image's area and an aspect ratio of 3/4 to 4/3. If none of ten fits, it is the
    largest box in the centre whose aspect ratio is in that range.

    Reference:
        Szegedy et al. 2014, arXiv:1409.4842, sec. 6; torchvision's RandomResizedCrop, whose rule this is.
    """
    widths, heights = draw_sides(
        number, pixels=height * width, area=(min_area, 1.0), aspect=ASPECTS, generator=generator
    )
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    wide, high, found = pick_first((widths, heights), fits)
    top, left = draw_places(high, height, generator=generator), draw_places(wide, width, generator=generator)
    drawn = torch.stack([top, left, high, wide], dim=1).long()
    return torch.where(found.unsqueeze(1), drawn, centre_crop(height, width))


def centre_crop(height: int, width: int) -> Tensor:
    """The largest box (top, left, height, width) in the centre with an aspect ratio of 3/4 to 4/3: int64 (4,)."""
    high = min(height, round(width / ASPECTS[0]))
    wide = min(width, round(height * ASPECTS[1]))
    return torch.tensor([(height - high) // 2, (width - wide) // 2, high, wide])


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Blows up each image's box to the size of the image, bilinearly.

    In torch's own fixed-point arithmetic for uint8, so that the result equals torchvision's ``resized_crop`` on a CPU
    with AVX2 bit by bit, here on every device. Where torch resizes in floating point, as on a GPU, the two differ by
    at most 1 level.

    Shape:
        images uint8 (N, C, H, W), boxes int64 (N, 4) -> (N, C, H, W)
    """
    top, left, high, wide = boxes.unbind(1)
    images = _stretch(images, left, wide, dim=3)  # first along rows, then along columns, and rounded in between: as
    return _stretch(images, top, high, dim=2)  # torch and Pillow do


def _stretch(images: Tensor, start: Tensor, length: Tensor, *, dim: Literal[2, 3]) -> Tensor:
    """Blows up ``length`` pixels from ``start`` on, each (N,), to the whole of a dimension."""
    size, device = images.shape[dim], images.device
    shape = (-1, 1, 1, size) if dim == 3 else (-1, 1, size, 1)
    start, length = start.unsqueeze(1), length.unsqueeze(1)
    place = (torch.arange(size) + 0.5) * (length.double() / size) - 0.5  # (N, size): of each new pixel, in the box
    before = place.floor().long()
    # A pixel outside the box counts as the one at its edge.
    first, second = start + before.clamp(min=0), start + (before + 1).minimum(length - 1)
    share = place - before
    total = torch.full((), ONE // 2, dtype=torch.int32, device=device)  # so that the division rounds
    for pixels, weight in ((first, 1 - share), (second, share)):
        weights = (weight * ONE + 0.5).int().view(shape).to(device)
        total = total + images.gather(dim, pixels.view(shape).to(device).expand_as(images)) * weights
    return (total >> ONE.bit_length() - 1).to(torch.uint8)


def shear_x(amounts: Tensor, *, height: int, width: int) -> Tensor:
    """Matrices that shift each row by ``amounts`` times its distance from the top: float64 (N,) -> (N, 2, 3)."""
    slopes = _of_each(math.tan, _angles(amounts))
    return _matrices(across=slopes, right=slopes * (height / 2))


def shear_y(amounts: Tensor, *, height: int, width: int) -> Tensor:
    """Matrices that shift each column by ``amounts`` times its distance from the left: float64 (N,) -> (N, 2, 3)."""
    angles = _angles(amounts)
    slopes = _of_each(math.sin, angles) / _of_each(math.cos, angles)
    down = (slopes * (width / 2) - height / 2) + height / 2  # rounded as torchvision's, for the same reason as angles
    return _matrices(along=slopes, down=down)


def _angles(slopes: Tensor) -> Tensor:
    """Of shears, by torchvision's way through degrees: the last bit can decide which of two pixels is nearer."""
    return _of_each(math.atan, slopes).rad2deg().deg2rad()


def _of_each(function: Callable[[float], float], values: Tensor) -> Tensor:
    """A function of Python's ``math``, float64 (N,) -> (N,): torch's own round otherwise on some processors."""
    return torch.tensor([function(value) for value in values.tolist()], dtype=torch.float64)


def translate_x(pixels: Tensor, *, height: int, width: int) -> Tensor:
    """Matrices that move right by ``pixels``, without their fractions: float64 (N,) -> (N, 2, 3)."""
    return _matrices(right=-pixels.trunc())


def translate_y(pixels: Tensor, *, height: int, width: int) -> Tensor:
    """Matrices that move down by ``pixels``, without their fractions: float64 (N,) -> (N, 2, 3)."""
    return _matrices(down=-pixels.trunc())


def rotate(degrees: Tensor, *, height: int, width: int) -> Tensor:
    """Matrices that turn counter-clockwise about the centre: float64 (N,) -> (N, 2, 3)."""
    angles = degrees.deg2rad()
    sines = _of_each(math.sin, angles)
    return _matrices(stay=_of_each(math.cos, angles), across=-sines, along=sines)


def _matrices(
    *,
    stay: Tensor | None = None,
    across: Tensor | None = None,
    along: Tensor | None = None,
    right: Tensor | None = None,
    down: Tensor | None = None,
) -> Tensor:
    """[stay, across, right; along, stay, down]: where, from the centre, a pixel of the result comes from."""
    given = next(part for part in (across, along, right, down) if part is not None)
    zero, one = torch.zeros_like(given), torch.ones_like(given)
    stay, across, along, right, down = (
        default if part is None else part
        for part, default in ((stay, one), (across, zero), (along, zero), (right, zero), (down, zero))
    )
    return torch.stack([stay, across, right, along, stay, down], dim=-1).view(-1, 2, 3)


def warp(images: Tensor, matrices: Tensor, *, mode: Literal["nearest", "bilinear"]) -> Tensor:
    """Fetches every pixel from where its image's matrix says; black comes from outside.

    Places are computed on the CPU, by the operations of torchvision's ``affine`` and ``rotate``: a place half-way
    between two pixels then falls to the same one as there, on every device and at every precision of products.

    Shape:
        images uint8 (N, C, H, W), matrices float64 (N, 2, 3) -> (N, C, H, W)
    """
    height, width = images.shape[-2:]
    places = _places(matrices.float(), height, width).to(images.device)
    return F.grid_sample(images.float(), places, mode=mode, align_corners=False).round_().to(torch.uint8)


def _places(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from, -1 to 1 across the image: float32 (N, 2, 3) -> (N, H, W, 2)."""
    rows = torch.linspace((1 - height) / 2, (height - 1) / 2, height)
    columns = torch.linspace((1 - width) / 2, (width - 1) / 2, width)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)  # (1, H*W, 3)
    per_half = matrices.transpose(1, 2) / torch.tensor([width / 2, height / 2])  # (N, 2, 3) -> (N, 3, 2)
    return pixels.expand(len(matrices), -1, -1).bmm(per_half).view(-1, height, width, 2)
