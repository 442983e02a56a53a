"""The recorded preprocessing, the statistics behind it, and augmentation against its definition."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor
from torchvision.transforms import v2

from reslab.data.transforms import (
    AUGMENTATIONS,
    Preprocess,
    augment_batch,
    channel_statistics,
    check_augmentation,
    crop_and_flip,
    to_tensor,
    training_transform,
)
from reslab.errors import RequestError

PLAIN = Preprocess(8, 8, 3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outcomes(image: Tensor, padding: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every window of the zero-padded image (C, H, W), mirrored or not, by its bytes."""
    _, height, width = image.shape
    padded, found = F.pad(image, (padding,) * 4), {}
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            window = padded[:, down : down + height, right : right + width]
            for mirrored in (False, True):
                result = window.flip(-1) if mirrored else window
                found[result.contiguous().numpy().tobytes()] = (down, right, mirrored)
    return found


def places(images: Tensor, image: Tensor, padding: int) -> list[tuple[int, int, bool]]:
    """Which window each of ``images`` is of ``image``; KeyError if it is none."""
    by_content = outcomes(image, padding)
    return [by_content[one.contiguous().numpy().tobytes()] for one in images]


def numbered_image(channels: int = 3, side: int = 5) -> Tensor:
    return torch.arange(1.0, channels * side * side + 1).view(channels, side, side)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [1, 2])
def test_every_output_is_a_window_and_every_window_occurs(padding, flip):
    image = numbered_image()
    batch = crop_and_flip(image.expand(3000, -1, -1, -1), padding=padding, flip=flip, generator=generator())
    found = places(batch, image, padding)
    wanted = {place for place in outcomes(image, padding).values() if flip or not place[2]}
    assert len(wanted) == (2 * padding + 1) ** 2 * (2 if flip else 1)
    assert set(found) == wanted


def test_each_image_gets_a_window_of_itself():
    images = torch.randn(64, 2, 6, 6, generator=generator(1))
    for before, after in zip(images, crop_and_flip(images, padding=2, flip=True, generator=generator()), strict=True):
        places(after.unsqueeze(0), before, 2)  # KeyError if it is a window of another


def test_offsets_and_mirrors_are_uniform():
    image = numbered_image()
    found = places(crop_and_flip(image.expand(9000, -1, -1, -1), padding=1, flip=True, generator=generator()), image, 1)
    counts = np.zeros((3, 3, 2))
    for down, right, mirrored in found:
        counts[down, right, int(mirrored)] += 1
    assert chisquare(counts.ravel()).pvalue > 0.01


def test_offsets_of_neighbours_and_of_the_two_axes_are_independent():
    image = numbered_image()
    found = places(crop_and_flip(image.expand(9000, -1, -1, -1), padding=1, flip=True, generator=generator()), image, 1)
    number = [down * 6 + right * 2 + mirrored for down, right, mirrored in found]
    neighbours, axes = np.zeros((18, 18)), np.zeros((3, 6))
    for first, second in zip(number[::2], number[1::2], strict=True):
        neighbours[first, second] += 1
    for value in number:
        axes[value // 6, value % 6] += 1
    assert chi2_contingency(neighbours).pvalue > 0.01
    assert chi2_contingency(axes).pvalue > 0.01


def test_it_is_distributed_as_torchvisions_crop_and_flip():
    image = numbered_image(side=4)
    ours = places(crop_and_flip(image.expand(4000, -1, -1, -1), padding=1, flip=True, generator=generator()), image, 1)
    theirs_transform = v2.Compose([v2.RandomCrop(4, padding=1), v2.RandomHorizontalFlip()])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        theirs = places(torch.stack([theirs_transform(image) for _ in range(4000)]), image, 1)
    kinds = sorted(set(theirs))
    assert set(ours) == set(kinds)
    table = [[drawn.count(kind) for kind in kinds] for drawn in (ours, theirs)]
    assert chi2_contingency(table).pvalue > 0.01


def test_the_same_generator_gives_the_same_batch_and_the_global_one_is_left_alone():
    images, before = torch.randn(8, 3, 8, 8, generator=generator()), torch.get_rng_state()
    first, again, other = (crop_and_flip(images, padding=1, flip=True, generator=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("side", "padding"), [(32, 4), (28, 3), (8, 1), (4, 1)])
def test_the_padding_is_an_eighth_of_the_side(side, padding):
    image = torch.randn(1, side, side, generator=generator())
    found = places(augment_batch(image.expand(500, -1, -1, -1), "crop", generator=generator()), image, padding)
    assert max(down for down, _, _ in found) == 2 * padding
    assert not any(mirrored for _, _, mirrored in found)


def test_no_augmentation_changes_nothing():
    images = torch.randn(4, 3, 8, 8, generator=generator())
    assert augment_batch(images, "none", generator=generator()) is images


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_those_of_numpy(channels):
    images = torch.randint(256, (50, channels, 9, 7), dtype=torch.uint8, generator=generator())
    mean, std = channel_statistics(images)
    exact = images.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(exact.mean(axis=(0, 2, 3)), abs=1e-12)
    assert std == pytest.approx(exact.std(axis=(0, 2, 3)), abs=1e-12)


def test_a_constant_channel_gets_the_deviation_one():
    assert channel_statistics(torch.full((4, 1, 8, 8), 51, dtype=torch.uint8)) == ((pytest.approx(0.2),), (1.0,))


def test_normalised_images_have_mean_zero_and_deviation_one():
    images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator())
    mean, std = channel_statistics(images)
    normal = Preprocess(8, 8, 3, mean, std).normalise(images)
    assert normal.dtype == torch.float32
    assert normal.mean((0, 2, 3)).abs().max() < 1e-5
    assert (normal.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_normalising_leaves_the_images_as_they_were():
    images = torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)
    PLAIN.normalise(images)
    assert images.unique().tolist() == [7]


def test_preprocessing_survives_json():
    preprocess = Preprocess(224, 224, 3, (0.1, 0.2, 1 / 3), (1.0, 0.5, 0.25), resize=256)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


def test_geometry_is_torchvisions_resize_and_centre_crop(noise):
    image = noise(0, width=50, height=31)
    wanted = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(12)])(image)
    found = Preprocess(12, 12, 3, (0,) * 3, (1,) * 3, resize=16).fit(image)
    assert np.array_equal(np.array(found), np.array(wanted))


@pytest.mark.parametrize(("mode", "shape"), [("L", (1, 5, 7)), ("RGB", (3, 5, 7))])
def test_to_tensor(noise, mode, shape):
    image = noise(0, width=7, height=5, mode=mode)
    tensor = to_tensor(image)
    assert tensor.shape == shape
    assert tensor[0, 4, 6] == np.array(image)[4, 6].flat[0]


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_training_transforms_have_the_inputs_shape_and_can_be_sent_to_a_worker(noise, kind):
    transform = pickle.loads(pickle.dumps(training_transform(PLAIN, kind)))
    with torch.random.fork_rng(devices=()):
        assert transform(noise(0)).shape == (3, 8, 8)
        assert transform(noise(0)).dtype == torch.float32


def test_resized_crop_is_for_photographs():
    with pytest.raises(RequestError, match="crop or crop_flip"):
        check_augmentation("resized_crop_flip", in_memory=True)
    for kind in AUGMENTATIONS:
        check_augmentation(kind, in_memory=False)


def test_a_single_grey_pixel_is_scaled_as_recorded():
    white = Image.new("L", (1, 1), 255)
    assert Preprocess(1, 1, 1, mean=(0.75,), std=(0.5,))(white).item() == 0.5
