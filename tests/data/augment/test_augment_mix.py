"""Erasing and mixing against torchvision's transforms, and what must hold of targets."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from reslab.data.augment.erase import erase
from reslab.data.augment.mix import cutmix, draw_cuts, draw_shares, mix_batch, mixup
from reslab.data.augment.options import Augmentation

LABELS = torch.tensor([2, 0, 1, 1, 2, 0])
TARGETS = torch.eye(3)[LABELS]


@pytest.fixture
def images(generator):
    return torch.randn(6, 3, 10, 12, generator=generator())


def test_each_image_loses_its_own_rectangle(images):
    boxes = torch.tensor([[0, 0, 3, 4], [7, 8, 3, 4], [2, 3, 1, 1], [0, 0, 0, 0], [5, 0, 5, 12], [1, 1, 9, 1]])
    wanted = [TF.erase(image, *box, v=torch.zeros(1, 1, 1)) for image, box in zip(images, boxes.tolist(), strict=True)]
    before = images.clone()
    assert torch.equal(erase(images, boxes), torch.stack(wanted))
    assert torch.equal(images, before)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_with_one_share_is_torchvisions(monkeypatch, images, share):
    reference = v2.MixUp(num_classes=3)
    monkeypatch.setattr(reference, "make_params", lambda _: {"lam": share})
    found, targets = mixup(images, TARGETS, torch.full((6,), share, dtype=torch.float64))
    wanted, wanted_targets = reference(images, LABELS)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(targets, wanted_targets, atol=1e-6)


@pytest.mark.parametrize("box", [(2, 3, 4, 5), (0, 0, 10, 12), (0, 0, 0, 0)])
def test_cutmix_with_one_box_is_torchvisions(monkeypatch, images, box):
    top, left, height, width = box
    parameters = {"box": (left, top, left + width, top + height), "lam_adjusted": 1 - height * width / 120}
    reference = v2.CutMix(num_classes=3)
    monkeypatch.setattr(reference, "make_params", lambda _: parameters)
    found, targets = cutmix(images, TARGETS, torch.tensor([box] * 6))
    wanted, wanted_targets = reference(images, LABELS)
    assert torch.equal(found, wanted)
    assert torch.allclose(targets, wanted_targets, atol=1e-6)


def test_each_image_is_mixed_by_its_own_share(images):
    shares = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.9, 1.0])
    found, targets = mixup(images, TARGETS, shares)
    for number, share in enumerate(shares.tolist()):
        assert torch.allclose(found[number], share * images[number] + (1 - share) * images[number - 1], atol=1e-6)
        assert torch.allclose(targets[number], share * TARGETS[number] + (1 - share) * TARGETS[number - 1])


def test_targets_follow_the_pixels_that_came_along(generator):
    """Each image is filled with its number, so that a mixed one tells what it is made of."""
    number, draw = 500, generator()
    images = torch.arange(number).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 12)
    boxes = draw_cuts(draw_shares(number, alpha=1.0, generator=draw), height=8, width=12, generator=draw)
    found, targets = cutmix(images, torch.eye(number), boxes)
    kept = (found == images).float().mean((1, 2, 3))
    assert torch.allclose(targets.diagonal(), kept, atol=1e-6)
    assert 0 <= kept.min() < 0.5
    assert kept.max() == 1


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_targets_are_probabilities(images, generator, options):
    for seed in range(10):
        _, targets = mix_batch(
            images, LABELS, augmentation=Augmentation(**options), num_classes=3, generator=generator(seed)
        )
        assert targets.dtype == torch.float32
        assert targets.min() >= 0
        assert torch.allclose(targets.sum(1), torch.ones(6))


def test_a_batch_of_one_stays_as_it_is(images, generator):
    options = Augmentation(mixup=1.0)
    found, targets = mix_batch(images[:1], LABELS[:1], augmentation=options, num_classes=3, generator=generator())
    assert torch.allclose(found, images[:1], atol=1e-6)
    assert torch.allclose(targets, TARGETS[:1])
