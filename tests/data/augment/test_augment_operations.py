"""Every operation, with other parameters for every image of a batch, against torchvision's on one image at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF
from torchvision.transforms.v2.functional._geometry import _get_inverse_affine_matrix as matrix_of

from reslab.data.augment import colour
from reslab.data.augment.geometry import mirror, resized_crop, rotate, shear_x, shear_y, shift, warp
from reslab.data.augment.policies import (
    OPERATIONS,
    SIGNED,
    apply_operations,
    blend_chains,
    magnitude_table,
)

SPACES = {"rand_augment": v2.RandAugment, "trivial_augment": v2.TrivialAugmentWide, "aug_mix": v2.AugMix}
# At 12 and 31 pixels, shears have pixels half-way between two others, whose last bit decides.
SHAPES = [(1, 8), (1, 12), (1, 28), (1, 31), (3, 8), (3, 28), (3, 32), (3, 64)]
has_fixed_point_resize = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def torchvisions(name: str, image: Tensor, magnitude: float, mode: str) -> Tensor:
    """The operation as torchvision's policies apply it."""
    return v2.RandAugment()._apply_image_or_video_transform(
        image, name, magnitude, interpolation=v2.InterpolationMode(mode), fill={torch.Tensor: None}
    )


def all_magnitudes(policy: str, operation: int, side: int) -> Tensor:
    magnitudes = magnitude_table(policy, height=side, width=side)[operation]
    return torch.cat([magnitudes, -magnitudes]) if SIGNED[operation] else magnitudes


def batch_of_all(images: Tensor, magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Each image at each magnitude: images (N * M, C, H, W), magnitudes (N * M,)."""
    return images.repeat_interleave(len(magnitudes), dim=0), magnitudes.repeat(len(images))


@pytest.mark.parametrize(("channels", "side"), SHAPES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("policy", SPACES)
def test_each_operation_equals_torchvisions_at_every_magnitude(pictures, policy, name, channels, side):
    mode = "bilinear" if policy == "aug_mix" else "nearest"
    operation = OPERATIONS.index(name)
    images, magnitudes = batch_of_all(pictures(channels, side)[::2], all_magnitudes(policy, operation, side))
    found = apply_operations(images, torch.full((len(images),), operation), magnitudes, mode=mode)
    wanted = [torchvisions(name, one, by, mode) for one, by in zip(images, magnitudes.tolist(), strict=True)]
    assert torch.equal(found, torch.stack(wanted))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_all_operations_equals_torchvisions(pictures, generator, channels):
    operations = torch.arange(len(OPERATIONS)).repeat(8)[torch.randperm(8 * len(OPERATIONS), generator=generator())]
    images = pictures(channels, 28).repeat(len(OPERATIONS), 1, 1, 1)
    amounts = magnitude_table("trivial_augment", height=28, width=28)[operations, 17]
    found = apply_operations(images, operations, amounts)
    for image, operation, amount, result in zip(images, operations.tolist(), amounts.tolist(), found, strict=True):
        assert torch.equal(result, torchvisions(OPERATIONS[operation], image, amount, "nearest"))


def test_operations_leave_the_images_they_are_given_alone(pictures):
    images = pictures(3, 28)
    before = images.clone()
    for operation in range(len(OPERATIONS)):
        apply_operations(images, torch.full((8,), operation), torch.full((8,), 0.5, dtype=torch.float64))
    assert torch.equal(images, before)


def test_warps_of_images_that_are_not_square():
    images = torch.randint(256, (31, 3, 20, 33), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    table = magnitude_table("trivial_augment", height=20, width=33)
    for operation in range(1, 6):
        found = apply_operations(images, torch.full((31,), operation), table[operation])
        for image, by, result in zip(images, table[operation].tolist(), found, strict=True):
            assert torch.equal(result, torchvisions(OPERATIONS[operation], image, by, "nearest"))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (31, 31), (20, 33)])
def test_matrices_of_shears_and_turns_equal_torchvisions_bit_by_bit(generator, height, width):
    # Of enough amounts that a sine or tangent of the processor's vector units would show in the last bit.
    amounts = 2 * torch.rand(500, dtype=torch.float64, generator=generator()) - 1
    sheared_x, sheared_y, turned = (
        operation(by, height=height, width=width).flatten(1).tolist()
        for operation, by in ((shear_x, amounts), (shear_y, amounts), (rotate, 135 * amounts))
    )
    corner = [-width / 2, -height / 2]
    for number, amount in enumerate(amounts.tolist()):
        degrees = math.degrees(math.atan(amount))
        assert sheared_x[number] == matrix_of(corner, 0.0, [0.0, 0.0], 1.0, [degrees, 0.0])
        assert sheared_y[number] == matrix_of(corner, 0.0, [0.0, 0.0], 1.0, [0.0, degrees])
        assert turned[number] == matrix_of([0.0, 0.0], -135 * amount, [0.0, 0.0], 1.0, [0.0, 0.0])


@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (32, 32), (20, 33), (64, 64)])
def test_magnitudes_are_those_of_torchvisions_spaces(policy, height, width):
    table, space = magnitude_table(policy, height=height, width=width), SPACES[policy]._AUGMENTATION_SPACE
    assert set(space) | {"Identity"} == set(OPERATIONS)
    for operation, name in enumerate(OPERATIONS):
        rule, signed = space.get(name, (lambda *_: None, False))
        wanted = rule(table.shape[1], height, width)
        wanted = torch.zeros(table.shape[1]) if wanted is None else wanted
        assert table[operation].tolist() == wanted.tolist()
        assert bool(SIGNED[operation]) == signed


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 28), (3, 32)])
def test_resized_crops_equal_torchvisions(pictures, channels, side):
    sizes = range(1, side + 1)
    boxes = [(side - high, (side - wide) // 2, high, wide) for high in sizes for wide in {1, high, side - high // 2}]
    images = pictures(channels, side)[[0, 3]].repeat_interleave(len(boxes), dim=0)
    found = resized_crop(images, torch.tensor(boxes * 2))
    wanted = torch.stack(
        [TF.resized_crop(image, *box, [side, side]) for image, box in zip(images, boxes * 2, strict=True)]
    )
    difference = (found.int() - wanted.int()).abs().max().item()
    # Without AVX2 torch resizes in floating point, and rounds once where fixed point rounds twice.
    assert difference == 0 if has_fixed_point_resize else difference <= 1


def test_resized_crops_of_images_that_are_not_square():
    image = torch.randint(256, (1, 3, 20, 33), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = resized_crop(image, torch.tensor([[2, 5, 13, 22]]))
    wanted = TF.resized_crop(image, 2, 5, 13, 22, [20, 33])
    assert (found.int() - wanted.int()).abs().max() <= (0 if has_fixed_point_resize else 1)


def test_a_crop_of_everything_is_the_image(pictures):
    images = pictures(3, 28)
    assert torch.equal(resized_crop(images, torch.tensor([[0, 0, 28, 28]] * 8)), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_equals_torchvisions_in_every_order(pictures, channels):
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    images = pictures(channels, 28)[:6]
    factors = torch.tensor([[0.6, 1.3, 0.9], [1.4, 0.7, 1.2], [1.1, 0.95, 0.63]] * 2, dtype=torch.float64)
    found = colour.jitter(images, factors.T, orders.T)
    reference = v2.ColorJitter(0.4, 0.4, 0.4)
    for image, result, (bright, contrast, colourful), order in zip(
        images, found, factors.tolist(), orders, strict=True
    ):
        names = {"brightness_factor": bright, "contrast_factor": contrast, "saturation_factor": colourful}
        assert torch.equal(result, reference.transform(image, {**names, "hue_factor": None, "fn_idx": order}))


def test_chains_are_blended_as_by_torchvisions_augmix(pictures, monkeypatch):
    images, chains = pictures(3, 28), torch.cat([pictures(3, 28).flip(0), pictures(3, 28).roll(3, 0), pictures(3, 28)])
    own = torch.tensor([0.1, 0.35, 0.9, 0.0, 1.0, 0.62, 0.5, 0.77])
    parts = torch.tensor([0.2, 0.7, 0.1]).view(3, 1)
    found = blend_chains(images, chains, own, parts * (1 - own))
    for number, image in enumerate(images):
        reference = v2.AugMix(chain_depth=1)
        drawn = iter([torch.tensor([[own[number], 1 - own[number]]]), parts.view(1, 3)])
        results = iter(chains.view(3, 8, 1, 3, 28, 28)[:, number])
        monkeypatch.setattr(reference, "_sample_dirichlet", lambda _, drawn=drawn: next(drawn))
        monkeypatch.setattr(
            reference, "_apply_image_or_video_transform", lambda *_, results=results, **__: next(results)
        )
        assert torch.equal(found[number], reference(image))


def test_posterize_to_no_bits_is_black_and_to_eight_the_image(pictures):
    images = pictures(3, 8)
    assert colour.posterize(images, torch.zeros(8)).max() == 0
    assert torch.equal(colour.posterize(images, torch.full((8,), 8)), images)


def test_images_too_small_to_sharpen_stay():
    images = torch.arange(12, dtype=torch.uint8).view(2, 1, 2, 3)
    assert torch.equal(colour.sharpness(images, torch.zeros(2)), images)


def test_each_image_is_shifted_by_its_own_window():
    images = torch.arange(1, 33, dtype=torch.uint8).view(2, 1, 4, 4)
    down, right = (0, 2), (2, 1)
    found = shift(images, torch.tensor([down, right]), padding=1, fill=torch.tensor([99], dtype=torch.uint8))
    assert found[0, 0].tolist() == [[99] * 4, [2, 3, 4, 99], [6, 7, 8, 99], [10, 11, 12, 99]]
    assert found[1, 0].tolist() == [[21, 22, 23, 24], [25, 26, 27, 28], [29, 30, 31, 32], [99] * 4]


def test_only_chosen_images_are_mirrored():
    images = torch.arange(8).view(2, 1, 1, 4)
    assert mirror(images, torch.tensor([False, True])).flatten().tolist() == [0, 1, 2, 3, 7, 6, 5, 4]


def test_a_quarter_turn_is_exact(pictures):
    images = pictures(3, 28)
    turned = apply_operations(images, torch.full((8,), OPERATIONS.index("Rotate")), torch.full((8,), 90.0).double())
    assert torch.equal(turned, images.rot90(1, (2, 3)))


def test_the_unit_matrix_warps_to_the_image(pictures):
    images, unit = pictures(3, 28), torch.eye(2, 3, dtype=torch.float64).repeat(8, 1, 1)
    for mode in ("nearest", "bilinear"):
        assert torch.equal(warp(images, unit, mode=mode), images)
