"""Augmentation of training images: whole batches with tensor operations, single images by torchvision's transforms.

Parameters are drawn for a whole batch from a CPU generator, and then applied to the images on any device. A box is
(top, left, height, width). Shape letters: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reslab.data.options import DataOptions
from reslab.data.preprocess import Preprocess

Range = tuple[float, float]

TRIES = 10  # of torchvision, to find a box that fits
CROP_ASPECTS = (3 / 4, 4 / 3)
ERASE_AREAS, ERASE_ASPECTS = (0.02, 0.33), (0.3, 3.3)


def derive_seed(*parts: int) -> int:
    """Derive a seed for one purpose from the run's seed: the same on every machine, unrelated for different parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class BatchAugment:
    """Augments batches of small images: crop, flip, then colour and policy image by image, normalise, erase, mix.

    Its seed decides the alternating flip and what is drawn image by image, a generator the rest.

    Reference:
        The order is that of torchvision's reference scripts; colour jitter, which they lack, comes before the policy.

    Deviates:
        Without colour, policy and resized crop, images are shifted after they were normalised, and the border is the
        training mean exactly; otherwise it is the mean rounded to one of 256 levels.
    """

    def __init__(self, preprocess: Preprocess, options: DataOptions, *, num_classes: int, seed: int = 0) -> None:
        self.preprocess, self.options, self.num_classes, self.seed = preprocess, options, num_classes, seed
        edits = options.policy != "none" or options.colour_jitter > 0
        self.edit = image_transform(options) if edits else None

    def __call__(
        self, images: Tensor, targets: Tensor, indices: Tensor, *, epoch: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augment one batch; ``indices`` say which images of the split they are.

        Shape:
            images uint8 (N, C, H, W), targets (N, ...), indices int64 (N,) on the CPU -> images float32 (N, C, H, W),
            targets as they were, or float32 (N, K) if labels are mixed
        """
        needs_levels = self.edit is not None or self.options.augment == "resized_crop_flip"
        if needs_levels:
            border = torch.tensor(mean_level(self.preprocess), dtype=torch.uint8, device=images.device)
        else:
            images = self.preprocess.normalise(images)
            border = images.new_zeros(images.shape[1])
        images = self._crop(images, border, generator=generator)
        if self.options.alternate_flip:
            images = flip(images, alternating_flips(indices, epoch=epoch, seed=self.seed))
        elif self.options.flips:
            images = flip(images, torch.rand(len(images), generator=generator) < 0.5)
        if self.edit is not None:
            images = self._edit_each(self.edit, images, indices, epoch=epoch)
        images = self.preprocess.normalise(images) if needs_levels else images
        return self._erase_and_mix(images, targets, generator=generator)

    def finish(self, images: Any, targets: Any, *, generator: torch.Generator) -> tuple[Any, Any]:
        """Do what is left to photographs once they are a batch, or a list because their sizes differ."""
        if isinstance(images, list):
            assert self.options.erasing == self.options.mixup == self.options.cutmix == 0, "these need one size"
            return [self.preprocess.normalise(image) for image in images], targets
        return self._erase_and_mix(self.preprocess.normalise(images), targets, generator=generator)

    def _crop(self, images: Tensor, border: Tensor, *, generator: torch.Generator) -> Tensor:
        (number, _, height, width), options = images.shape, self.options
        if options.augment == "none":
            return images
        if options.augment == "resized_crop_flip":
            boxes = draw_crops(number, (height, width), min_area=options.min_crop_area, generator=generator)
            return resized_crop(images, boxes)
        padding = shift_of(options, width)
        starts = torch.randint(2 * padding + 1, (2, number), generator=generator)
        return shift(images, starts, padding=padding, border=border)

    def _edit_each(self, edit: Callable[[Tensor], Tensor], images: Tensor, indices: Tensor, *, epoch: int) -> Tensor:
        edited = []
        with torch.random.fork_rng(devices=()):  # on the CPU, where one small image takes least time
            for image, index in zip(images.cpu(), indices.tolist(), strict=True):
                torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
                edited.append(edit(image))
        return torch.stack(edited).to(images.device)

    def _erase_and_mix(self, images: Tensor, targets: Any, *, generator: torch.Generator) -> tuple[Tensor, Any]:
        if probability := self.options.erasing:
            boxes = draw_rectangles(len(images), images.shape[2:], probability=probability, generator=generator)
            images = images.masked_fill(inside(boxes, images), 0)  # the training mean
        if self.options.mixes:
            targets = F.one_hot(targets, self.num_classes).float()
            return mix(images, targets, self.options, generator=generator)
        return images, targets


def image_transform(options: DataOptions, preprocess: Preprocess | None = None) -> Callable[..., Any]:
    """Colour jitter and policy for one uint8 image or an (input, target) pair; with ``preprocess`` shift and flip, too.

    These are torchvision's v2, which move every mask and box in a target with its image. They take seconds to import:
    only training with augmentation should.
    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    steps: list[Any] = []
    if preprocess is not None and options.augment in ("crop", "crop_flip"):
        fill = {tv_tensors.Image: mean_level(preprocess), "others": 0}
        steps.append(v2.RandomCrop(preprocess.size, padding=shift_of(options, preprocess.width), fill=fill))
    if preprocess is not None and options.flips:
        steps.append(v2.RandomHorizontalFlip())
    if options.colour_jitter > 0:
        steps.append(v2.ColorJitter(*[options.colour_jitter] * 3))
    match options.policy:
        case "rand_augment":
            steps.append(v2.RandAugment(options.policy_ops, options.policy_magnitude))
        case "trivial_augment":
            steps.append(v2.TrivialAugmentWide())
        case "aug_mix":
            steps.append(v2.AugMix())
    transform: Callable[..., Any] = v2.Compose(steps)
    return transform


# ---- crops and flips


def mean_level(preprocess: Preprocess) -> list[int]:
    """The training mean of each channel as one of 256 levels."""
    return [round(255 * mean) for mean in preprocess.mean]


def shift_of(options: DataOptions, side: int) -> int:
    """Most pixels that images of this side are shifted by."""
    return options.max_shift or max(1, side // 8)


def shift(images: Tensor, starts: Tensor, *, padding: int, border: Tensor) -> Tensor:
    """Cut out of each image (N, C, H, W), padded with ``border`` (C,), the window that begins at ``starts`` (2, N)."""
    number, _, height, width = images.shape
    padded = border.view(1, -1, 1, 1).repeat(number, 1, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p+1, 2p+1, H, W)
    down, right = starts.to(images.device)
    return windows[torch.arange(number, device=images.device), :, down, right]  # (N, C, H, W): a window of each image


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images (N, C, H, W) at which ``flipped``, bool (N,), is true."""
    return torch.where(flipped.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def alternating_flips(indices: Tensor, *, epoch: int, seed: int) -> Tensor:
    """Which images are mirrored in this epoch: bool (N,), each every other epoch, beginning at random.

    The beginning is a hash of ``seed`` and the image's index in the data set, so that nothing has to be kept.

    Reference:
        Jordan 2024, arXiv:2404.00498, sec. 3.6. The hash is SplitMix64: Steele et al. 2014, OOPSLA, fig. 17.
    """
    start = np.array([seed % 2**64], dtype=np.uint64)
    state = _scramble(_scramble(start) + indices.numpy().astype(np.uint64) + start)
    return torch.from_numpy((state + np.uint64(epoch)) % np.uint64(2) == 1)


def _scramble(state: Any) -> Any:
    """One step of SplitMix64: uint64 of any shape; sums and products wrap around."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def draw_crops(number: int, size: Sequence[int], *, min_area: float, generator: torch.Generator) -> Tensor:
    """Draw boxes of random resized crops: int64 (N, 4).

    A box has ``min_area`` to all of the image's area and an aspect ratio of 3/4 to 4/3. If none of ten fits, it is the
    largest box in the centre whose aspect ratio is in that range.

    Reference:
        Szegedy et al. 2014, arXiv:1409.4842, sec. 6; torchvision's RandomResizedCrop, whose rule this is.
    """
    height, width = size
    widths, heights = _draw_sides(number, size, areas=(min_area, 1.0), aspects=CROP_ASPECTS, generator=generator)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    drawn = _place_first(heights, widths, fits, size, generator=generator)
    tallest, widest = min(height, round(width / CROP_ASPECTS[0])), min(width, round(height * CROP_ASPECTS[1]))
    centre = torch.tensor([(height - tallest) // 2, (width - widest) // 2, tallest, widest])
    return torch.where(fits.any(1, keepdim=True), drawn, centre)


def draw_rectangles(number: int, size: Sequence[int], *, probability: float, generator: torch.Generator) -> Tensor:
    """Draw boxes to erase: int64 (N, 4), of height and width 0 where nothing is erased.

    A box has 2 to 33 % of the area and an aspect ratio of 0.3 to 3.3, and is smaller than the image in both
    directions; nothing is erased if none of ten is.

    Reference:
        Zhong et al. 2017, arXiv:1708.04896; torchvision's RandomErasing, whose rule and numbers these are.
    """
    is_erased = torch.rand((number, 1), dtype=torch.float64, generator=generator) < probability
    heights, widths = _draw_sides(number, size, areas=ERASE_AREAS, aspects=ERASE_ASPECTS, generator=generator)
    fits = (heights < size[0]) & (widths < size[1])
    return _place_first(heights, widths, fits, size, generator=generator) * (is_erased & fits.any(1, keepdim=True))


def _draw_sides(
    number: int, size: Sequence[int], *, areas: Range, aspects: Range, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Both sides of ten rectangles per image, float64 (N, 10): area uniform, the log of first over second uniform."""
    fractions, ratios = torch.rand((2, number, TRIES), dtype=torch.float64, generator=generator)
    area = math.prod(size) * (areas[0] + fractions * (areas[1] - areas[0]))
    low, high = math.log(aspects[0]), math.log(aspects[1])
    aspect = torch.exp(low + ratios * (high - low))
    return (area * aspect).sqrt().round(), (area / aspect).sqrt().round()


def _place_first(
    heights: Tensor, widths: Tensor, fits: Tensor, size: Sequence[int], *, generator: torch.Generator
) -> Tensor:
    """Each image's first rectangle that fits, at a uniform place in it: int64 (N, 4)."""
    first = fits.int().argmax(1, keepdim=True)  # of equal values the first
    high, wide = (sides.gather(1, first).squeeze(1) for sides in (heights, widths))
    top, left = (
        (torch.rand(len(side), dtype=torch.float64, generator=generator) * (room - side + 1)).floor()
        for side, room in zip((high, wide), size, strict=True)
    )
    return torch.stack([top, left, high, wide], dim=1).long()


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Blow up each image's box to the size of the image, bilinearly; on the CPU, so equal on every device."""
    parts = [
        F.interpolate(
            image[None, :, top : top + high, left : left + wide], image.shape[1:], mode="bilinear", antialias=True
        )
        for image, (top, left, high, wide) in zip(images.cpu(), boxes.tolist(), strict=True)
    ]
    return torch.cat(parts).to(images.device)


# ---- erasing and mixing


def inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Which pixels lie in their image's box: (N, 4) -> bool (N, 1, H, W) where the images are."""
    top, left, high, wide = boxes.to(images.device).view(-1, 4, 1, 1, 1).unbind(1)
    rows = torch.arange(images.shape[-2], device=images.device).view(-1, 1)
    columns = torch.arange(images.shape[-1], device=images.device)
    return (rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)


def mix(images: Tensor, targets: Tensor, options: DataOptions, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix of each image with the one before it; with both on, each batch takes one with equal chance.

    Reference:
        Zhang et al. 2017, arXiv:1710.09412 (mixup); Yun et al. 2019, arXiv:1905.04899, sec. 3.1 (CutMix);
        torchvision's MixUp and CutMix, with their partners and their rounding.

    Deviates:
        Each image has a weight or a box of its own; the papers and torchvision draw one per batch. One image sees the
        same distribution either way.
    """
    cuts = options.cutmix > 0
    if cuts and options.mixup > 0:
        cuts = bool(torch.rand((), generator=generator) < 0.5)
    alpha = options.cutmix if cuts else options.mixup
    seed = int(torch.randint(2**62, (), generator=generator))  # torch's Beta draws from the global generator only
    weights = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(images)))
    if not cuts:
        return _mean_with_previous(images, weights), _mean_with_previous(targets, weights)
    boxes = draw_cuts(weights, images.shape[2:], generator=generator)
    kept = 1 - boxes[:, 2] * boxes[:, 3] / math.prod(images.shape[2:])  # by the box's true area
    return torch.where(inside(boxes, images), images.roll(1, 0), images), _mean_with_previous(targets, kept)


def draw_cuts(weights: Tensor, size: Sequence[int], *, generator: torch.Generator) -> Tensor:
    """Boxes with about 1 - ``weights`` (N,) of the area about a random pixel, cut off at the borders: int64 (N, 4)."""
    room = torch.tensor([size])  # (1, 2)
    middle = torch.stack([torch.randint(side, (len(weights),), generator=generator) for side in size], dim=1)
    half = ((1 - weights).sqrt().unsqueeze(1) / 2 * room).long()  # (N, 2)
    start, end = (middle - half).clamp(min=0), (middle + half).minimum(room)
    return torch.cat([start, end - start], dim=1)


def _mean_with_previous(values: Tensor, weights: Tensor) -> Tensor:
    """``weights`` (N,) of each value (N, ...) and the rest of the one before it."""
    weights = weights.float().view(-1, *[1] * (values.ndim - 1)).to(values.device)
    return values.roll(1, 0) * (1 - weights) + values * weights
