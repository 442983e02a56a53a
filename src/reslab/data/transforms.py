"""What happens to an image before the network sees it: the recorded preprocessing, and training augmentation.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from reslab.errors import RequestError

AugmentKind = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
AUGMENTATIONS: tuple[AugmentKind, ...] = get_args(AugmentKind)


@dataclass(frozen=True)
class Preprocess:
    """From an image to the network's input. Kept with the run; evaluate, predict and export use it again.

    Args:
        height: of the input, in pixels.
        width: of the input, in pixels.
        channels: 1 for grey, 3 for RGB.
        mean: of each channel over the training images, on the scale 0 to 1.
        std: the same for the standard deviation over all pixels.
        resize: length that the shorter side is resized to before the centre crop to ``height`` x ``width``; None for
            data sets whose images have that size as they are.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Preprocess:
        """From the dict that ``to_dict`` made."""
        return cls(**{**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"])})

    def to_dict(self) -> dict[str, Any]:
        """For run.json and weights.json."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def fit(self, image: Image.Image) -> Image.Image:
        """Resizes the shorter side and crops the centre, if a resize was recorded."""
        if self.resize is None:
            return image
        resized = TF.resize(image, [self.resize], antialias=True)
        cropped: Image.Image = TF.center_crop(resized, [self.height, self.width])
        return cropped

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (..., C, H, W) -> float32 of that shape, with mean 0 and deviation 1 over the training images."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image -> float32 (C, height, width)."""
        return self.normalise(to_tensor(self.fit(image)))


def to_tensor(image: Image.Image) -> Tensor:
    """PIL image of mode ``L`` or ``RGB`` -> uint8 (C, H, W)."""
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, from exact counts, on the scale 0 to 1.

    Shape:
        images uint8 (N, C, H, W) -> C means, C deviations

    A constant channel gets the deviation 1, so that it can be divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double()
        share /= share.sum()
        mean = (share * values).sum()
        deviation = (share * (values - mean) ** 2).sum().sqrt()
        means.append(float(mean))
        deviations.append(float(deviation) or 1.0)
    return tuple(means), tuple(deviations)


def crop_and_flip(images: Tensor, *, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shifts every image by its own random offset within ``padding`` pixels, and mirrors half of them.

    The border is filled with 0, which is the training mean, as in the paper; torchvision's RandomCrop on raw images
    fills it with black.

    Shape:
        images float, normalised (N, C, H, W) -> (N, C, H, W)

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 4.2: 4 pixels padded on each side, random 32x32 crop, horizontal flip.
    """
    number, _, height, width = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p+1, 2p+1, H, W)
    down, right = torch.randint(2 * padding + 1, (2, number), generator=generator)
    images = windows[torch.arange(number), :, down, right]  # (N, C, H, W): one window of each image
    if not flip:
        return images
    mirrored = torch.rand(number, generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def augment_batch(images: Tensor, kind: AugmentKind, *, generator: torch.Generator) -> Tensor:
    """Augments normalised images (N, C, H, W) per sample; the padding is an eighth of the side, 4 at 32 pixels."""
    if kind == "none":
        return images
    padding = max(1, images.shape[-1] // 8)
    return crop_and_flip(images, padding=padding, flip=kind == "crop_flip", generator=generator)


def training_transform(preprocess: Preprocess, kind: AugmentKind) -> Any:
    """For images that are decoded one by one: PIL image -> float32 (C, height, width), by torch's global generator.

    Reference:
        ``resized_crop_flip``: Szegedy et al. 2014, arXiv:1409.4842, sec. 6: 8 to 100 % of the area, aspect 3/4 to 4/3.
    """
    if kind == "resized_crop_flip":
        size = (preprocess.height, preprocess.width)
        crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
        return partial(_crop_and_normalise, crop=crop, preprocess=preprocess)
    return partial(_normalise_and_augment, kind=kind, preprocess=preprocess)


# Functions of the module, so that workers can be sent them where processes are spawned and not forked.
def _crop_and_normalise(image: Image.Image, *, crop: Any, preprocess: Preprocess) -> Tensor:
    return preprocess.normalise(to_tensor(crop(image)))


def _normalise_and_augment(image: Image.Image, *, kind: AugmentKind, preprocess: Preprocess) -> Tensor:
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return augment_batch(preprocess(image).unsqueeze(0), kind, generator=generator).squeeze(0)


def check_augmentation(kind: AugmentKind, *, in_memory: bool) -> None:
    """Refuses an augmentation that this kind of data can't have."""
    if kind == "resized_crop_flip" and in_memory:
        raise RequestError("resized_crop_flip is for photographs; images of up to 64 pixels take crop or crop_flip.")
