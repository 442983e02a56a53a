"""What can be chosen about the data: the ``[data]`` section of a config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reslab.errors import RequestError
from reslab.options import Count, CountOrNone, Fraction, NotNegative, PositiveFraction, Probability, options

Geometry = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
Policy = Literal["none", "rand_augment", "trivial_augment", "aug_mix"]


@options
class DataOptions:
    """Which data a network sees, and what happens to it on the way.

    Args:
        name: data set: digits, mnist, fashion-mnist, cifar10, cifar100, a folder, or hf:owner/name.
        dir: folder of the named data sets; by default $RESLAB_DATA, or else ./data.
        download: fetch a named data set that isn't there yet.
        val_split: fraction or number of training images to hold out, if the data has no validation split; 0 for none.
        test: read the test split, once, after training; leave it alone while you search for a recipe.
        augment: crops and flips while training; auto is chosen from the data.
        min_crop_area: smallest fraction of the image that resized_crop_flip keeps.
        max_shift: most pixels that crop and crop_flip shift by; 0 for an eighth of the side.
        alternate_flip: mirror each image every other epoch instead of at random; for small images.
        policy: augmentation policy after crop and flip.
        policy_ops: operations per image, of rand_augment.
        policy_magnitude: magnitude of rand_augment, 0 to 30.
        colour_jitter: how far brightness, contrast and saturation may change, such as 0.4; 0 disables it.
        erasing: probability of erasing a rectangle.
        mixup: alpha of mixup; 0 disables it.
        cutmix: alpha of CutMix; 0 disables it.
        image_size: side of the network's input; 0 keeps small images as they are and takes 224 for photographs.
        eval_size: side of photographs in validation and test; 0 for the training size.
        channels: 1 for grey, 3 for RGB, 0 for what the data has.
        batch_size: images per step, of all processes together.
        fit_batch: halve the batch until it fits into memory, instead of an error.
        workers: processes that decode photographs; -1 is chosen by a short trial.
        cache_mib: keep decoded thumbnails of photographs on disk, up to this many MiB; 0 disables it.

    Reference:
        Cubuk et al. 2019, arXiv:1909.13719 (RandAugment); Müller and Hutter 2021, arXiv:2103.10158 (TrivialAugment);
        Hendrycks et al. 2019, arXiv:1912.02781 (AugMix); Zhong et al. 2017, arXiv:1708.04896 (random erasing);
        Zhang et al. 2017, arXiv:1710.09412 (mixup); Yun et al. 2019, arXiv:1905.04899 (CutMix);
        Jordan 2024, arXiv:2404.00498 (alternating flip).
    """

    name: str = "digits"
    dir: str = ""
    download: bool = False
    val_split: NotNegative = 0.1
    test: bool = True
    augment: Literal["auto", "none", "crop", "crop_flip", "resized_crop_flip"] = "auto"
    min_crop_area: PositiveFraction = 0.08
    max_shift: CountOrNone = 0
    alternate_flip: bool = False
    policy: Policy = "none"
    policy_ops: Count = 2
    policy_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    colour_jitter: Fraction = 0.0
    erasing: Probability = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    image_size: CountOrNone = 0
    eval_size: CountOrNone = 0
    channels: Literal[0, 1, 3] = 0
    batch_size: Count = 128
    fit_batch: bool = False
    workers: Annotated[int, Field(ge=-1)] = -1
    cache_mib: CountOrNone = 0

    @property
    def flips(self) -> bool:
        """Whether images get mirrored."""
        return self.augment in ("crop_flip", "resized_crop_flip")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, so that targets are probabilities."""
        return self.mixup > 0 or self.cutmix > 0


def check_options(options: DataOptions, *, memory_side: int, has_labels: bool) -> None:
    """Refuse options that don't go together, or not with this kind of data.

    Args:
        options: with ``augment`` chosen.
        memory_side: height in pixels of images that are kept in memory; 0 for photographs, decoded one by one.
        has_labels: whether the targets are class numbers.

    Raises:
        RequestError: for the first combination that can't be.
    """
    augment, problem = options.augment, ""
    if options.max_shift and augment not in ("crop", "crop_flip"):
        problem = f"max_shift is for augment crop and crop_flip, not {augment}. Leave it out."
    elif options.alternate_flip and not options.flips:
        problem = f"alternate_flip replaces the random flip, and augment {augment!r} has none. Leave it out."
    elif options.alternate_flip and not memory_side:
        problem = "alternate_flip is for small images kept in memory; photographs are flipped at random. Leave it out."
    elif options.mixes and not has_labels:
        problem = "mixup and cutmix mix class labels, and these targets are of another kind. Leave both out."
    elif memory_side and options.eval_size not in (0, memory_side):
        problem = f"eval_size is for photographs; these images stay {memory_side} pixels high. Leave it out."
    elif options.cache_mib and memory_side:
        problem = "cache_mib is for photographs; these small images are kept in memory anyway. Leave it out."
    elif options.cache_mib and augment != "resized_crop_flip":
        problem = (
            f"cache_mib is for random crops of photographs, augment resized_crop_flip, not {augment}. Leave it out."
        )
    if problem:
        raise RequestError(problem)
