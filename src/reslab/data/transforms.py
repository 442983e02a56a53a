"""What happens to every image before the network sees it: the recorded preprocessing. ``augment`` has the rest.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from reslab.data.jpeg import Pixels, fitted_size, resize_pixels


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

    def fit(self, image: Image.Image) -> Tensor:
        """Resizes the shorter side and crops the centre, if a resize was recorded: PIL image -> uint8 (C, H, W)."""
        pixels = to_pixels(image)
        if self.resize is None:
            return torch.from_numpy(pixels).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
        resized = resize_pixels(pixels, fitted_size(*pixels.shape[:2], shorter=self.resize))
        cropped: Tensor = TF.center_crop(resized, [self.height, self.width])
        return cropped

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (..., C, H, W) -> float32 of that shape, with mean 0 and deviation 1 over the training images."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image -> float32 (C, height, width)."""
        return self.normalise(self.fit(image))


def to_pixels(image: Image.Image) -> Pixels:
    """PIL image of mode ``L`` or ``RGB`` -> uint8 (H, W, C)."""
    array = np.array(image, dtype=np.uint8)
    return array if array.ndim == 3 else array[:, :, None]


def to_tensor(image: Image.Image) -> Tensor:
    """PIL image of mode ``L`` or ``RGB`` -> uint8 (C, H, W)."""
    return torch.from_numpy(to_pixels(image)).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)


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
