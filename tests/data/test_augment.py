"""Augmentation of batches: the pixels that every run relies on, and the distributions of torchvision's transforms.

Seeds are fixed, so that a test either always passes or never. A p-value below 0.001 fails.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta, chi2_contingency, chisquare, ks_2samp, kstest
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from reslab.data import DataOptions, Preprocess, _augment
from reslab.data._augment import BatchAugment, alternating_flips, derive_seed, draw_crops, draw_cuts, draw_rectangles

NUMBER = 3000
MIN_PVALUE = 0.001
EVERYTHING = [
    DataOptions(augment="none"),
    DataOptions(augment="crop"),
    DataOptions(augment="crop_flip", erasing=0.5),
    DataOptions(augment="crop_flip", policy="rand_augment"),
    DataOptions(augment="resized_crop_flip", policy="trivial_augment", colour_jitter=0.4, erasing=0.5),
    DataOptions(augment="resized_crop_flip", alternate_flip=True),
    DataOptions(augment="none", policy="aug_mix"),
]


@pytest.fixture(autouse=True)
def own_randomness():
    """torchvision draws from the global generator."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(20)
        yield


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(channels: int, side: int) -> Tensor:
    """Digits, noise, a ramp, few levels, and one level: uint8 (8, channels, side, side)."""
    digits = torch.from_numpy(load_digits().images[: 3 * channels]).float().view(3, channels, 8, 8) * (255 / 16)
    noise = torch.randint(256, (2, channels, side, side), generator=generator(side))
    ramp = torch.arange(channels * side * side).view(1, channels, side, side) * 200 // (channels * side * side) + 20
    few = torch.randint(2, (1, channels, side, side), generator=generator(side + 1)) * 90 + 77
    flat = torch.full((1, channels, side, side), 131)
    return torch.cat([F.interpolate(digits, side, mode="bilinear"), noise, ramp, few, flat]).to(torch.uint8)


def preprocess(channels: int = 3, side: int = 16) -> Preprocess:
    return Preprocess(side, side, channels, mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.3, 0.4)[:channels])


def run(options: DataOptions, images: Tensor, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
    augment = BatchAugment(preprocess(images.shape[1], images.shape[3]), options, num_classes=10, seed=seed)
    numbers = torch.arange(len(images))
    return augment(images, numbers % 10, numbers + 5, generator=generator(seed), epoch=epoch)


# ---- the whole of it


@pytest.mark.parametrize(("channels", "side", "shift"), [(1, 8, 0), (3, 32, 0), (1, 28, 0), (3, 16, 5)])
@pytest.mark.parametrize("kind", ["none", "crop", "crop_flip"])
def test_crop_and_flip_give_the_bits_that_the_golden_run_was_stored_with(kind, channels, side, shift):
    images, draw = pictures(channels, side), generator(3)
    found, labels = run(DataOptions(augment=kind, max_shift=0 if kind == "none" else shift), images, seed=3)
    wanted, padding = preprocess(channels, side).normalise(images), shift or max(1, side // 8)
    if kind != "none":
        windows = F.pad(wanted, (padding,) * 4).unfold(2, side, 1).unfold(3, side, 1)
        down, right = torch.randint(2 * padding + 1, (2, 8), generator=draw)
        wanted = windows[torch.arange(8), :, down, right]
    if kind == "crop_flip":
        mirrored = torch.rand(8, generator=draw) < 0.5
        wanted = torch.where(mirrored.view(-1, 1, 1, 1), wanted.flip(-1), wanted)
    assert torch.equal(found, wanted)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("options", EVERYTHING)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_seed_gives_one_batch_and_the_global_generator_is_left_alone(options, channels):
    images, before = pictures(channels, 16), torch.get_rng_state()
    untouched = images.clone()
    first, again, other = (run(options, images, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first.shape, first.dtype) == (images.shape, torch.float32)
    assert torch.equal(images, untouched)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, other) == (options == EVERYTHING[0])


@pytest.mark.parametrize("options", EVERYTHING)
def test_an_image_does_not_depend_on_its_neighbours(options):
    images = pictures(3, 16)
    changed = images.clone()
    changed[3] = 255 - images[3]
    same = (run(options, images)[0] == run(options, changed)[0]).flatten(1).all(1)
    assert same.tolist() == [number != 3 for number in range(8)]


@pytest.mark.parametrize("options", [*EVERYTHING[1:], DataOptions(augment="none", colour_jitter=0.4)])
def test_images_of_one_batch_are_augmented_differently(options):
    copies = pictures(3, 16)[:1].repeat(64, 1, 1, 1)
    assert len(run(options, copies)[0].unique(dim=0)) > 20


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"policy": "rand_augment", "policy_ops": 3, "policy_magnitude": 20}, [v2.RandAugment(3, 20)]),
        ({"policy": "trivial_augment", "colour_jitter": 0.3}, [v2.ColorJitter(*[0.3] * 3), v2.TrivialAugmentWide()]),
        ({"policy": "aug_mix"}, [v2.AugMix()]),
    ],
)
def test_policies_are_torchvisions_drawn_by_seed_epoch_and_image(options, theirs):
    images = pictures(3, 16)
    found = run(DataOptions(augment="none", **options), images, seed=4, epoch=2)[0]
    for number, image in enumerate(images):
        torch.manual_seed(derive_seed(4, 2, number + 5))
        assert torch.equal(found[number], preprocess().normalise(v2.Compose(theirs)(image)))


def test_crops_before_a_policy_are_filled_with_the_rounded_mean():
    black = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    corner = run(DataOptions(augment="crop", colour_jitter=1e-9), black)[0][:, :, 0, 0].unique(dim=0)
    levels = torch.tensor([[0, 0, 0], [128, 102, 76]], dtype=torch.uint8).view(2, 3, 1, 1)  # 255 times 0.5, 0.4, 0.3
    # A jitter of next to nothing may take a level off what isn't black.
    assert torch.allclose(corner, preprocess().normalise(levels).view(2, 3), atol=1.01 / 255 / 0.2)


def test_finishing_a_batch_is_the_last_part_of_it_and_takes_lists():
    options, images, labels = DataOptions(augment="none", erasing=0.7, cutmix=1.0), pictures(3, 16), torch.arange(8)
    finish = BatchAugment(preprocess(), options, num_classes=10).finish
    wanted, found = run(options, images, seed=4), finish(images, labels, generator=generator(4))
    assert torch.equal(wanted[0], found[0])
    assert torch.equal(wanted[1], found[1])
    sizes = [images[0], images[1, :, :5]]
    found, targets = BatchAugment(preprocess(), EVERYTHING[0], num_classes=10).finish(
        sizes, ["a", "b"], generator=generator()
    )
    assert targets == ["a", "b"]
    assert all(torch.equal(one, preprocess().normalise(two)) for one, two in zip(found, sizes, strict=True))


def test_erasing_puts_the_mean_which_is_zero():
    images = preprocess().normalise(pictures(3, 16))
    erased, _ = run(DataOptions(augment="none", erasing=1.0), pictures(3, 16))
    changed = (erased != images).any(1)
    assert changed.flatten(1).any(1).all()
    assert erased.movedim(1, -1)[changed].abs().max() == 0


# ---- the alternating flip


def test_the_alternating_flip_shows_the_other_side_in_every_other_epoch(monkeypatch):
    monkeypatch.setattr(_augment, "resized_crop", lambda images, boxes: images)
    images = pictures(3, 16)[:5]  # none of these is its own mirror image
    plain = preprocess().normalise(images)
    options = DataOptions(augment="resized_crop_flip", alternate_flip=True)
    epochs = torch.stack([run(options, images, epoch=epoch)[0] for epoch in range(4)])
    mirrored = (epochs != plain).flatten(2).any(2)  # (epochs, images)
    assert torch.equal(torch.where(mirrored.view(4, 5, 1, 1, 1), plain.flip(-1), plain), epochs)
    assert mirrored.tolist() == [mirrored[0].tolist(), (~mirrored[0]).tolist()] * 2


def test_alternating_flips_begin_at_random_and_depend_on_the_index_alone():
    indices, order = torch.arange(NUMBER), torch.randperm(NUMBER)
    first, other_seed = (alternating_flips(indices, epoch=0, seed=seed) for seed in (7, 2**63 + 5))
    assert torch.equal(alternating_flips(order, epoch=0, seed=7), first[order])
    for pairs in (first[::2].int() * 2 + first[1::2], first.int() * 2 + other_seed):
        assert chisquare(pairs.bincount(minlength=4)).pvalue > MIN_PVALUE


# ---- boxes


def alike(first, second) -> bool:
    """Whether two samples of real numbers may come from one distribution."""
    return ks_2samp(np.asarray(first), np.asarray(second)).pvalue > MIN_PVALUE


def as_often(first, second) -> bool:
    """Whether two samples of labels may come from one distribution; labels that are rare in both count as one."""
    first, second = [str(label) for label in first], [str(label) for label in second]
    names, codes = np.unique(first + second, return_inverse=True)
    codes[np.bincount(codes)[codes] < 20] = len(names)
    _, codes = np.unique(codes, return_inverse=True)
    table = np.stack([np.bincount(part, minlength=codes.max() + 1) for part in np.split(codes, [len(first)])])
    return chi2_contingency(table).pvalue > MIN_PVALUE


def assert_boxes_alike(ours: Tensor, theirs: Tensor, *, height: int, width: int) -> None:
    """Areas, aspect ratios, sides, and places given the sides."""
    for boxes in (ours, theirs):
        assert boxes.min() >= 0
        assert (boxes[:, 0] + boxes[:, 2]).max() <= height
        assert (boxes[:, 1] + boxes[:, 3]).max() <= width
    for statistic in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3].clamp(min=1),
        lambda box: box[:, 0] / (height - box[:, 2]).clamp(min=1),
        lambda box: box[:, 1] / (width - box[:, 3]).clamp(min=1),
        lambda box: box[:, 0] - box[:, 1],
    ):
        assert alike(statistic(ours.float()), statistic(theirs.float()))
    assert as_often((ours[:, 2:] // 4).tolist(), (theirs[:, 2:] // 4).tolist())


def test_the_comparisons_notice_a_difference():
    random = np.random.default_rng(0)
    assert not alike(random.random(NUMBER), random.random(NUMBER) * 0.95)
    assert not as_often(random.integers(14, size=NUMBER), random.integers(13, size=NUMBER))


@pytest.mark.parametrize(("height", "width", "min_area"), [(32, 32, 0.08), (32, 32, 0.5), (8, 8, 0.08), (12, 30, 0.3)])
def test_crops_are_those_of_random_resized_crop(height, width, min_area):
    ours = draw_crops(NUMBER, (height, width), min_area=min_area, generator=generator())
    reference = v2.RandomResizedCrop((height, width), scale=(min_area, 1.0))
    drawn = [reference.make_params([torch.zeros(1, height, width)]) for _ in range(NUMBER)]
    theirs = torch.tensor([[one[key] for key in ("top", "left", "height", "width")] for one in drawn])
    assert_boxes_alike(ours, theirs, height=height, width=width)


@pytest.mark.parametrize(("height", "width"), [(10, 30), (30, 10), (4, 64)])
def test_where_no_crop_fits_it_is_torchvisions_centre(height, width, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(5.0))
    wanted = v2.RandomResizedCrop((height, width)).make_params([torch.zeros(1, height, width)])
    boxes = draw_crops(50, (height, width), min_area=1.0, generator=generator())
    assert boxes.tolist() == [[wanted[key] for key in ("top", "left", "height", "width")]] * 50


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (12, 30)])
def test_rectangles_are_those_of_random_erasing(height, width):
    ours = draw_rectangles(NUMBER, (height, width), probability=1.0, generator=generator())
    reference, image = v2.RandomErasing(p=1.0), torch.zeros(1, height, width)
    drawn = [reference.make_params([image]) for _ in range(NUMBER)]
    theirs = torch.tensor([[one[key] if one["v"] is not None else 0 for key in "ijhw"] for one in drawn])
    assert_boxes_alike(ours, theirs, height=height, width=width)
    some = draw_rectangles(NUMBER, (height, width), probability=0.25, generator=generator())
    fraction = (some[:, 2] > 0).float().mean() / (ours[:, 2] > 0).float().mean()
    assert abs(fraction - 0.25) < 0.025  # three deviations


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 28), (3, 32)])
def test_resized_crops_equal_torchvisions(channels, side):
    sizes = range(1, side + 1)
    boxes = [(side - high, (side - wide) // 2, high, wide) for high in sizes for wide in {1, high, side - high // 2}]
    images = pictures(channels, side)[[0, 3]].repeat_interleave(len(boxes), dim=0)
    found = _augment.resized_crop(images, torch.tensor(boxes * 2))
    for image, box, result in zip(images, boxes * 2, found, strict=True):
        assert torch.equal(result, TF.resized_crop(image, *box, [side, side]))


# ---- mixing

LABELS = torch.tensor([2, 0, 1, 1, 2, 0])
TARGETS = torch.eye(3)[LABELS]


def mix(monkeypatch, weights: Tensor | None = None, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Six random images, what becomes of them, and of their targets; with these weights if given."""
    images = torch.randn(6, 3, 10, 12, generator=generator())
    if weights is not None:
        drawn = type("Drawn", (), {"beta": lambda self, a, b, number: weights.numpy()})
        monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn())
    return images, *_augment.mix(images, TARGETS, DataOptions(**options), generator=generator())


def test_each_image_is_mixed_with_the_one_before_it_by_its_own_weight(monkeypatch):
    weights = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.9, 1.0], dtype=torch.float64)
    images, found, targets = mix(monkeypatch, weights, mixup=1.0)
    for number, weight in enumerate(weights.tolist()):
        wanted = weight * images[number] + (1 - weight) * images[number - 1]
        assert torch.allclose(found[number], wanted, atol=1e-6)
        assert torch.allclose(targets[number], weight * TARGETS[number] + (1 - weight) * TARGETS[number - 1])


@pytest.mark.parametrize("box", [(2, 3, 4, 5), (0, 0, 10, 12), (0, 0, 0, 0)])
def test_cutmix_with_one_box_is_torchvisions(monkeypatch, box):
    top, left, height, width = box
    monkeypatch.setattr(_augment, "draw_cuts", lambda weights, size, generator: torch.tensor([box] * len(weights)))
    images, found, targets = mix(monkeypatch, cutmix=1.0)
    reference = v2.CutMix(num_classes=3)
    parameters = {"box": (left, top, left + width, top + height), "lam_adjusted": 1 - height * width / 120}
    monkeypatch.setattr(reference, "make_params", lambda _: parameters)
    wanted, wanted_targets = reference(images, LABELS)
    assert torch.equal(found, wanted)
    assert torch.allclose(targets, wanted_targets, atol=1e-6)


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_targets_follow_what_came_along(options):
    """Each image is filled with its number, so that a mixed one tells what it is made of."""
    numbers = torch.arange(500).float()
    images = numbers.view(-1, 1, 1, 1).expand(-1, 1, 8, 12)
    for seed in range(5):
        found, targets = _augment.mix(images, torch.eye(500), DataOptions(**options), generator=generator(seed))
        assert torch.allclose(targets @ numbers, found.mean((1, 2, 3)), atol=1e-2)
        assert torch.allclose(targets.sum(1), torch.ones(500))
        assert 0 <= targets.diagonal().min() < 0.5


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 3.0])
def test_mixing_weights_are_beta(alpha):
    targets = _augment.mix(
        torch.zeros(NUMBER, 1, 1, 1), torch.eye(NUMBER), DataOptions(mixup=alpha), generator=generator()
    )[1]
    ours = targets.diagonal().numpy()
    if alpha > 0.1:  # below that, much of the distribution is too close to 1 for float32
        assert kstest(ours.astype(np.float64), beta(alpha, alpha).cdf).pvalue > MIN_PVALUE
    reference = v2.MixUp(alpha=alpha, num_classes=2)
    theirs = [reference.make_params([])["lam"] for _ in range(NUMBER)]
    assert alike(ours.round(6), np.round(theirs, 6))
    assert abs(np.corrcoef(ours[:-1], ours[1:])[0, 1]) < 0.06  # a weight of its own for each image


def test_cuts_are_those_of_cutmix():
    weights = torch.from_numpy(np.random.default_rng(0).beta(1, 1, NUMBER))
    ours = draw_cuts(weights, (12, 30), generator=generator())
    reference = v2.CutMix(alpha=1.0, num_classes=2)
    drawn = [reference.make_params([torch.zeros(2, 3, 12, 30)]) for _ in range(NUMBER)]
    theirs = torch.tensor([one["box"] for one in drawn])[:, [1, 0, 3, 2]]
    theirs[:, 2:] -= theirs[:, :2]
    assert_boxes_alike(ours, theirs, height=12, width=30)
    assert alike(1 - ours[:, 2] * ours[:, 3] / 360, [one["lam_adjusted"] for one in drawn])


def test_one_of_two_mixes_is_chosen_by_chance(monkeypatch):
    cut, draw = [], generator()
    monkeypatch.setattr(
        _augment, "draw_cuts", lambda *_, **__: cut.append(True) or torch.zeros(2, 4, dtype=torch.int64)
    )
    for _ in range(600):
        _augment.mix(torch.zeros(2, 1, 4, 4), torch.eye(2), DataOptions(mixup=1, cutmix=1), generator=draw)
    assert chisquare([len(cut), 600 - len(cut)]).pvalue > MIN_PVALUE
