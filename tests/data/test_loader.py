"""Loaders: an order that follows from seed, epoch and position alone, and the same tensors on every path."""

from __future__ import annotations

import pickle

import pytest
import torch

from reslab.data.augment.options import Augmentation
from reslab.data.augment.pipeline import BatchAugment
from reslab.data.decoding import DecodedSplit, derive_seed
from reslab.data.loader import MemoryLoader, Order, StreamLoader, make_loader
from reslab.data.prepare import fit_for_prediction, prepare
from reslab.data.sources import find_source
from reslab.data.splits import ArraySplit, EncodedSplit
from reslab.data.transforms import Preprocess
from reslab.errors import RequestError

NUM_SAMPLES = 23
PREPROCESS = Preprocess(8, 8, 3, mean=(0.5,) * 3, std=(0.25,) * 3)


def array_split() -> ArraySplit:
    images = torch.randint(256, (NUM_SAMPLES, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ArraySplit(images, torch.arange(NUM_SAMPLES))


@pytest.fixture
def encoded_split(make_folder) -> EncodedSplit:
    paths = sorted(make_folder({"a": NUM_SAMPLES}).rglob("*.png"))
    return EncodedSplit(paths, [str(path) for path in paths], torch.arange(NUM_SAMPLES), 3)


@pytest.fixture(params=["memory", "stream"])
def make(request, encoded_split):
    """``make(**options)`` -> a loader over 23 images whose labels are their numbers."""
    split, loader = (array_split(), MemoryLoader) if request.param == "memory" else (encoded_split, stream)
    return lambda **options: loader(split, *how(**options))


def how(*, augment="none", batch_size=5, **options) -> tuple[BatchAugment, Order]:
    """Augmentation and order, by words."""
    return BatchAugment(PREPROCESS, Augmentation(augment), num_classes=10), Order(NUM_SAMPLES, batch_size, **options)


def stream(split, augment, order) -> StreamLoader:
    return StreamLoader(split, augment, order, workers=0)


def same(first, second) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


def labels_of(batches) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_later_start_gives_the_tail(make, start, augment):
    loader = make(training=True, augment=augment, seed=7)
    assert same(list(loader.batches(2))[start:], loader.batches(2, start=start))


def test_a_second_pass_and_a_second_loader_give_the_same_batches(make):
    first, second = (make(training=True, augment="crop_flip", seed=3) for _ in range(2))
    assert same(first.batches(1), first.batches(1))
    assert same(first.batches(1), second.batches(1))


def test_epochs_and_seeds_differ_in_order_and_in_augmentation(make):
    loader, other = make(training=True, augment="crop_flip"), make(training=True, augment="crop_flip", seed=1)
    orders = [labels_of(loader.batches(0)), labels_of(loader.batches(1)), labels_of(other.batches(0))]
    assert len({tuple(order) for order in orders}) == 3
    by_label = [
        {int(n): image for images, labels in loader.batches(epoch) for image, n in zip(images, labels, strict=True)}
        for epoch in (0, 1)
    ]
    common = by_label[0].keys() & by_label[1].keys()
    assert any(not torch.equal(by_label[0][n], by_label[1][n]) for n in common)


def test_training_drops_the_short_last_batch_and_repeats_nothing(make):
    loader = make(training=True)
    batches = list(loader.batches(0))
    assert (len(loader), len(batches)) == (4, 4)
    assert {len(labels) for _, labels in batches} == {5}
    assert len(set(labels_of(batches))) == 20


def test_over_epochs_training_leaves_no_image_out(make):
    loader = make(training=True)
    assert {label for epoch in range(8) for label in labels_of(loader.batches(epoch))} == set(range(NUM_SAMPLES))


def test_evaluation_has_every_image_once_in_order(make):
    loader = make()
    assert len(loader) == 5
    assert labels_of(loader.batches()) == list(range(NUM_SAMPLES))


def test_one_short_batch_is_kept_in_training(make):
    loader = make(training=True, batch_size=100)
    assert [len(labels) for _, labels in loader.batches()] == [NUM_SAMPLES]


def test_types_and_shapes(make):
    images, labels = next(iter(make().batches()))
    assert (images.shape, images.dtype, labels.dtype) == ((5, 3, 8, 8), torch.float32, torch.int64)


def test_torchs_global_generator_is_not_touched(make):
    loader, before = make(training=True, augment="crop_flip"), torch.get_rng_state()
    list(loader.batches(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", ["none", "crop_flip", "resized_crop_flip"])
def test_workers_change_nothing(encoded_split, augment):
    options = how(augment=augment, training=True, seed=4)
    here, there = (StreamLoader(encoded_split, *options, workers=workers) for workers in (0, 2))
    before = torch.get_rng_state()
    for epoch, start in ((0, 0), (1, 0), (1, 2)):  # the workers stay alive between epochs
        assert same(here.batches(epoch, start=start), there.batches(epoch, start=start))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_dataset_can_be_sent_to_a_spawned_worker(encoded_split):
    dataset = DecodedSplit(encoded_split, PREPROCESS, Augmentation("resized_crop_flip"), seed=0)
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(sent[0, 3][0], dataset[0, 3][0])


# torch takes 5 s to end a worker that has raised
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_broken_image_is_named_in_one_sentence(encoded_split, workers):
    path = encoded_split.items[4]
    path.write_bytes(b"broken")
    loader = StreamLoader(encoded_split, *how(), workers=workers)
    with pytest.raises(RequestError) as caught:
        list(loader.batches())
    assert str(caught.value).startswith(f"Can't read the image {path}: the format is not recognised")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch_and_nothing_changes(make, world):
    options = {"training": True, "augment": "crop_flip", "seed": 2, "batch_size": 6}
    whole = list(make(**options).batches(1))
    parts = [list(make(**options, rank=rank, world=world).batches(1)) for rank in range(world)]
    for index, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[index][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[index][1] for part in parts]), labels)


def test_evaluation_is_shared_without_a_rest_left_over(make):
    parts = [labels_of(make(rank=rank, world=4).batches()) for rank in range(4)]
    assert sorted(label for part in parts for label in part) == list(range(NUM_SAMPLES))


def test_a_batch_that_cant_be_shared_is_refused():
    with pytest.raises(RequestError, match=r"3 processes can't share a batch of 128 evenly.* such as 126"):
        Order(1000, 128, training=True, world=3)


def test_make_loader_takes_what_suits_the_split(encoded_split):
    assert isinstance(make_loader(array_split(), *how()), MemoryLoader)
    assert isinstance(make_loader(encoded_split, *how()), StreamLoader)


def test_derived_seeds_differ_and_fit_torch():
    seeds = {derive_seed(*parts) for parts in ((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**62, 5))}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("side", "image_size"), [(8, None), (8, 12), (80, None), (80, 70)], ids=["as is", "resized", "photo", "photo 70"]
)
def test_predict_sees_the_tensor_that_the_loader_serves(make_folder, side, image_size):
    data = prepare(find_source(str(make_folder({"a": 4, "b": 4}, side=side))), val_split=0, image_size=image_size)
    paths = sorted(make_folder({"a": 4, "b": 4}, side=side, root="again").rglob("*.png"))
    served = torch.cat([images for images, _ in data.loader(data.train, batch_size=3).batches()])
    assert isinstance(data.train, ArraySplit) == (side == 8)
    for path, tensor in zip(paths, served, strict=True):
        predicted, note = fit_for_prediction(path, data.preprocess, name=str(path))
        assert torch.equal(predicted, tensor)
        assert note == ""
