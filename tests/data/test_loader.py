"""Loaders: an order that follows from seed, epoch and position alone, and the same tensors on every path."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from reslab.data import Data, DataOptions, Preprocess, Source
from reslab.data._augment import derive_seed
from reslab.data.loader import DecodedSamples, Order
from reslab.data.splits import ArraySplit, EncodedSplit
from reslab.distributed import Ranks
from reslab.errors import RequestError

NUM_SAMPLES = 23
PREPROCESS = Preprocess(8, 8, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
RANDOM = {"augment": "crop_flip", "policy": "trivial_augment", "erasing": 0.5, "mixup": 0.2}


def array_split() -> ArraySplit:
    images = torch.randint(256, (NUM_SAMPLES, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ArraySplit(images, torch.arange(NUM_SAMPLES))


@pytest.fixture
def encoded_split(make_folder) -> EncodedSplit:
    paths = sorted(make_folder({"a": NUM_SAMPLES}).rglob("*.png"))
    return EncodedSplit(paths, [str(path) for path in paths], torch.arange(NUM_SAMPLES), 3)


@pytest.fixture(params=["memory", "stream"])
def split(request, encoded_split):
    """23 images whose labels are their numbers."""
    return array_split() if request.param == "memory" else encoded_split


def make(split, options=None, *, batch_size=5, preprocess=PREPROCESS, **how):
    """The loader of prepared data with this split only."""
    source = Source("x", "", [str(number) for number in range(NUM_SAMPLES)], {"train": split}, "none")
    data = Data(source, split, None, None, preprocess, DataOptions(**{"augment": "none"} | (options or {})))
    return data.loader(split, batch_size=batch_size, **how)


def same(first, second) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


def labels_of(batches) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


# ---- order


@pytest.mark.parametrize("options", [{}, {"augment": "crop_flip"}, RANDOM])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_second_pass_a_second_loader_and_a_later_start_give_the_same_batches(split, start, options):
    first, second = (make(split, options, training=True, seed=7) for _ in range(2))
    before = torch.get_rng_state()
    batches = list(first.batches(2))
    assert same(batches, first.batches(2))
    assert same(batches[start:], second.batches(2, start=start))
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_and_seeds_differ_in_order_and_in_augmentation(split):
    loader, other = (make(split, {"augment": "crop_flip"}, training=True, seed=seed) for seed in (0, 1))
    orders = [labels_of(loader.batches(0)), labels_of(loader.batches(1)), labels_of(other.batches(0))]
    assert len({tuple(order) for order in orders}) == 3
    by_label = [
        {int(n): image for images, labels in loader.batches(epoch) for image, n in zip(images, labels, strict=True)}
        for epoch in (0, 1)
    ]
    common = by_label[0].keys() & by_label[1].keys()
    assert any(not torch.equal(by_label[0][n], by_label[1][n]) for n in common)


def test_training_drops_the_short_last_batch_but_over_epochs_no_image(split):
    loader = make(split, training=True)
    epochs = [list(loader.batches(epoch)) for epoch in range(8)]
    assert (len(loader), len(epochs[0]), loader.batch_size) == (4, 4, 5)
    assert {len(labels) for _, labels in epochs[0]} == {5}
    assert len(set(labels_of(epochs[0]))) == 20
    assert {label for batches in epochs for label in labels_of(batches)} == set(range(NUM_SAMPLES))


def test_one_short_batch_is_kept_in_training(split):
    loader = make(split, training=True, batch_size=100)
    assert [len(labels) for _, labels in loader.batches()] == [NUM_SAMPLES]


def test_evaluation_has_every_image_once_in_order_and_as_it_is(split):
    loader = make(split, RANDOM)
    batches = list(loader.batches())
    assert len(loader) == 5
    assert labels_of(batches) == list(range(NUM_SAMPLES))
    images, labels = batches[0]
    assert (images.shape, images.dtype, labels.dtype) == ((5, 3, 8, 8), torch.float32, torch.int64)
    assert same(batches, make(split).batches())


def test_derived_seeds_differ_and_fit_torch():
    seeds = {derive_seed(*parts) for parts in ((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**62, 5))}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


# ---- several processes


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("options", [{"augment": "crop_flip"}, RANDOM])
def test_processes_share_every_batch_in_memory_and_nothing_changes(world, options):
    how = {"training": True, "seed": 2, "batch_size": 6}
    whole = list(make(array_split(), options, **how).batches(1))
    parts = [list(make(array_split(), options, **how, ranks=Ranks(rank, world)).batches(1)) for rank in range(world)]
    shared = [tuple(torch.cat([part[index][i] for part in parts]) for i in range(2)) for index in range(len(whole))]
    assert same(whole, shared)


def test_processes_share_streamed_batches(encoded_split):
    how = {"training": True, "seed": 2, "batch_size": 6, "options": {"augment": "crop_flip"}}
    parts = [list(make(encoded_split, **how, ranks=Ranks(rank, 3)).batches(1)) for rank in range(3)]
    shared = [tuple(torch.cat([part[index][i] for part in parts]) for i in range(2)) for index in range(3)]
    assert same(make(encoded_split, **how).batches(1), shared)


def test_evaluation_is_shared_without_a_rest_left_over(split):
    parts = [labels_of(make(split, ranks=Ranks(rank, 4)).batches()) for rank in range(4)]
    assert sorted(label for part in parts for label in part) == list(range(NUM_SAMPLES))


def test_a_batch_that_cant_be_shared_is_refused():
    with pytest.raises(RequestError, match=r"3 processes can't share a batch of 128 evenly.* such as 126"):
        Order(1000, 128, training=True, ranks=Ranks(0, 3))


# ---- workers


@pytest.mark.parametrize("options", [{}, {"augment": "crop_flip"}, {"augment": "resized_crop_flip"} | RANDOM])
def test_workers_change_nothing(encoded_split, options):
    here, there = (make(encoded_split, options, training=True, seed=4, workers=workers) for workers in (0, 2))
    before = torch.get_rng_state()
    for epoch, start in ((0, 0), (1, 0), (1, 2)):  # the workers stay alive between epochs
        assert same(here.batches(epoch, start=start), there.batches(epoch, start=start))
    assert torch.equal(torch.get_rng_state(), before)


# torch takes 5 s to end a worker that has raised
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_broken_image_is_named_in_one_sentence(encoded_split, workers):
    path = encoded_split.items[4]
    path.write_bytes(b"broken")
    with pytest.raises(RequestError) as caught:
        list(make(encoded_split, workers=workers).batches())
    assert str(caught.value).startswith(f"Can't read the image {path}: the format is not recognised")
    assert "Traceback" not in str(caught.value)


# ---- photographs one by one


def decoded(image: Image.Image, preprocess: Preprocess, **options) -> DecodedSamples:
    """One photograph as workers read it, by way of a spawned one."""
    content = io.BytesIO()
    image.save(content, "PNG")
    split = EncodedSplit([content.getvalue()], ["x.png"], torch.zeros(1, dtype=torch.int64), preprocess.channels)
    return pickle.loads(pickle.dumps(DecodedSamples(split, preprocess, DataOptions(**options), seed=0)))


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip", "resized_crop_flip"])
@pytest.mark.parametrize("policy", ["none", "rand_augment", "trivial_augment", "aug_mix"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_photographs_become_levels_of_the_right_size(noise, augment, policy, mode):
    channels = len(mode) // 3 * 2 + 1
    preprocess = Preprocess(16, 12, channels, mean=(0.5,) * channels, std=(1.0,) * channels, resize=20)
    photograph = noise(0, width=40, height=30, mode=mode)
    found, _ = decoded(photograph, preprocess, augment=augment, policy=policy, colour_jitter=0.4)[0, 0]
    assert (type(found), found.shape, found.dtype) == (torch.Tensor, (channels, 16, 12), torch.uint8)
    plain = decoded(photograph, preprocess, augment="none")[0, 0][0]
    assert torch.equal(plain, preprocess.fit(photograph))


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({"policy": "rand_augment", "policy_ops": 3, "policy_magnitude": 20}, v2.RandAugment(3, 20)),
        ({"policy": "trivial_augment"}, v2.TrivialAugmentWide()),
        ({"policy": "aug_mix"}, v2.AugMix()),
    ],
)
def test_photographs_go_through_torchvisions_transforms_in_the_usual_order(noise, options, policy):
    photograph = noise(0, width=40, height=30)
    crop = v2.RandomResizedCrop(16, (0.2, 1))
    theirs = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3), policy])
    ours = decoded(
        photograph,
        Preprocess(16, 16, 3, (0.5,) * 3, (1.0,) * 3),
        augment="resized_crop_flip",
        min_crop_area=0.2,
        colour_jitter=0.3,
        **options,
    )
    for epoch in range(20):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_seed(0, epoch, 0))
            assert torch.equal(ours[epoch, 0][0], theirs(v2.functional.pil_to_tensor(photograph)))


def test_shifted_photographs_are_filled_with_the_rounded_mean():
    preprocess = Preprocess(16, 16, 3, mean=(0.5, 0.4, 0.3), std=(1.0,) * 3)
    black = decoded(Image.new("RGB", (16, 16)), preprocess, augment="crop")
    corners = {tuple(black[epoch, 0][0][:, 0, 0].tolist()) for epoch in range(40)}
    assert corners == {(0, 0, 0), (128, 102, 76)}


# ---- targets that aren't class numbers


def masked_split(num: int, *, side: int = 40) -> EncodedSplit:
    """Photographs of a bright rectangle, with its mask and its box as targets."""
    contents, targets = [], []
    for number in range(num):
        mask = np.zeros((side, side + number), np.uint8)
        mask[6 : 20 + number, 8:30] = 1
        image = io.BytesIO()
        Image.fromarray(255 * mask).convert("RGB").save(image, "PNG")
        contents.append(image.getvalue())
        box = tv_tensors.BoundingBoxes([[8, 6, 30, 20 + number]], format="XYXY", canvas_size=mask.shape)
        targets.append({"mask": tv_tensors.Mask(torch.from_numpy(mask)), "boxes": box, "number": number})
    return EncodedSplit(contents, list(map(str, range(num))), targets, 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["none", "crop_flip", "resized_crop_flip"])
def test_masks_and_boxes_are_cropped_and_flipped_with_their_image(augment, workers):
    preprocess = Preprocess(32, 32, 3, mean=(0.5,) * 3, std=(0.5,) * 3, resize=36)
    loader = make(
        masked_split(6),
        {"augment": augment},
        batch_size=3,
        preprocess=preprocess,
        training=True,
        workers=workers,
        collate=lambda inputs, targets: {"inputs": inputs, "targets": targets},
    )
    seen = []
    for batch in (batch for epoch in range(2) for batch in loader.batches(epoch)):
        assert batch["inputs"].shape == (3, 3, 32, 32)
        for image, target in zip(batch["inputs"], batch["targets"], strict=True):
            assert ((image[0] > 0.5) == target["mask"].bool()).float().mean() > 0.9  # resized by different filters
            rows, columns = target["mask"].bool().any(1).nonzero(), target["mask"].bool().any(0).nonzero()
            left, top, right, bottom = target["boxes"].clamp(0, 32)[0].tolist()
            if len(rows):
                assert torch.allclose(rows[[0, -1], 0].float(), torch.tensor([top, bottom - 1.0]), atol=1.5)
                assert torch.allclose(columns[[0, -1], 0].float(), torch.tensor([left, right - 1.0]), atol=1.5)
            assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
            seen.append(target["number"])
    assert sorted(seen) == sorted([*range(6)] * 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cant_be_stacked_stays_a_list(workers):
    as_they_are = Preprocess(1, 1, 3, mean=(0.5,) * 3, std=(0.5,) * 3)
    images, targets = next(make(masked_split(3), batch_size=3, preprocess=as_they_are, workers=workers).batches())
    assert [image.shape for image in images] == [(3, 40, 40), (3, 40, 41), (3, 40, 42)]
    assert all(image.dtype == torch.float32 for image in images)
    assert [target["mask"].shape for target in targets] == [(40, 40), (40, 41), (40, 42)]
