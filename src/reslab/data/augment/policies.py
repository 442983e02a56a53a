"""RandAugment, TrivialAugment and AugMix for whole batches: operations and magnitudes drawn for every image.

Images are sorted by operation, so that each operation runs once over all images that drew it, however many there are.
Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from reslab.data.augment import colour, geometry
from reslab.data.augment.options import MAGNITUDE_BINS, Augmentation, Policy

Mode = Literal["nearest", "bilinear"]

WARPS: dict[str, Callable[..., Tensor]] = {
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "TranslateX": geometry.translate_x,
    "TranslateY": geometry.translate_y,
    "Rotate": geometry.rotate,
}
COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": lambda images, amounts: colour.brightness(images, 1 + amounts),
    "Color": lambda images, amounts: colour.saturation(images, 1 + amounts),
    "Contrast": lambda images, amounts: colour.contrast(images, 1 + amounts),
    "Sharpness": lambda images, amounts: colour.sharpness(images, 1 + amounts),
    "Posterize": colour.posterize,
    "Solarize": lambda images, amounts: colour.solarize(images, 255 * amounts),
    "AutoContrast": lambda images, _: colour.autocontrast(images),
    "Equalize": lambda images, _: colour.equalize(images),
}
OPERATIONS = ("Identity", *WARPS, *COLOURS)  # torchvision's names and order
SIGNED = torch.tensor([name in (*WARPS, "Brightness", "Color", "Contrast", "Sharpness") for name in OPERATIONS])

MIX_BINS, MIX_SEVERITY, MIX_WIDTH, MIX_DEPTH = 10, 3, 3, 3  # torchvision's defaults of AugMix


def magnitude_table(policy: Policy, *, height: int, width: int) -> Tensor:
    """How strong each operation is at each magnitude: float64 (operations, bins), 0 where it has no strength.

    Reference:
        The spaces of torchvision's RandAugment, TrivialAugmentWide and AugMix.
    """
    if policy == "rand_augment":
        share = 150 / 331  # of the side; the paper's images had 331 pixels
        return _table(MAGNITUDE_BINS, shear=0.3, shifts=(share * width, share * height), turn=30, tone=0.9, bits=(8, 4))
    if policy == "trivial_augment":
        return _table(MAGNITUDE_BINS, shear=0.99, shifts=(32, 32), turn=135, tone=0.99, bits=(8, 2))
    assert policy == "aug_mix", policy
    return _table(MIX_BINS, shear=0.3, shifts=(width / 3, height / 3), turn=30, tone=0.9, bits=(4, 0))


def _table(
    bins: int, *, shear: float, shifts: tuple[float, float], turn: float, tone: float, bits: tuple[int, int]
) -> Tensor:
    """Rows that rise from 0 to the values given; posterize's fall from the first to the second number of bits."""
    ramp = partial(torch.linspace, 0.0, steps=bins)
    strongest = {"ShearX": shear, "ShearY": shear, "TranslateX": shifts[0], "TranslateY": shifts[1], "Rotate": turn}
    rows = {name: ramp(end) for name, end in strongest.items()}
    rows |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), ramp(tone))
    rows["Posterize"] = (bits[0] - torch.arange(bins) / ((bins - 1) / (bits[0] - bits[1]))).round()
    rows["Solarize"] = torch.linspace(1.0, 0.0, bins)
    return torch.stack([rows.get(name, torch.zeros(bins)) for name in OPERATIONS]).double()


def apply_policy(images: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """The policy that was asked for, drawn for every image: uint8 (N, C, H, W) -> the same."""
    if augmentation.policy == "rand_augment":
        return rand_augment(
            images, num_ops=augmentation.policy_ops, magnitude=augmentation.policy_magnitude, generator=generator
        )
    if augmentation.policy == "trivial_augment":
        return trivial_augment(images, generator=generator)
    return aug_mix(images, generator=generator) if augmentation.policy == "aug_mix" else images


def rand_augment(images: Tensor, *, num_ops: int, magnitude: int, generator: torch.Generator) -> Tensor:
    """``num_ops`` operations one after the other, of one magnitude in 0 to 30.

    Reference:
        Cubuk et al. 2019, arXiv:1909.13719; torchvision's RandAugment, nearest pixels, black from outside.
    """
    for _ in range(num_ops):
        operations = torch.randint(len(OPERATIONS), (len(images),), generator=generator)
        bins = torch.full_like(operations, magnitude)
        amounts = draw_amounts("rand_augment", operations, bins, size=_size(images), generator=generator)
        images = apply_operations(images, operations, amounts)
    return images


def trivial_augment(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """One operation of a random magnitude.

    Reference:
        Müller and Hutter 2021, arXiv:2103.10158; torchvision's TrivialAugmentWide, nearest pixels, black from outside.
    """
    operations = torch.randint(len(OPERATIONS), (len(images),), generator=generator)
    bins = torch.randint(MAGNITUDE_BINS, (len(images),), generator=generator)
    amounts = draw_amounts("trivial_augment", operations, bins, size=_size(images), generator=generator)
    return apply_operations(images, operations, amounts)


def aug_mix(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """A weighted mean of the image and three chains of one to three operations.

    Reference:
        Hendrycks et al. 2019, arXiv:1912.02781; torchvision's AugMix, bilinear, black from outside.

    Deviates:
        As torchvision: without the loss that pulls the predictions for three views together.
    """
    number = len(images)
    shares, weights = draw_shares(number, generator=generator)
    depths = torch.randint(1, MIX_DEPTH + 1, (MIX_WIDTH * number,), generator=generator)
    chains = images.repeat(MIX_WIDTH, 1, 1, 1)  # (3N, C, H, W): all first chains, all second, all third
    for level in range(MIX_DEPTH):
        operations = torch.randint(1, len(OPERATIONS), depths.shape, generator=generator)  # never the identity ...
        bins = torch.randint(MIX_SEVERITY, depths.shape, generator=generator)
        amounts = draw_amounts("aug_mix", operations, bins, size=_size(images), generator=generator)
        operations = torch.where(level < depths, operations, 0)  # ... but behind the end of a chain
        chains = apply_operations(chains, operations, amounts, mode="bilinear")
    return blend_chains(images, chains, shares, weights)


def draw_shares(number: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The image's own share, float32 (N,), and those of its chains, (3, N): flat Dirichlet, together 1."""
    own, chains = (
        torch.empty(parts, number).exponential_(generator=generator) for parts in (2, MIX_WIDTH)
    )  # exponentials over their sum are a flat Dirichlet
    own, chains = own / own.sum(0), chains / chains.sum(0)
    return own[0], chains * own[1]


def blend_chains(images: Tensor, chains: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """(N, C, H, W) with shares (N,) and (3N, C, H, W) with weights (3, N) -> (N, C, H, W), fractions cut off."""
    shape = (-1, 1, 1, 1)
    mixed = images * shares.view(shape).to(images.device)
    for chain, weight in zip(chains.chunk(MIX_WIDTH), weights.to(images.device), strict=True):
        mixed += chain * weight.view(shape)
    return mixed.to(torch.uint8)


def draw_amounts(
    policy: Policy, operations: Tensor, bins: Tensor, *, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """The strength of each operation at its magnitude, half of the two-sided ones turned negative: float64 (N,)."""
    amounts = magnitude_table(policy, height=size[0], width=size[1])[operations, bins]
    negative = torch.rand(len(bins), generator=generator) < 0.5
    return torch.where(negative & SIGNED[operations], -amounts, amounts)


def apply_operations(images: Tensor, operations: Tensor, amounts: Tensor, *, mode: Mode = "nearest") -> Tensor:
    """To each image its operation by its amount.

    Args:
        images: uint8 (N, C, H, W), 1 or 3 channels.
        operations: indices into ``OPERATIONS``, int64 (N,), on the CPU.
        amounts: float64 (N,), on the CPU: what torchvision calls the magnitude.
        mode: how warps fetch their pixels.

    Returns:
        uint8 (N, C, H, W), where the images are.
    """
    order = operations.argsort(stable=True)
    counts = torch.bincount(operations, minlength=len(OPERATIONS)).tolist()
    groups = zip(OPERATIONS, images[order.to(images.device)].split(counts), amounts[order].split(counts), strict=True)
    done = [_apply(name, some, by, mode) for name, some, by in groups if len(some)]
    return torch.cat(done)[order.argsort().to(images.device)]


def _apply(name: str, images: Tensor, amounts: Tensor, mode: Mode) -> Tensor:
    if name in WARPS:
        height, width = _size(images)
        return geometry.warp(images, WARPS[name](amounts, height=height, width=width), mode=mode)
    return COLOURS[name](images, amounts) if name in COLOURS else images


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
