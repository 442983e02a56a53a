"""Augmentation of photographs, which worker processes decode one by one: torchvision's transforms, in the usual order.

What these leave out (normalise, erase, mix) is done to whole batches later: ``pipeline.finish_batch``. Everything
random is drawn from torch's global generator. Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from reslab.data.augment.options import MAGNITUDE_BINS, Augmentation, check_augmentation
from reslab.data.augment.pipeline import mean_level
from reslab.data.transforms import Preprocess, to_tensor


def photo_transform(preprocess: Preprocess, augmentation: Augmentation) -> Callable[[Image.Image], Tensor]:
    """For photographs: PIL image -> uint8 (C, height, width); can be pickled.

    Raises:
        RequestError: if the augmentation is for images in memory only.
    """
    check_augmentation(augmentation, in_memory=False)
    transform: Callable[[Image.Image], Tensor] = v2.Compose(
        [photo_crop(preprocess, augmentation), after_crop(augmentation)]
    )
    return transform


def photo_crop(preprocess: Preprocess, augmentation: Augmentation) -> Callable[[Image.Image], Image.Image | Tensor]:
    """The first half: PIL image -> PIL image of the network's size.

    Reference:
        ``resized_crop_flip``: Szegedy et al. 2014, arXiv:1409.4842, sec. 6: 8 to 100 % of the area, aspect 3/4 to 4/3.

    Deviates:
        ``crop`` fills the border with the training mean rounded to one of 256 levels.
    """
    size = (preprocess.height, preprocess.width)
    if augmentation.geometry == "resized_crop_flip":
        crop: Callable[[Image.Image], Image.Image] = v2.RandomResizedCrop(
            size, scale=(augmentation.min_crop_area, 1.0), antialias=True
        )
        return crop
    if augmentation.geometry == "none":
        return preprocess.fit
    shift = v2.RandomCrop(size, padding=augmentation.shift_of(preprocess.width), fill=mean_level(preprocess))
    shifted: Callable[[Image.Image], Image.Image] = v2.Compose([preprocess.fit, shift])
    return shifted


def after_crop(augmentation: Augmentation) -> Callable[[Image.Image | Tensor], Tensor]:
    """The second half, which needs all pixels of the crop: mirror, colour jitter, policy.

    Takes a PIL image or uint8 (C, H, W), gives uint8 (C, H, W); can be pickled.
    """
    steps: list[Any] = [v2.RandomHorizontalFlip()] if augmentation.flips else []
    if augmentation.colour_jitter > 0:
        steps.append(v2.ColorJitter(*[augmentation.colour_jitter] * 3))
    if augmentation.policy != "none":
        steps.append(_policy(augmentation))
    transform: Callable[[Image.Image | Tensor], Tensor] = v2.Compose([*steps, _to_tensor])
    return transform


def _policy(augmentation: Augmentation) -> Any:
    if augmentation.policy == "rand_augment":
        return v2.RandAugment(augmentation.policy_ops, augmentation.policy_magnitude, MAGNITUDE_BINS)
    return v2.TrivialAugmentWide(MAGNITUDE_BINS) if augmentation.policy == "trivial_augment" else v2.AugMix()


def _to_tensor(image: Image.Image | Tensor) -> Tensor:
    return image if isinstance(image, Tensor) else to_tensor(image)
