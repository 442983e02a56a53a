"""One image of a photographs' split as the network's loaders need it: decoded, cropped, augmented, by its key alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from reslab.data.augment.options import Augmentation, check_augmentation
from reslab.data.augment.photos import after_crop
from reslab.data.augment.pipeline import mean_level
from reslab.data.jpeg import CropRule, Size, decode_crop, decode_fit, draw_resized_crop
from reslab.data.splits import EncodedSplit
from reslab.data.thumbnails import Thumbnails
from reslab.data.transforms import Preprocess, to_tensor
from reslab.data.workers import Key, Sample
from reslab.errors import RequestError


def derive_seed(*parts: int) -> int:
    """A seed for one purpose out of the run's seed: the same on every machine, unrelated for different parts.

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class DecodedSplit:
    """Decodes and crops one image; its key is (epoch, index), its randomness follows from seed and key.

    Args:
        split: encoded images.
        preprocess: geometry.
        augmentation: what happens to a single image of it; the rest happens to batches.
        seed: of the randomness.
        thumbnails: of the same split, to crop from instead of the photographs.
    """

    def __init__(
        self,
        split: EncodedSplit,
        preprocess: Preprocess,
        augmentation: Augmentation,
        *,
        seed: int,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        check_augmentation(augmentation, in_memory=False)
        self.split, self.seed = split, seed
        self.decode = decoding(preprocess, augmentation, thumbnails=thumbnails)
        self.after = after_crop(augmentation)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_seed(self.seed, epoch, index))
            return self.after(self.decode(self.split, index)), self.split.labels[index]


Decode = Callable[[EncodedSplit, int], Tensor]


def decoding(preprocess: Preprocess, augmentation: Augmentation, *, thumbnails: Thumbnails | None = None) -> Decode:
    """From a split and an index to uint8 (C, height, width), cropped; a function that can be sent to a worker.

    Raises:
        RequestError: if there are thumbnails and the augmentation doesn't crop from them.

    Deviates:
        ``crop`` fills the border with the training mean rounded to one of 256 levels.
    """
    size = (preprocess.height, preprocess.width)
    if augmentation.geometry == "resized_crop_flip":
        rule = partial(draw_resized_crop, scale=(augmentation.min_crop_area, 1.0))
        return partial(_decode_crop, rule=rule, size=size, thumbnails=thumbnails)
    if thumbnails is not None:
        raise RequestError(f"Thumbnails are for the augmentation resized_crop_flip, not for {augmentation.geometry}.")
    fit = partial(_decode_fit, preprocess=preprocess, size=size)
    if augmentation.geometry == "none":
        return fit
    shift = v2.RandomCrop(size, padding=augmentation.shift_of(preprocess.width), fill=mean_level(preprocess))
    return partial(_decode_and_shift, fit=fit, shift=shift)


# Functions of the module, so that workers can be sent them where processes are spawned and not forked.
def _decode_crop(
    split: EncodedSplit, index: int, *, rule: CropRule, size: Size, thumbnails: Thumbnails | None
) -> Tensor:
    if thumbnails is not None and (image := thumbnails.crop(index, rule, size=size)) is not None:
        return image
    return decode_crop(split.items[index], rule, size=size, channels=split.channels, name=split.names[index])


def _decode_fit(split: EncodedSplit, index: int, *, preprocess: Preprocess, size: Size) -> Tensor:
    if preprocess.resize is None:
        return to_tensor(split.open(index))
    return decode_fit(
        split.items[index], preprocess.resize, size=size, channels=split.channels, name=split.names[index]
    )


def _decode_and_shift(split: EncodedSplit, index: int, *, fit: Decode, shift: Callable[[Tensor], Tensor]) -> Tensor:
    return shift(fit(split, index))
