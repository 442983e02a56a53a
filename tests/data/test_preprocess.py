"""The recorded preprocessing, the statistics behind it, and an image to predict."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from reslab.data import Preprocess
from reslab.data.preprocess import centre_crop, channel_statistics, fit_for_prediction, fitted_size
from reslab.errors import RequestError

AS_IS = Preprocess(8, 8, 3, (0.5,) * 3, (0.5,) * 3)
RESIZED = replace(AS_IS, resize=10)
SIDES = st.integers(1, 3000)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys_and_normalised_images_have_mean_zero_and_deviation_one(channels):
    images = torch.randint(256, (50, channels, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before, exact = images.clone(), images.numpy().astype(np.float64) / 255
    mean, std = channel_statistics(images)
    assert mean == pytest.approx(exact.mean(axis=(0, 2, 3)), abs=1e-12)
    assert std == pytest.approx(exact.std(axis=(0, 2, 3)), abs=1e-12)
    normal = Preprocess(9, 7, channels, mean, std).normalise(images)
    assert normal.dtype == torch.float32
    assert normal.mean((0, 2, 3)).abs().max() < 1e-5
    assert (normal.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert torch.equal(images, before)


def test_a_constant_channel_gets_the_deviation_one():
    assert channel_statistics(torch.full((4, 1, 8, 8), 51, dtype=torch.uint8)) == ((pytest.approx(0.2),), (1.0,))


def test_preprocessing_survives_json():
    preprocess = Preprocess(224, 224, 3, (0.1, 0.2, 1 / 3), (1.0, 0.5, 0.25), resize=256)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert (preprocess.size, preprocess.shape) == ((224, 224), (3, 224, 224))


@given(height=SIDES, width=SIDES, shorter=st.integers(1, 500))
def test_sizes_are_rounded_as_torchvision_does(height, width, shorter):
    if max(height, width) * shorter < 2**20 * min(height, width):
        resized = TF.resize(torch.empty(1, height, width, device="meta"), [shorter])
        assert fitted_size(height, width, shorter=shorter) == tuple(resized.shape[1:])


@given(have=st.tuples(*[st.integers(1, 20)] * 2), want=st.tuples(*[st.integers(1, 20)] * 2))
def test_centre_crops_are_torchvisions_also_of_images_that_are_too_small(have, want):
    image = torch.arange(have[0] * have[1], dtype=torch.uint8).view(1, *have) + 1
    assert torch.equal(centre_crop(image, want), TF.center_crop(image, list(want)))


@pytest.mark.parametrize(("resize", "size"), [(256, (224, 224)), (400, (224, 224)), (64, (56, 48)), (32, (40, 40))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_fitted_as_by_torchvision(kind, resize, size):
    preprocess = Preprocess(*size, 3, (0.0,) * 3, (1.0,) * 3, resize)
    for name in ("china.jpg", "flower.jpg"):
        path = Path(find_spec("sklearn").origin).parent / "datasets" / "images" / name  # 640 x 427
        image, buffer = Image.open(path), io.BytesIO()
        image.save(buffer, "PNG")
        theirs = TF.center_crop(TF.resize(TF.pil_to_tensor(image), [resize], antialias=True), list(size))
        assert torch.equal(preprocess.fit(image), theirs)
        ours, note = fit_for_prediction(path if kind == "JPEG" else buffer.getvalue(), preprocess, name="x")
        is_reduced = kind == "JPEG" and resize <= 427 // 2
        assert (255 * ours - theirs).abs().mean() < (4 if is_reduced else 1e-4)  # grey levels
        assert note == ""


@pytest.mark.parametrize(("size", "preprocess"), [((8, 8), AS_IS), ((100, 40), RESIZED), ((3, 3), RESIZED)])
def test_what_fits_is_predicted_without_a_note(tmp_path, noise, size, preprocess):
    noise(0, width=size[0], height=size[1]).save(tmp_path / "a.png")
    tensor, note = fit_for_prediction(tmp_path / "a.png", preprocess, name="a.png")
    assert (tensor.shape, note) == ((3, 8, 8), "")


def test_a_larger_image_is_resized_with_a_note(tmp_path, noise):
    noise(0, width=20, height=30).save(tmp_path / "a.png")
    tensor, note = fit_for_prediction(tmp_path / "a.png", AS_IS, name="a.png")
    assert (tensor.shape, note) == ((3, 8, 8), "resized from 20x30, centre crop")


@pytest.mark.parametrize(("size", "preprocess"), [((7, 8), AS_IS), ((8, 17), AS_IS), ((1, 1), AS_IS),
                                                  ((10, 201), RESIZED), ((50_000, 1), RESIZED)])  # fmt: skip
def test_a_tiny_or_long_image_is_refused_with_its_size(tmp_path, size, preprocess):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match=rf"a\.png has {size[0]}x{size[1]} pixels.*Crop"):
        fit_for_prediction(tmp_path / "a.png", preprocess, name="a.png")


def test_a_grey_pixel_is_scaled_as_recorded(tmp_path):
    Image.new("L", (1, 1), 255).save(tmp_path / "white.png")
    tensor, _ = fit_for_prediction(tmp_path / "white.png", Preprocess(1, 1, 1, mean=(0.75,), std=(0.5,)), name="x")
    assert tensor.item() == 0.5
