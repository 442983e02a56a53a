"""What is drawn, and how often, against the draws of torchvision's own transforms.

Seeds are fixed, so that a test either always passes or never. A p-value below 0.001 fails.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, chi2_contingency, chisquare, ks_2samp, kstest
from torch import Tensor
from torchvision.transforms import v2

from reslab.data.augment import colour, erase, geometry, mix, policies
from reslab.data.augment.options import Augmentation
from reslab.data.augment.policies import OPERATIONS

NUMBER = 3000
LIMIT = 0.001


@pytest.fixture(autouse=True)
def own_randomness():
    """torchvision draws from the global generator."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(20)
        yield


def alike(first, second) -> bool:
    """Whether two samples of real numbers may come from one distribution."""
    return ks_2samp(np.asarray(first), np.asarray(second)).pvalue > LIMIT


def as_often(first, second) -> bool:
    """Whether two samples of labels may come from one distribution; labels that are rare in both count as one."""
    first, second = [str(label) for label in first], [str(label) for label in second]
    names, codes = np.unique(first + second, return_inverse=True)
    codes[np.bincount(codes)[codes] < 20] = len(names)
    _, codes = np.unique(codes, return_inverse=True)
    table = np.stack([np.bincount(part, minlength=codes.max() + 1) for part in np.split(codes, [len(first)])])
    return chi2_contingency(table).pvalue > LIMIT


def test_the_comparisons_notice_a_difference():
    generator = np.random.default_rng(0)
    assert not alike(generator.random(NUMBER), generator.random(NUMBER) * 0.95)
    assert not as_often(generator.integers(14, size=NUMBER), generator.integers(13, size=NUMBER))


# Shifts and mirrors


def test_shifts_and_mirrors_are_those_of_random_crop_and_flip(generator):
    ours = geometry.draw_shifts(NUMBER, padding=2, generator=generator())
    reference = v2.RandomCrop(8, padding=2)
    drawn = [reference.make_params([torch.zeros(1, 8, 8)]) for _ in range(NUMBER)]
    assert as_often(ours.T.tolist(), [[one["top"], one["left"]] for one in drawn])
    assert as_often(geometry.draw_mirrors(NUMBER, generator=generator()).int().tolist(), [0, 1] * (NUMBER // 2))


def test_alternating_mirrors_alternate_from_a_random_beginning():
    indices = torch.arange(NUMBER)
    first, second, third = (geometry.alternating_mirrors(indices, epoch=epoch, seed=7) for epoch in range(3))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    pairs = (first[::2].int() * 2 + first[1::2]).bincount(minlength=4)
    assert chisquare(pairs).pvalue > LIMIT
    other_seed = geometry.alternating_mirrors(indices, epoch=0, seed=8)
    assert chisquare((first.int() * 2 + other_seed).bincount(minlength=4)).pvalue > LIMIT


def test_an_alternating_mirror_depends_on_the_index_alone():
    indices, order = torch.arange(100), torch.randperm(100)
    mirrored = geometry.alternating_mirrors(indices, epoch=3, seed=2**63 + 5)
    assert torch.equal(geometry.alternating_mirrors(order, epoch=3, seed=2**63 + 5), mirrored[order])


# Boxes


@pytest.mark.parametrize(("height", "width", "min_area"), [(32, 32, 0.08), (32, 32, 0.5), (8, 8, 0.08), (12, 30, 0.3)])
def test_crops_are_those_of_random_resized_crop(generator, height, width, min_area):
    ours = geometry.draw_crops(NUMBER, height=height, width=width, min_area=min_area, generator=generator())
    reference = v2.RandomResizedCrop((height, width), scale=(min_area, 1.0))
    image = torch.zeros(1, height, width)
    drawn = [reference.make_params([image]) for _ in range(NUMBER)]
    theirs = torch.tensor([[one[key] for key in ("top", "left", "height", "width")] for one in drawn])
    assert_boxes_alike(ours, theirs, height=height, width=width)


@pytest.mark.parametrize(("height", "width"), [(10, 30), (30, 10), (31, 10), (9, 9)])
def test_where_no_crop_fits_it_is_torchvisions_centre(height, width, monkeypatch):
    reference = v2.RandomResizedCrop((height, width))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(5.0))
    wanted = reference.make_params([torch.zeros(1, height, width)])
    wanted = [wanted[key] for key in ("top", "left", "height", "width")]
    assert geometry.centre_crop(height, width).tolist() == wanted


def test_a_crop_that_never_fits_becomes_the_centre(generator):
    boxes = geometry.draw_crops(50, height=4, width=64, min_area=1.0, generator=generator())
    assert boxes.tolist() == [geometry.centre_crop(4, 64).tolist()] * 50


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (12, 30)])
def test_rectangles_are_those_of_random_erasing(generator, height, width):
    ours = erase.draw_rectangles(NUMBER, height=height, width=width, probability=1.0, generator=generator())
    reference, image = v2.RandomErasing(p=1.0), torch.zeros(1, height, width)
    drawn = [reference.make_params([image]) for _ in range(NUMBER)]
    theirs = torch.tensor([[one[key] if one["v"] is not None else 0 for key in "ijhw"] for one in drawn])
    assert_boxes_alike(ours, theirs, height=height, width=width)


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


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.9])
def test_erasing_happens_with_its_probability(generator, probability):
    boxes = erase.draw_rectangles(NUMBER, height=32, width=32, probability=probability, generator=generator())
    erased = int((boxes[:, 2] > 0).sum())
    assert chisquare([erased, NUMBER - erased], [probability * NUMBER, (1 - probability) * NUMBER]).pvalue > LIMIT


# Policies


def recorded(monkeypatch, transform, *, times: int) -> list[list[tuple[str, float]]]:
    """What torchvision's transform does to an image: names and magnitudes of operations, call by call."""
    calls: list[list[tuple[str, float]]] = []

    def note(image, name, magnitude, **_):
        calls[-1].append((name, magnitude))
        return image

    monkeypatch.setattr(transform, "_apply_image_or_video_transform", note)
    for _ in range(times):
        calls.append([])
        transform(torch.zeros(3, 32, 32, dtype=torch.uint8))
    return calls


def ours_recorded(monkeypatch, augment, *, number: int) -> list[list[tuple[str, float]]]:
    """The same of one of our policies: round by round instead of call by call."""
    rounds: list[list[tuple[str, float]]] = []

    def note(images, operations, amounts, **_):
        rounds.append([(OPERATIONS[one], by) for one, by in zip(operations.tolist(), amounts.tolist(), strict=True)])
        return images

    monkeypatch.setattr(policies, "apply_operations", note)
    augment(torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(number, -1, -1, -1))
    return rounds


def test_rand_augment_draws_as_torchvisions(monkeypatch, generator):
    theirs = recorded(monkeypatch, v2.RandAugment(2, 9), times=NUMBER)
    first, second = ours_recorded(
        monkeypatch,
        lambda images: policies.rand_augment(images, num_ops=2, magnitude=9, generator=generator()),
        number=NUMBER,
    )
    assert set(first) | set(second) == {draw for call in theirs for draw in call}  # magnitudes equal to the last bit
    assert as_often(first, [call[0] for call in theirs])
    assert as_often(second, [call[1] for call in theirs])
    pairs = [(one[0], other[0]) for one, other in zip(first, second, strict=True)]
    assert chisquare(np.unique([str(pair) for pair in pairs], return_counts=True)[1]).pvalue > LIMIT
    neighbours = [(one[0], other[0]) for one, other in zip(first[::2], first[1::2], strict=True)]
    assert chisquare(np.unique([str(pair) for pair in neighbours], return_counts=True)[1]).pvalue > LIMIT


def test_trivial_augment_draws_as_torchvisions(monkeypatch, generator):
    theirs = [call[0] for call in recorded(monkeypatch, v2.TrivialAugmentWide(), times=2 * NUMBER)]
    (ours,) = ours_recorded(
        monkeypatch, lambda images: policies.trivial_augment(images, generator=generator()), number=2 * NUMBER
    )
    assert as_often([name for name, _ in ours], [name for name, _ in theirs])
    for name in OPERATIONS:
        ours_of_it, theirs_of_it = ([by for one, by in draws if one == name] for draws in (ours, theirs))
        assert alike(ours_of_it, theirs_of_it)
        assert {abs(by) for by in ours_of_it} == {abs(by) for by in theirs_of_it}


def test_aug_mix_draws_as_torchvisions(monkeypatch, generator):
    theirs = recorded(monkeypatch, v2.AugMix(), times=NUMBER)
    rounds = ours_recorded(monkeypatch, lambda images: policies.aug_mix(images, generator=generator()), number=NUMBER)
    chains = list(zip(*rounds, strict=True))  # 3 chains x NUMBER images, each up to 3 operations
    chains = [[draw for draw in chain if draw[0] != "Identity"] for chain in chains]
    per_image = [sum(map(len, chains[number::NUMBER])) for number in range(NUMBER)]
    assert {len(chain) for chain in chains} == {1, 2, 3}
    assert as_often(per_image, [len(call) for call in theirs])
    ours = [draw for chain in chains for draw in chain][: 2 * NUMBER]
    assert as_often(ours, [draw for call in theirs for draw in call][: 2 * NUMBER])
    assert set(ours) == {draw for call in theirs for draw in call}
    assert all(chain[-1][0] != "Identity" for chain in chains)


def test_aug_mix_shares_are_dirichlet(generator):
    own, chains = policies.draw_shares(NUMBER, generator=generator())
    reference = v2.AugMix()
    theirs = reference._sample_dirichlet(torch.ones(NUMBER, 2))
    theirs_chains = reference._sample_dirichlet(torch.ones(NUMBER, 3)) * theirs[:, 1:]
    assert alike(own, theirs[:, 0])
    assert torch.allclose(own + chains.sum(0), torch.ones(NUMBER))
    for number in range(3):
        assert alike(chains[number], theirs_chains[:, number])
        assert alike(chains[number] / (1 - own), theirs_chains[:, number] / theirs[:, 1])


POLICIES = {
    "rand_augment": v2.RandAugment(2, 14),
    "trivial_augment": v2.TrivialAugmentWide(),
    "aug_mix": v2.AugMix(),
    "colour_jitter": v2.ColorJitter(0.7, 0.7, 0.7),
    "resized_crop": v2.RandomResizedCrop(12),
}


@pytest.mark.parametrize("name", POLICIES)
def test_what_becomes_of_an_image_is_distributed_as_by_torchvision(pictures, generator, name):
    image, number, draw = pictures(3, 12)[0], 800, generator()
    options = Augmentation(policy=name if "aug" in name else "none", policy_magnitude=14)
    batch = image.repeat(number, 1, 1, 1)
    if name == "colour_jitter":
        ours = colour.jitter(batch, *colour.draw_jitter(number, amount=0.7, generator=draw))
    elif name == "resized_crop":
        ours = geometry.resized_crop(
            batch, geometry.draw_crops(number, height=12, width=12, min_area=0.08, generator=draw)
        )
    else:
        ours = policies.apply_policy(batch, options, generator=draw)
    theirs = torch.stack([POLICIES[name](image) for _ in range(number)])
    directions = torch.randn(5, 3 * 12 * 12, generator=generator(1))
    for direction in torch.cat([torch.ones(1, 3 * 12 * 12), directions]):
        assert alike(ours.flatten(1).float() @ direction, theirs.flatten(1).float() @ direction)


# Colour jitter


@pytest.mark.parametrize("amount", [0.4, 1.5])
def test_colour_jitter_draws_as_torchvisions(generator, amount):
    factors, order = colour.draw_jitter(NUMBER, amount=amount, generator=generator())
    reference = v2.ColorJitter(amount, amount, amount)
    drawn = [reference.make_params([]) for _ in range(NUMBER)]
    for kind, name in enumerate(("brightness", "contrast", "saturation")):
        assert alike(factors[kind], [one[f"{name}_factor"] for one in drawn])
    theirs = [[turn for turn in one["fn_idx"].tolist() if turn < 3] for one in drawn]
    assert as_often(order.T.tolist(), theirs)
    assert abs(np.corrcoef(factors)[np.triu_indices(3, 1)]).max() < 0.06


# Mixing


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 3.0])
def test_mixing_shares_are_beta(generator, alpha):
    ours = mix.draw_shares(NUMBER, alpha=alpha, generator=generator()).numpy()
    assert np.isfinite(ours).all()
    if alpha > 0.1:  # below that, much of the distribution is too close to 1 for float64
        assert kstest(ours, beta(alpha, alpha).cdf).pvalue > LIMIT
    reference = v2.MixUp(alpha=alpha, num_classes=2)
    theirs = [reference.make_params([])["lam"] for _ in range(NUMBER)]
    assert alike(ours.round(6), np.round(theirs, 6))  # theirs are float32
    assert abs(np.corrcoef(ours[:-1], ours[1:])[0, 1]) < 0.06  # a share of its own for each image


def test_cuts_are_those_of_cutmix(generator):
    draw = generator()
    shares = mix.draw_shares(NUMBER, alpha=1.0, generator=draw)
    ours = mix.draw_cuts(shares, height=12, width=30, generator=draw)
    reference = v2.CutMix(alpha=1.0, num_classes=2)
    drawn = [reference.make_params([torch.zeros(2, 3, 12, 30)]) for _ in range(NUMBER)]
    theirs = torch.tensor([one["box"] for one in drawn])[:, [1, 0, 3, 2]]
    theirs[:, 2:] -= theirs[:, :2]
    assert_boxes_alike(ours, theirs, height=12, width=30)
    assert alike(1 - ours[:, 2] * ours[:, 3] / 360, [one["lam_adjusted"] for one in drawn])


def test_a_cut_has_about_its_share_of_the_area(generator):
    shares = torch.full((NUMBER,), 0.75, dtype=torch.float64)
    boxes = mix.draw_cuts(shares, height=32, width=32, generator=generator())
    assert boxes[:, 2:].max() == 2 * int(math.sqrt(0.25) / 2 * 32)


def test_one_of_two_mixes_is_chosen_by_chance(monkeypatch, generator):
    chosen: list[str] = []
    monkeypatch.setattr(mix, "mixup", lambda *_: chosen.append("mixup"))
    monkeypatch.setattr(mix, "cutmix", lambda *_: chosen.append("cutmix"))
    images, labels, draw = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), generator()
    for _ in range(600):
        mix.mix_batch(images, labels, augmentation=Augmentation(mixup=1, cutmix=1), num_classes=2, generator=draw)
    assert chisquare([chosen.count("mixup"), chosen.count("cutmix")]).pvalue > LIMIT
