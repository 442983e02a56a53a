"""From a source to splits, preprocessing and loaders; which options go together; what is imported when."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import reslab.data
from reslab.data import DataOptions, Preprocess, find_source, prepare
from reslab.data.prepared import check_classes, shorter_side
from reslab.data.preprocess import channel_statistics, fit_for_prediction
from reslab.data.splits import ArraySplit, EncodedSplit
from reslab.errors import RequestError
from reslab.options import options_of


def prepared(name="digits", *, seed=0, preprocess=None, **options):
    options = DataOptions(name=str(name), **options)
    return prepare(find_source(options), options, seed=seed, preprocess=preprocess)


def size_of(preprocess):
    return preprocess.height, preprocess.width, preprocess.resize


# ---- splits


def test_digits_are_split_and_described():
    data = prepared()
    about = data.describe()
    assert (about["num_train"], about["num_val"], about["num_test"]) == (1294, 144, 359)
    assert (about["in_memory"], data.is_streamed, about["augment"], about["augmentation"]) == (True, False, "none", {})
    assert Preprocess.from_dict(about["preprocess"]) == data.preprocess
    assert (size_of(data.preprocess), shorter_side(data.train)) == ((8, 8, None), 8)
    chosen = prepared(augment="crop", max_shift=1, mixup=0.2).describe()
    assert chosen["augmentation"] == {"geometry": "crop", "max_shift": 1, "mixup": 0.2}


def test_without_validation_and_test_split():
    data = prepared(val_split=0, test=False)
    assert (len(data.train), data.val, data.test, sorted(data.source.splits)) == (1438, None, None, ["train"])
    about = data.describe()
    assert (about["num_val"], about["num_test"]) == (None, None)


def test_mean_and_deviation_are_those_of_the_training_part_alone():
    data = prepared(val_split=0.5, seed=3)
    assert (data.preprocess.mean, data.preprocess.std) == channel_statistics(data.train.images)
    assert data.preprocess.mean != channel_statistics(data.source.splits["train"].images)[0]


def test_the_fingerprint_is_stable_and_changes_with_one_pixel():
    data = prepared(val_split=0)
    images = data.train.images.clone()
    images[7, 0, 0, 0] = 200
    changed = replace(data.source, splits={"train": ArraySplit(images, data.train.targets)})
    prints = [prepare(source, data.options).train.fingerprint() for source in (data.source, changed)]
    assert prints[0] == data.describe()["fingerprint"] == prepared(val_split=0).train.fingerprint()
    assert prints[1] != prints[0]


def test_the_sources_own_validation_split_is_used_whole(make_folder):
    data = prepared(make_folder({"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 2}), val_split=0.5)
    assert (len(data.train), len(data.val), data.test) == (8, 3, None)


def test_targets_of_other_kinds_are_split_at_random(make_folder):
    source = find_source(DataOptions(name=str(make_folder({"a": 10}))))
    split = source.splits["train"]
    described = replace(source, splits={"train": EncodedSplit(split.items, split.names, [{}] * 10, 3)})
    data = prepare(described, DataOptions(val_split=0.3))
    assert (len(data.train), len(data.val), data.is_streamed) == (7, 3, True)


# ---- memory and sizes


def test_small_images_of_one_size_are_packed_and_photographs_streamed(make_folder):
    small = prepared(make_folder({"a": 2, "b": 2}, side=64), val_split=0)
    assert (small.is_streamed, small.options.augment, size_of(small.preprocess)) == (False, "crop_flip", (64, 64, None))
    large = prepared(make_folder({"a": 2, "b": 2}, side=65, root="large"), val_split=0)
    assert (large.is_streamed, large.options.augment) == (True, "resized_crop_flip")
    assert (size_of(large.preprocess), shorter_side(large.train)) == ((224, 224, 256), 65)
    assert 0 < large.decoding_s() < 10


@pytest.mark.parametrize("val_side", [80, 9])
def test_small_images_of_several_sizes_are_all_streamed(make_folder, noise, val_side):
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 0, "val/b": 0})
    for name in "ab":
        noise(1, width=val_side, height=val_side).save(root / "val" / name / "1.png")
    data = prepared(root)
    assert all(isinstance(split, EncodedSplit) for split in (data.train, data.val))
    assert next(data.loader(data.val, batch_size=2).batches())[0].shape == (2, 3, 224, 224)
    noise(9, width=9).save(root / "train" / "b" / "9.png")
    assert size_of(prepared(root).preprocess) == (224, 224, 256)


@pytest.mark.parametrize("side", [8, 80])
def test_image_size_resizes_whatever_the_size_was(make_folder, side):
    data = prepared(make_folder({"a": 3, "b": 3}, side=side), val_split=0, image_size=16)
    images, _ = next(data.loader(data.train, batch_size=6, training=True).batches())
    assert images.shape == (6, 3, 16, 16)
    assert (data.is_streamed, size_of(data.preprocess)) == (False, (16, 16, 16))


def test_image_size_resizes_data_in_memory():
    data = prepared(image_size=12)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (1, 12, 12)
    assert data.preprocess.resize == 12


def test_another_size_in_evaluation(make_folder):
    data = prepared(make_folder({"a": 4, "b": 4}, side=80), val_split=2, image_size=70, eval_size=84)
    assert size_of(data.eval_preprocess) == (84, 84, 96)
    assert next(data.loader(data.val, batch_size=2).batches())[0].shape == (2, 3, 84, 84)
    assert next(data.loader(data.train, batch_size=2, training=True).batches())[0].shape == (2, 3, 70, 70)


def test_a_recorded_preprocessing_is_used_again_and_not_computed_anew(make_folder):
    recorded = Preprocess(12, 12, 3, (0.1,) * 3, (0.9,) * 3, resize=14)
    data = prepared(make_folder({"a": 3, "b": 3}), val_split=0, preprocess=recorded)
    assert data.preprocess is recorded
    served = next(data.loader(data.train, batch_size=6).batches())[0]
    wanted = fit_for_prediction(data.source.splits["train"].items[0], recorded, name="x")[0]
    assert torch.equal(served[0], wanted)


@pytest.mark.parametrize("side", [9, 80])
def test_images_of_another_size_than_a_network_takes_as_they_are_are_refused(make_folder, side):
    words = r"takes images of 3x8x8 as they are; .* has (3x9x9|photographs).*image-size"
    with pytest.raises(RequestError, match=words):
        prepared(make_folder({"a": 1, "b": 1}, side=side), preprocess=Preprocess(8, 8, 3, (0.5,) * 3, (0.5,) * 3))


def test_a_broken_photograph_stops_before_training(make_folder):
    root = make_folder({"a": 3, "b": 3}, side=80)
    content = (root / "b" / "1.png").read_bytes()
    (root / "b" / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=r"Can't read the image .*b/1\.png"):
        prepared(root, val_split=0)


@pytest.mark.parametrize(
    ("side", "image_size"), [(8, 0), (8, 12), (80, 0), (80, 70)], ids=["as is", "resized", "photo", "photo 70"]
)
def test_predict_sees_the_tensor_that_the_loader_serves(make_folder, side, image_size):
    data = prepared(make_folder({"a": 4, "b": 4}, side=side), val_split=0, image_size=image_size)
    paths = sorted(make_folder({"a": 4, "b": 4}, side=side, root="again").rglob("*.png"))
    served = torch.cat([images for images, _ in data.loader(data.train, batch_size=3).batches()])
    assert data.is_streamed == (side == 80)
    for path, tensor in zip(paths, served, strict=True):
        predicted, note = fit_for_prediction(path, data.preprocess, name=str(path))
        assert torch.equal(predicted, tensor)
        assert note == ""


def test_thumbnails_are_kept_in_the_users_cache(make_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = prepared(make_folder({"a": 4, "b": 4}, side=80), val_split=0, image_size=70, cache_mib=1)
    assert data.describe()["thumbnails"].startswith("All 8 photographs are kept as thumbnails")
    assert data.notes == [*data.source.notes, data.describe()["thumbnails"]]
    assert len(list((tmp_path / "cache" / "reslab").glob("thumbnails-*.bin"))) == 1
    first = list(data.loader(data.train, batch_size=4, training=True).batches())
    for path in data.train.items:
        path.unlink()  # nothing is read from the photographs any more
    again = list(data.loader(data.train, batch_size=4, training=True).batches())
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))


# ---- options and classes


@pytest.mark.parametrize(
    ("side", "options", "words"),
    [
        (8, {"augment": "resized_crop_flip", "max_shift": 3}, "max_shift is for augment crop and crop_flip, not resiz"),
        (8, {"augment": "crop", "alternate_flip": True}, "replaces the random flip, and augment 'crop' has none"),
        (65, {"alternate_flip": True}, "alternate_flip is for small images kept in memory"),
        (8, {"eval_size": 16}, "eval_size is for photographs; these images stay 8 pixels high"),
        (8, {"cache_mib": 1}, "these small images are kept in memory anyway"),
        (65, {"cache_mib": 1, "augment": "crop"}, "random crops of photographs, augment resized_crop_flip, not crop"),
    ],
)
def test_options_that_do_not_go_together_are_refused(make_folder, side, options, words):
    with pytest.raises(RequestError, match=f"{words}.*Leave it out"):
        prepared(make_folder({"a": 2, "b": 2}, side=side), val_split=0, **options)


def test_mixing_needs_class_labels(make_folder):
    source = find_source(DataOptions(name=str(make_folder({"a": 2}))))
    split = source.splits["train"]
    masked = replace(source, splits={"train": EncodedSplit(split.items, split.names, [{}, {}], 3)})
    with pytest.raises(RequestError, match="mix class labels, and these targets are of another kind"):
        prepare(masked, DataOptions(val_split=0, mixup=0.2))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"augment": "crop_flop"}, "Did you mean 'crop_flip'"), ({"policy_magnitude": 31}, "must be at most 30, got 31"),
     ({"erasing": 1.5}, "erasing must be at most 1"), ({"chanels": 3}, "Did you mean 'channels'")],
)  # fmt: skip
def test_wrong_values_are_refused_where_options_are_made(options, words):
    with pytest.raises(RequestError, match=words):
        DataOptions(**options)


def test_every_option_says_what_it_does():
    assert all(option.help for option in options_of(DataOptions).values())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["a", "b", "c"], r"birds has other classes than the run was trained on: 2 and 3 classes\."),
        (["a", "c"], r"class 1 is 'b' in the run and 'c' here"),
        (["b", "a"], r"class 0 is 'a' in the run and 'b' here"),
    ],
)
def test_other_classes_are_named(found, words):
    check_classes(["a", "b"], ["a", "b"], where="birds")
    with pytest.raises(RequestError, match=words):
        check_classes(["a", "b"], found, where="birds")


# ---- imports

EVALUATE = """
import sys
import reslab.data
assert "torch" not in sys.modules
from reslab.data import DataOptions
assert "torch" not in sys.modules
from reslab.data import find_source, prepare
from reslab.data.preprocess import fit_for_prediction
options = DataOptions(name="{root}", image_size=70, val_split=2)
data = prepare(find_source(options), options)
for split in (data.train, data.val):
    list(data.loader(split, batch_size=4, workers={workers}).batches())
fit_for_prediction(data.train.items[0], data.preprocess, name="x")
digits = prepare(find_source(DataOptions(augment="crop_flip", mixup=0.2)), DataOptions(augment="crop_flip", mixup=0.2))
next(digits.loader(digits.train, batch_size=8, training=True).batches())
assert "torchvision" not in sys.modules and "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_torchvision_is_imported_by_nothing_that_evaluates_or_predicts(make_folder, workers):
    root = make_folder({"a": 4, "b": 4}, side=80)
    code = EVALUATE.format(root=root, workers=workers)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_public_names_are_found_and_others_are_not():
    assert all(getattr(reslab.data, name) is not None for name in reslab.data.__all__)
    assert dir(reslab.data) == sorted(reslab.data.__all__)
    with pytest.raises(AttributeError, match="it has"):
        _ = reslab.data.Place


# ---- real data


def test_real_photographs_are_resized_and_normalised(real_data):
    data = prepared(real_data / "hymenoptera")
    assert (len(data.train), len(data.val), data.preprocess.resize) == (64, 44, 256)
    images, _ = next(data.loader(data.val, batch_size=8).batches())
    assert images.shape == (8, 3, 224, 224)
    assert 0.3 < np.mean(data.preprocess.mean) < 0.7


@pytest.mark.slow
def test_real_cifar10(real_data):
    """The channel means of the README, over all training images; 45,000 and 5,000 by class for training."""
    options = DataOptions(name="cifar10", dir=str(real_data), val_split=0)
    source = find_source(options)
    assert source.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    whole = prepare(source, options)
    assert whole.preprocess.mean == pytest.approx((0.49139968, 0.48215841, 0.44653091), abs=1e-6)
    assert whole.preprocess.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
    data = prepare(replace(source, splits={"train": whole.train, "test": whole.test}), DataOptions(val_split=0.1))
    assert torch.bincount(data.train.targets).tolist() == [4500] * 10
    assert torch.bincount(data.val.targets).tolist() == [500] * 10
    assert (data.train.images.shape[1:], len(data.test), data.options.augment) == ((3, 32, 32), 10_000, "crop_flip")
