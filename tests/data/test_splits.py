"""Splits in memory and encoded, and the stratified validation split."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from reslab.data.splits import ArraySplit, EncodedSplit, stratified_split
from reslab.errors import RequestError

CLASSES = ["ant", "bee", "cat", "dog", "eel"]


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(20, 60), min_size=1, max_size=5),
    val_split=st.one_of(st.floats(0.1, 0.9), st.integers(15, 19)),
    seed=st.integers(0, 2**32),
    order=st.randoms(use_true_random=False),
)
def test_it_is_a_partition_with_the_fraction_of_each_class(counts, val_split, seed, order):
    values = [index for index, count in enumerate(counts) for _ in range(count)]
    order.shuffle(values)
    labels = torch.tensor(values)
    total = round(val_split * len(labels)) if val_split < 1 else val_split
    train, val = stratified_split(labels, val_split, seed=seed, classes=CLASSES[: len(counts)])
    assert len(val) == total
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())
    for index, count in enumerate(counts):
        found = int((labels[val] == index).sum())
        assert abs(found - Fraction(count * total, len(labels))) < 1
    again = stratified_split(labels, val_split, seed=seed, classes=CLASSES[: len(counts)])
    assert all(torch.equal(a, b) for a, b in zip((train, val), again, strict=True))


def test_another_seed_draws_another_split():
    labels = torch.arange(200) % 4
    first, second = (stratified_split(labels, 0.5, seed=seed, classes=CLASSES[:4])[1] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_every_image_is_equally_likely_to_be_drawn():
    labels = torch.arange(20) % 2
    drawn = torch.zeros(20)
    for seed in range(400):
        drawn[stratified_split(labels, 0.5, seed=seed, classes=CLASSES[:2])[1]] += 1
    assert drawn.min() > 150  # 200 expected, deviation 10
    assert drawn.max() < 250


def test_a_count_is_split_among_the_classes():
    labels = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    _, val = stratified_split(labels, 20, seed=0, classes=["ant", "bee"])
    assert torch.bincount(labels[val]).tolist() == [18, 2]


@pytest.mark.parametrize(
    ("val_split", "words"),
    [
        (98, r"takes 10 of the 10 images of class 'bee'.*Choose a smaller one"),
        (5_000, r"of the 90 images of class 'ant'.*Choose a smaller one"),
        (0.001, r"takes 0 of the 90 images of class 'ant'.*Choose a larger one"),
        (2.5, r"a fraction in \(0, 1\) or a whole number of images, got 2\.5"),
    ],
)
def test_an_impossible_split_names_the_class_and_says_how_to_mend_it(val_split, words):
    labels = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    with pytest.raises(RequestError, match=words):
        stratified_split(labels, val_split, seed=0, classes=["ant", "bee"])


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_that_no_split_can_serve_is_named(count):
    labels = torch.tensor([0] * 50 + [1] * count)
    with pytest.raises(RequestError, match=rf"Class 'bee' has {count} training images.*val_split 0"):
        stratified_split(labels, 0.5, seed=0, classes=["ant", "bee"])


# ---- splits


def files(root) -> EncodedSplit:
    paths = sorted(root.rglob("*.png"))
    return EncodedSplit(paths, [path.name for path in paths], torch.arange(len(paths)), 3)


def test_a_split_in_memory():
    split = ArraySplit(torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2), torch.arange(6))
    part = split.subset(torch.tensor([4, 1]))
    assert (len(split), len(part), part.targets.tolist()) == (6, 2, [4, 1])
    assert torch.equal(part.images[0], split.images[4])


def test_its_fingerprint_changes_with_one_pixel_one_label_and_the_shape():
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    pixel = images.clone()
    pixel[1, 0, 3, 3] = 1
    prints = {
        ArraySplit(i, n).fingerprint()
        for i, n in ((images, labels), (pixel, labels), (images, labels.flip(0)), (images.view(2, 1, 2, 8), labels))
    }
    assert len(prints) == 4
    assert ArraySplit(images.clone(), labels.clone()).fingerprint() in prints


def test_channels_are_converted_as_pillow_does():
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = ArraySplit(images, torch.arange(5)).with_channels(1)
    pillow = [np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in images]
    assert np.array_equal(grey.images[:, 0], np.stack(pillow))
    assert np.array_equal(grey.with_channels(3).images, np.stack([np.stack(pillow)] * 3, axis=1))


def test_an_encoded_split_keeps_order_and_names(make_folder):
    split = files(make_folder({"a": 3}))
    part = split.subset(torch.tensor([2, 0]))
    assert (part.items, part.names) == ([split.items[2], split.items[0]], ["2.png", "0.png"])
    assert part.targets.tolist() == [2, 0]
    arrays = split.map(lambda image: np.array(image))
    assert all(np.array_equal(array, np.array(split.open(index))) for index, array in enumerate(arrays))
    assert len(split.map(lambda image: np.array(image), [1])) == 1


def test_map_names_the_image_that_fails(make_folder):
    split = files(make_folder({"a": 9}))
    split.items[5].write_bytes(split.items[5].read_bytes()[:60])
    with pytest.raises(RequestError, match=r"5\.png"):
        split.map(lambda image: np.array(image))


def test_the_fingerprint_of_files_follows_them_to_another_folder(make_folder):
    here, there = (files(make_folder({"a": 3}, root=root)) for root in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()
    there.items[0].write_bytes(there.items[0].read_bytes() + b"more")
    assert here.fingerprint() != there.fingerprint()


def test_the_fingerprint_of_bytes_is_that_of_their_content():
    prints = {
        EncodedSplit(items, names, torch.tensor([0, 1]), 3).fingerprint()
        for items, names in (([b"ab", b"cd"], ["x", "y"]), ([b"ab", b"ce"], ["x", "y"]), ([b"ab", b"cd"], ["p", "q"]))
    }
    assert len(prints) == 2


def test_targets_can_be_masks_and_boxes():
    def split(first, box) -> EncodedSplit:
        mask = tv_tensors.Mask(torch.tensor([[first, 0], [1, 1]], dtype=torch.uint8))
        boxes = tv_tensors.BoundingBoxes([box], format="XYXY", canvas_size=(2, 2))
        return EncodedSplit([b"ab", b"cd"], ["x", "y"], [mask, {"boxes": boxes, "labels": torch.tensor([3])}], 3)

    first = split(0, [0, 0, 1, 1])
    prints = {one.fingerprint() for one in (first, split(1, [0, 0, 1, 1]), split(0, [0, 0, 1, 2]))}
    assert len(prints) == 3
    assert split(0, [0, 0, 1, 1]).fingerprint() in prints
    part = first.subset(torch.tensor([1]))
    assert (len(part), part.targets[0]["labels"].tolist()) == (1, [3])
