"""Augmentation of a photograph after its crop, in a worker process: torchvision's transforms, in the usual order.

The crop is made while decoding (``data.decoding``). What is left out here (normalise, erase, mix) is done to whole
batches later: ``pipeline.finish_batch``. Everything random is drawn from torch's global generator. Shape letters: C
channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from reslab.data.augment.options import MAGNITUDE_BINS, Augmentation


def after_crop(augmentation: Augmentation) -> Callable[[Tensor], Tensor]:
    """What needs all pixels of a crop, and so comes after it: mirror, colour jitter, policy.

    Takes and gives uint8 (C, H, W); can be pickled.
    """
    steps: list[Any] = [v2.RandomHorizontalFlip()] if augmentation.flips else []
    if augmentation.colour_jitter > 0:
        steps.append(v2.ColorJitter(*[augmentation.colour_jitter] * 3))
    if augmentation.policy != "none":
        steps.append(_policy(augmentation))
    transform: Callable[[Tensor], Tensor] = v2.Compose(steps or [v2.Identity()])
    return transform


def _policy(augmentation: Augmentation) -> Any:
    if augmentation.policy == "rand_augment":
        return v2.RandAugment(augmentation.policy_ops, augmentation.policy_magnitude, MAGNITUDE_BINS)
    return v2.TrivialAugmentWide(MAGNITUDE_BINS) if augmentation.policy == "trivial_augment" else v2.AugMix()
