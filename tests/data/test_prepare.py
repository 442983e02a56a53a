"""From a source to splits, preprocessing and loaders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data.augment.options import Augmentation
from reslab.data.prepare import check_classes, fit_for_prediction, prepare
from reslab.data.sources import Source, find_source
from reslab.data.splits import ArraySplit, EncodedSplit
from reslab.data.transforms import Preprocess, channel_statistics
from reslab.errors import RequestError


def test_digits_are_split_and_described():
    data = prepare(find_source("digits"), val_split=0.1, seed=0)
    about = data.describe()
    assert (about["num_train"], about["num_val"], about["num_test"]) == (1294, 144, 359)
    assert (about["in_memory"], about["augment"]) == (True, "none")
    assert Preprocess.from_dict(about["preprocess"]) == data.preprocess
    assert (data.preprocess.height, data.preprocess.width, data.preprocess.resize) == (8, 8, None)


def test_mean_and_deviation_are_those_of_the_training_part_alone():
    data = prepare(find_source("digits"), val_split=0.5, seed=3)
    assert (data.preprocess.mean, data.preprocess.std) == channel_statistics(data.train.images)
    assert data.preprocess.mean != channel_statistics(find_source("digits").splits["train"].images)[0]


def test_the_fingerprint_is_stable_and_changes_with_one_pixel():
    def fingerprint(source: Source) -> str:
        return prepare(source, val_split=0.1, seed=0).describe()["fingerprint"]

    source = find_source("digits")
    assert fingerprint(source) == fingerprint(find_source("digits"))
    train = prepare(source, val_split=0, seed=0).train
    images = train.images.clone()
    images[:, 0, 0, 0] = 200
    assert fingerprint(replace(source, splits={**source.splits, "train": ArraySplit(images, train.labels)})) != (
        fingerprint(source)
    )


def test_no_validation_split():
    data = prepare(find_source("digits"), val_split=0)
    assert data.val is None
    assert len(data.train) == 1438
    assert data.describe()["num_val"] is None


def test_the_sources_own_validation_split_is_used_whole(make_folder):
    root = make_folder({"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 2})
    data = prepare(find_source(str(root)), val_split=0.5)
    assert (len(data.train), len(data.val), data.test) == (8, 3, None)


def test_small_images_of_one_size_are_packed_and_photographs_streamed(make_folder):
    small = prepare(find_source(str(make_folder({"a": 2, "b": 2}, side=64))), val_split=0)
    assert isinstance(small.train, ArraySplit)
    assert (small.augmentation.geometry, small.preprocess.height, small.preprocess.resize) == ("crop_flip", 64, None)
    large = prepare(find_source(str(make_folder({"a": 2, "b": 2}, side=65, root="large"))), val_split=0)
    assert isinstance(large.train, EncodedSplit)
    assert (large.augmentation.geometry, large.preprocess.height, large.preprocess.resize) == (
        "resized_crop_flip",
        224,
        256,
    )


def test_small_images_of_several_sizes_are_streamed(make_folder, noise):
    root = make_folder({"a": 2, "b": 2})
    noise(9, width=9).save(root / "b" / "9.png")
    data = prepare(find_source(str(root)), val_split=0, image_size=None)
    assert isinstance(data.train, EncodedSplit)
    assert data.preprocess.resize == 256


@pytest.mark.parametrize("val_side", [80, 9])
def test_splits_of_different_sizes_are_all_streamed(make_folder, tmp_path, noise, val_side):
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 0, "val/b": 0})
    for name in "ab":
        noise(1, width=val_side, height=val_side).save(root / "val" / name / "1.png")
    data = prepare(find_source(str(root)))
    assert isinstance(data.train, EncodedSplit)
    assert isinstance(data.val, EncodedSplit)
    assert next(iter(data.loader(data.val, batch_size=2).batches()))[0].shape == (2, 3, 224, 224)


@pytest.mark.parametrize("side", [8, 80])
def test_image_size_resizes_whatever_the_size_was(make_folder, side):
    data = prepare(find_source(str(make_folder({"a": 3, "b": 3}, side=side))), val_split=0, image_size=16)
    images, _ = next(iter(data.loader(data.train, batch_size=6, training=True).batches()))
    assert images.shape == (6, 3, 16, 16)
    assert (data.preprocess.height, data.preprocess.width) == (16, 16)


def test_image_size_resizes_data_in_memory():
    data = prepare(find_source("digits"), val_split=0.1, image_size=12)
    assert data.train.images.shape[1:] == (1, 12, 12)
    assert data.test.images.shape[1:] == (1, 12, 12)
    assert data.preprocess.resize == 12


def test_a_recorded_preprocessing_is_used_again_and_not_computed_anew(make_folder):
    source = find_source(str(make_folder({"a": 3, "b": 3})))
    recorded = Preprocess(12, 12, 3, (0.1,) * 3, (0.9,) * 3, resize=14)
    data = prepare(source, val_split=0, preprocess=recorded)
    assert data.preprocess is recorded
    served = next(iter(data.loader(data.train, batch_size=6).batches()))[0]
    wanted = fit_for_prediction(source.splits["train"].items[0], recorded, name="x")[0]
    assert torch.equal(served[0], wanted)


@pytest.mark.parametrize("side", [9, 80])
def test_images_of_another_size_than_a_network_takes_as_they_are_are_refused(make_folder, side):
    source = find_source(str(make_folder({"a": 1, "b": 1}, side=side)))
    with pytest.raises(
        RequestError, match=r"takes images of 3x8x8 as they are; .* has (3x9x9|photographs).*image-size"
    ):
        prepare(source, val_split=0, preprocess=Preprocess(8, 8, 3, (0.5,) * 3, (0.5,) * 3))


def test_a_broken_photograph_stops_before_training(make_folder):
    root = make_folder({"a": 3, "b": 3}, side=80)
    content = (root / "b" / "1.png").read_bytes()
    (root / "b" / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=r"Can't read the image .*b/1\.png"):
        prepare(find_source(str(root)), val_split=0)


def test_an_augmentation_that_does_not_suit_is_refused(make_folder):
    data = find_source(str(make_folder({"a": 2, "b": 2}, side=65)))
    with pytest.raises(RequestError, match="alternate_flip is for images that are kept in memory"):
        prepare(data, val_split=0, augment=lambda geometry: Augmentation(geometry, alternate_flip=True))


def test_batches_are_no_larger_than_the_split(make_folder):
    data = prepare(find_source(str(make_folder({"a": 2, "b": 1}))), val_split=0)
    assert [len(labels) for _, labels in data.loader(data.train, batch_size=99, training=True).batches()] == [3]


def test_equal_classes_pass():
    assert check_classes(["a", "b"], ["a", "b"], where="x") is None  # and raises nothing


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["a", "b", "c"], r"birds has other classes than the run was trained on: 2 and 3 classes\."),
        (["a", "c"], r"class 1 is 'b' in the run and 'c' here"),
        (["b", "a"], r"class 0 is 'a' in the run and 'b' here"),
    ],
)
def test_other_classes_are_named(found, words):
    with pytest.raises(RequestError, match=words):
        check_classes(["a", "b"], found, where="birds")


AS_IS = Preprocess(8, 8, 3, (0.5,) * 3, (0.5,) * 3)
RESIZED = replace(AS_IS, resize=10)


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


# ---- real data


def test_real_photographs_are_resized_and_normalised(real_data):
    data = prepare(find_source(str(real_data / "hymenoptera")))
    assert (len(data.train), len(data.val), data.preprocess.resize) == (64, 44, 256)
    images, _ = next(iter(data.loader(data.val, batch_size=8).batches()))
    assert images.shape == (8, 3, 224, 224)
    assert 0.3 < np.mean(data.preprocess.mean) < 0.7


@pytest.mark.slow
def test_real_cifar10(real_data):
    """The channel means of the README, over all training images; 45,000 and 5,000 by class for training."""
    source = find_source("cifar10", data_dir=real_data)
    assert source.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    whole = prepare(source, val_split=0)
    assert whole.preprocess.mean == pytest.approx((0.49139968, 0.48215841, 0.44653091), abs=1e-6)
    assert whole.preprocess.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
    data = prepare(replace(source, splits={"train": whole.train, "test": whole.test}), val_split=0.1)
    assert torch.bincount(data.train.labels).tolist() == [4500] * 10
    assert torch.bincount(data.val.labels).tolist() == [500] * 10
    assert (data.train.images.shape[1:], len(data.test), data.augmentation.geometry) == (
        (3, 32, 32),
        10_000,
        "crop_flip",
    )
