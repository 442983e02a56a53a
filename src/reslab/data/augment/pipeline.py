"""The order of it all, for batches: crop, mirror, colour, policy, normalise, erase, mix.

Everything random is drawn from one CPU generator, in vectors over the batch, and moved to where the images are.
Shape letters: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.data.augment import colour, erase, geometry
from reslab.data.augment.mix import mix_batch
from reslab.data.augment.options import Augmentation
from reslab.data.augment.policies import apply_policy
from reslab.data.transforms import Preprocess
from reslab.errors import RequestError


@dataclass(frozen=True)
class BatchAugment:
    """Augments whole batches of small images that are kept in memory, each image on its own, on any device.

    Args:
        preprocess: its mean and deviation are applied; the geometry was, when the split was packed.
        augmentation: what was asked for.
        num_classes: K; only mixing needs it.
        seed: of the alternating flip's beginnings; all else is drawn from the generator of the call.

    Shape:
        images uint8 (N, C, H, W), labels int64 (N,) -> images float32 (N, C, H, W), targets int64 (N,); float32 (N, K)
        if the augmentation mixes

    Example:
        >>> preprocess = Preprocess(8, 8, 1, mean=(0.5,), std=(0.25,))
        >>> augment = BatchAugment(preprocess, Augmentation(policy="rand_augment", mixup=0.2), num_classes=10)
        >>> images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)
        >>> images, targets = augment(images, labels, generator=torch.Generator().manual_seed(0))
        >>> images.dtype, targets.shape
        (torch.float32, torch.Size([4, 10]))

    Reference:
        The order is that of torchvision's reference scripts; colour jitter, which they lack, comes before the policy.

    Deviates:
        Without colour, policy and resized crop, images are shifted after they were normalised, and the border is the
        training mean exactly; otherwise it is the mean rounded to one of 256 levels.
    """

    preprocess: Preprocess
    augmentation: Augmentation
    num_classes: int
    seed: int = 0

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        epoch: int = 0,
        indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Augments one batch.

        Args:
            images: uint8 (N, C, H, W), on any device.
            labels: int64 (N,), on the same.
            generator: on the CPU; its state decides everything but the alternating flip.
            epoch: for the alternating flip.
            indices: of the images in the data set, int64 (N,), for the alternating flip.
        """
        options = self.augmentation
        if options.edits_levels:
            images = self._move(images, self._mean_level(images), generator=generator)
            images = self._mirror(images, generator=generator, epoch=epoch, indices=indices)
            images = jitter(images, options, generator=generator)
            images = self.preprocess.normalise(apply_policy(images, options, generator=generator))
        else:
            images = self.preprocess.normalise(images)
            images = self._move(images, images.new_zeros(images.shape[1]), generator=generator)
            images = self._mirror(images, generator=generator, epoch=epoch, indices=indices)
        return erase_and_mix(images, labels, augmentation=options, num_classes=self.num_classes, generator=generator)

    def _move(self, images: Tensor, fill: Tensor, *, generator: torch.Generator) -> Tensor:
        """Shifted by up to some pixels, or a part of each image blown up."""
        options, (number, _, height, width) = self.augmentation, images.shape
        if options.geometry == "none":
            return images
        if options.geometry == "resized_crop_flip":
            boxes = geometry.draw_crops(
                number, height=height, width=width, min_area=options.min_crop_area, generator=generator
            )
            return geometry.resized_crop(images, boxes)
        padding = options.shift_of(width)
        shifts = geometry.draw_shifts(number, padding=padding, generator=generator)
        return geometry.shift(images, shifts, padding=padding, fill=fill)

    def _mirror(self, images: Tensor, *, generator: torch.Generator, epoch: int, indices: Tensor | None) -> Tensor:
        if not self.augmentation.flips:
            return images
        if not self.augmentation.alternate_flip:
            return geometry.mirror(images, geometry.draw_mirrors(len(images), generator=generator))
        if indices is None:
            raise RequestError("alternate_flip needs the images' indices in the data set: pass indices=.")
        return geometry.mirror(images, geometry.alternating_mirrors(indices, epoch=epoch, seed=self.seed))

    def _mean_level(self, images: Tensor) -> Tensor:
        """The training mean as one of 256 levels: uint8 (C,)."""
        return torch.tensor(mean_level(self.preprocess), dtype=torch.uint8, device=images.device)


def finish_batch(
    images: Tensor,
    labels: Tensor,
    *,
    preprocess: Preprocess,
    augmentation: Augmentation,
    num_classes: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """What is left to do to photographs once they are a batch: normalise, erase, mix.

    Shape:
        images uint8 (N, C, H, W), labels int64 (N,) -> images float32 (N, C, H, W), targets int64 (N,); float32 (N, K)
        if the augmentation mixes
    """
    images = preprocess.normalise(images)
    return erase_and_mix(images, labels, augmentation=augmentation, num_classes=num_classes, generator=generator)


def erase_and_mix(
    images: Tensor, labels: Tensor, *, augmentation: Augmentation, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random erasing, then mixup or CutMix, of normalised images (N, C, H, W)."""
    if augmentation.erasing > 0:
        number, _, height, width = images.shape
        boxes = erase.draw_rectangles(
            number, height=height, width=width, probability=augmentation.erasing, generator=generator
        )
        images = erase.erase(images, boxes)
    if not augmentation.mixes:
        return images, labels
    return mix_batch(images, labels, augmentation=augmentation, num_classes=num_classes, generator=generator)


def jitter(images: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Colour jitter, if asked for: uint8 (N, C, H, W) -> the same."""
    if augmentation.colour_jitter == 0:
        return images
    factors, order = colour.draw_jitter(len(images), amount=augmentation.colour_jitter, generator=generator)
    return colour.jitter(images, factors, order)


def mean_level(preprocess: Preprocess) -> list[int]:
    """The training mean of each channel as one of 256 levels."""
    return [round(255 * mean) for mean in preprocess.mean]
