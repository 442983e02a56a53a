"""What augmentation can be asked for: one record, checked where it is made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from reslab.errors import RequestError, unknown

Geometry = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
Policy = Literal["none", "rand_augment", "trivial_augment", "aug_mix"]
GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)
POLICIES: tuple[Policy, ...] = get_args(Policy)
MAGNITUDE_BINS = 31


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, besides normalisation.

    Args:
        geometry: ``crop`` shifts by up to ``max_shift``, ``_flip`` also mirrors half of the images;
            ``resized_crop_flip`` blows up a part of the image to its whole size.
        max_shift: pixels, in both directions; 0 for an eighth of the side, as 4 of 32 in the first ResNets' recipe.
        alternate_flip: mirrors an image in every second epoch, beginning at random, instead of at random in each. For
            images in memory, and a geometry that flips.
        min_crop_area: smallest share of the image that ``resized_crop_flip`` keeps, in (0, 1].
        policy: operations on geometry and colour, drawn anew for every image.
        policy_ops: operations an image, of ``rand_augment``; at least 1.
        policy_magnitude: their strength, 0 to 30, of ``rand_augment``.
        colour_jitter: brightness, contrast and saturation are multiplied by factors within this distance of 1, in an
            order drawn for each image; 0 is off. Hue is left alone.
        erasing: probability that a rectangle of the image is replaced by the training mean, in [0, 1].
        mixup: alpha of the Beta distribution that mixing shares are drawn from; 0 is off.
        cutmix: the same for rectangles taken from another image. With both on, each batch takes one of the two.

    Raises:
        RequestError: if a value is unknown or out of its range, or if ``alternate_flip`` has no flip to replace.

    Example:
        >>> Augmentation(geometry="crop_flip", policy="trivial_augment", cutmix=1.0).mixes
        True

    Reference:
        Cubuk et al. 2019, arXiv:1909.13719 (RandAugment); Müller and Hutter 2021, arXiv:2103.10158 (TrivialAugment);
        Hendrycks et al. 2019, arXiv:1912.02781 (AugMix); Zhong et al. 2017, arXiv:1708.04896 (random erasing);
        Zhang et al. 2017, arXiv:1710.09412 (mixup); Yun et al. 2019, arXiv:1905.04899 (CutMix);
        Jordan 2024, arXiv:2404.00498 (alternating flip).
    """

    geometry: Geometry = "none"
    max_shift: int = 0
    alternate_flip: bool = False
    min_crop_area: float = 0.08
    policy: Policy = "none"
    policy_ops: int = 2
    policy_magnitude: int = 9
    colour_jitter: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        _check_name("geometry", self.geometry, GEOMETRIES)
        _check_name("policy", self.policy, POLICIES)
        if self.max_shift < 0 or (self.max_shift and self.geometry not in ("crop", "crop_flip")):
            raise RequestError(
                f"max_shift is a number of pixels for the geometries crop and crop_flip, got {self.max_shift} for"
                f" {self.geometry}. Leave it out for an eighth of the side."
            )
        _check_number("min_crop_area", self.min_crop_area, 0, 1, hint="It is a share of the image's area.", above=True)
        _check_count("policy_ops", self.policy_ops, 1, 100)
        _check_count("policy_magnitude", self.policy_magnitude, 0, MAGNITUDE_BINS - 1)
        _check_number("colour_jitter", self.colour_jitter, 0, math.inf, hint="Usual is 0.4; 0 is off.")
        _check_number("erasing", self.erasing, 0, 1, hint="It is a probability; 0 is off.")
        _check_number("mixup", self.mixup, 0, math.inf, hint="Usual is 0.2 to 1; 0 is off.")
        _check_number("cutmix", self.cutmix, 0, math.inf, hint="Usual is 1; 0 is off.")
        if self.alternate_flip and not self.flips:
            raise RequestError(
                f"alternate_flip replaces the random flip, and geometry {self.geometry!r} has none."
                " Take crop_flip or resized_crop_flip, or leave alternate_flip out."
            )

    @property
    def flips(self) -> bool:
        """Whether images get mirrored."""
        return self.geometry in ("crop_flip", "resized_crop_flip")

    def shift_of(self, side: int) -> int:
        """Most pixels of a shift, for images of this side."""
        return self.max_shift or max(1, side // 8)

    @property
    def edits_levels(self) -> bool:
        """Whether an operation needs the 256 levels of the raw image, and has to come before normalisation."""
        return self.geometry == "resized_crop_flip" or self.policy != "none" or self.colour_jitter > 0

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, so that targets are probabilities."""
        return self.mixup > 0 or self.cutmix > 0


def check_augmentation(augmentation: Augmentation, *, in_memory: bool) -> None:
    """Refuses an augmentation that this kind of data can't have.

    Args:
        augmentation: what was asked for.
        in_memory: images up to 64 pixels kept in memory, not photographs decoded one by one.
    """
    if augmentation.alternate_flip and not in_memory:
        raise RequestError(
            "alternate_flip is for images that are kept in memory, up to 64 pixels; photographs are flipped at random."
            " Leave alternate_flip out."
        )


def _check_name(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise unknown(option, str(value), choices)


def _check_number(option: str, value: float, low: float, high: float, *, hint: str, above: bool = False) -> None:
    inside = (low < value if above else low <= value) and value <= high and math.isfinite(value)
    if not inside:
        ends = f"{'(' if above else '['}{low:g}, {high:g}{']' if math.isfinite(high) else ')'}"
        raise RequestError(f"{option} is a number in {ends}, got {value}. {hint}")


def _check_count(option: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise RequestError(
            f"{option} is a whole number from {low} to {high}, got {value}. Usual for RandAugment are 2"
            " operations of magnitude 9."
        )
