"""What every image goes through before the network sees it, recorded with the run.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reslab.data._images import Photo, Size, open_image, resize_pixels, to_pixels
from reslab.errors import RequestError

MAX_ASPECT = 20  # longer to shorter side of an image to predict


@dataclass(frozen=True)
class Preprocess:
    """From an image to the network's input. Kept with the run; evaluate, predict and export use it again.

    Args:
        height: of the input, in pixels.
        width: of the input, in pixels.
        channels: 1 for grey, 3 for RGB.
        mean: of each channel over the training images, on the scale 0 to 1.
        std: standard deviation of each channel over all pixels, on the same scale.
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
        """Read the dict that ``to_dict`` made."""
        return cls(**{**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"])})

    def to_dict(self) -> dict[str, Any]:
        """Return what run.json and the bundle keep."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @property
    def size(self) -> Size:
        """Height and width of the input."""
        return self.height, self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the input."""
        return self.channels, self.height, self.width

    def fitted_sizes(self, height: int, width: int) -> tuple[Size, Size]:
        """Return the size that an image is resized to, and that of its centre, which is kept."""
        if self.resize is None:
            return (height, width), (height, width)
        return fitted_size(height, width, shorter=self.resize), self.size

    def fit(self, image: Image.Image) -> Tensor:
        """Resize the shorter side and crop the centre, if a resize was recorded: PIL image -> uint8 (C, H, W)."""
        pixels = to_pixels(image)
        resized, size = self.fitted_sizes(*pixels.shape[:2])
        return centre_crop(resize_pixels(pixels, resized), size)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (..., C, H, W) -> float32 of that shape, with mean 0 and deviation 1 over the training images."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of each channel over all pixels, exactly, on the scale 0 to 1.

    Shape:
        images uint8 (N, C, H, W) -> C means, C deviations

    A constant channel gets the deviation 1, so that it can be divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        fraction = torch.bincount(channel.flatten(), minlength=256).double()
        fraction /= fraction.sum()
        mean = (fraction * values).sum()
        deviation = (fraction * (values - mean) ** 2).sum().sqrt()
        means.append(float(mean))
        deviations.append(float(deviation) or 1.0)
    return tuple(means), tuple(deviations)


def fitted_size(height: int, width: int, *, shorter: int) -> Size:
    """Return the size with the shorter side at ``shorter`` pixels, the longer one rounded down as in torchvision."""
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def centre_crop(images: Tensor, size: Size) -> Tensor:
    """Cut out the centre, rounded as torchvision does; black where there is no image: (..., H, W) -> (..., *size)."""
    edges: list[int] = []
    for have, want in ((images.shape[-1], size[1]), (images.shape[-2], size[0])):
        before = (want - have) // 2 if want > have else -round((have - want) / 2)
        edges += [before, want - have - before]  # what is below zero is cut off
    return F.pad(images, edges) if any(edges) else images


def fit_for_prediction(path_or_bytes: Path | bytes, preprocess: Preprocess, *, name: str) -> tuple[Tensor, str]:
    """Return one image of any size as the network's input, and a note if it had to be resized.

    Raises:
        RequestError: if it can't be read; if the network takes images of one size as they are and this one is
            smaller, or so long that its centre would not stand for it (over 2:1); or if it is longer than 20:1.

    Returns:
        float32 (C, H, W), and the note or an empty string.
    """
    if preprocess.resize is not None:  # by the same path as in training and evaluation
        photo = Photo(path_or_bytes, channels=preprocess.channels, name=name)
        shorter, longer = sorted((photo.height, photo.width))
        if longer > MAX_ASPECT * shorter:  # resizing the shorter side would make the longer one huge, too
            raise RequestError(
                f"{name} has {photo.width}x{photo.height} pixels: its centre would not stand for it. Crop it to at most"
                f" {MAX_ASPECT}:1."
            )
        resized, size = preprocess.fitted_sizes(photo.height, photo.width)
        return preprocess.normalise(centre_crop(photo.crop((0, 0, photo.height, photo.width), resized), size)), ""
    image, note = open_image(path_or_bytes, channels=preprocess.channels, name=name), ""
    (width, height), wanted = image.size, preprocess.size
    if (height, width) != wanted:
        if min(width, height) < min(wanted) or max(width, height) > 2 * min(width, height):
            raise RequestError(
                f"{name} has {width}x{height} pixels; this network was trained on {wanted[1]}x{wanted[0]} as they are."
                " Larger images up to 2:1 are resized; smaller or longer ones are refused. Crop or enlarge it yourself."
            )
        preprocess, note = replace(preprocess, resize=min(wanted)), f"resized from {width}x{height}, centre crop"
    return preprocess.normalise(preprocess.fit(image)), note
