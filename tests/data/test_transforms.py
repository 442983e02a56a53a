"""The recorded preprocessing and the statistics behind it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from reslab.data.transforms import Preprocess, channel_statistics, to_tensor

PLAIN = Preprocess(8, 8, 3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    wanted = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(12)])(to_tensor(image))
    found = Preprocess(12, 12, 3, (0,) * 3, (1,) * 3, resize=16).fit(image)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("mode", "shape"), [("L", (1, 5, 7)), ("RGB", (3, 5, 7))])
def test_to_tensor(noise, mode, shape):
    image = noise(0, width=7, height=5, mode=mode)
    tensor = to_tensor(image)
    assert tensor.shape == shape
    assert tensor[0, 4, 6] == np.array(image)[4, 6].flat[0]


def test_a_single_grey_pixel_is_scaled_as_recorded():
    white = Image.new("L", (1, 1), 255)
    assert Preprocess(1, 1, 1, mean=(0.75,), std=(0.5,))(white).item() == 0.5
