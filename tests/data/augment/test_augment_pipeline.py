"""The whole of it: the order, the generator, what today's runs rely on; in memory and for photographs."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from reslab.data.augment import colour, erase, geometry, policies
from reslab.data.augment.mix import mix_batch
from reslab.data.augment.options import GEOMETRIES, POLICIES, Augmentation
from reslab.data.augment.photos import after_crop
from reslab.data.augment.pipeline import BatchAugment, erase_and_mix, finish_batch
from reslab.data.decoding import DecodedSplit
from reslab.data.splits import EncodedSplit
from reslab.data.transforms import Preprocess, to_tensor
from reslab.errors import RequestError

EVERYTHING = [
    Augmentation(),
    Augmentation("crop"),
    Augmentation("crop_flip", erasing=0.5),
    Augmentation("crop_flip", policy="rand_augment"),
    Augmentation("resized_crop_flip", policy="trivial_augment", colour_jitter=0.4, erasing=0.5),
    Augmentation("resized_crop_flip", alternate_flip=True),
    Augmentation(policy="aug_mix"),
]


def preprocess(channels: int = 3, side: int = 16) -> Preprocess:
    return Preprocess(side, side, channels, mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.3, 0.4)[:channels])


def run(options: Augmentation, images: Tensor, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
    augment = BatchAugment(preprocess(images.shape[1], images.shape[3]), options, num_classes=10)
    labels = torch.arange(len(images)) % 10
    indices = torch.arange(len(images)) + 5
    return augment(images, labels, generator=torch.Generator().manual_seed(seed), epoch=epoch, indices=indices)


def crop_and_flip_of_the_golden_run(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """How images were augmented when the golden run was stored: the same draws in the same order."""
    number, _, height, width = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * padding + 1, (2, number), generator=generator)
    images = windows[torch.arange(number), :, down, right]
    if not flip:
        return images
    mirrored = torch.rand(number, generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (1, 28)])
@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_crop_and_flip_give_the_bits_they_always_gave(pictures, generator, kind, channels, side):
    images = pictures(channels, side)
    found, labels = run(Augmentation(kind), images, seed=3)
    wanted = crop_and_flip_of_the_golden_run(
        preprocess(channels, side).normalise(images), max(1, side // 8), kind == "crop_flip", generator(3)
    )
    assert torch.equal(found, wanted)
    assert labels.dtype == torch.int64


def test_shifts_go_as_far_as_asked(pictures, generator):
    images = pictures(3, 16)
    found, _ = run(Augmentation("crop_flip", max_shift=5), images, seed=3)
    wanted = crop_and_flip_of_the_golden_run(preprocess(3, 16).normalise(images), 5, True, generator(3))
    assert torch.equal(found, wanted)
    with pytest.raises(RequestError, match="max_shift is a number of pixels for the geometries crop and crop_flip"):
        Augmentation("resized_crop_flip", max_shift=3)


def test_no_augmentation_only_normalises(pictures):
    images = pictures(3, 16)
    assert torch.equal(run(Augmentation(), images)[0], preprocess().normalise(images))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_order_is_that_of_the_reference_scripts(pictures, generator, policy):
    options = Augmentation("crop_flip", policy=policy, colour_jitter=0.4, erasing=0.5, mixup=0.3, cutmix=0.3)
    images, labels, draw = pictures(3, 16), torch.arange(8), generator(5)
    found, targets = run(options, images, seed=5)

    mean = torch.tensor([128, 102, 76], dtype=torch.uint8)  # 255 times 0.5, 0.4, 0.3
    moved = geometry.shift(images, geometry.draw_shifts(8, padding=2, generator=draw), padding=2, fill=mean)
    moved = geometry.mirror(moved, geometry.draw_mirrors(8, generator=draw))
    coloured = colour.jitter(moved, *colour.draw_jitter(8, amount=0.4, generator=draw))
    normal = preprocess().normalise(policies.apply_policy(coloured, options, generator=draw))
    boxes = erase.draw_rectangles(8, height=16, width=16, probability=0.5, generator=draw)
    wanted = mix_batch(erase.erase(normal, boxes), labels, augmentation=options, num_classes=10, generator=draw)
    assert torch.equal(found, wanted[0])
    assert torch.equal(targets, wanted[1])


@pytest.mark.parametrize("options", EVERYTHING)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_seed_gives_one_batch_and_the_global_generator_is_left_alone(pictures, options, channels):
    images, before = pictures(channels, 16), torch.get_rng_state()
    untouched = images.clone()
    first, again, other = (run(options, images, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert torch.equal(images, untouched)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = options.geometry != "none" or options.policy != "none"
    assert torch.equal(first, other) != drawn or options.alternate_flip


@pytest.mark.parametrize("options", EVERYTHING)
def test_an_image_does_not_depend_on_its_neighbours(pictures, options):
    images = pictures(3, 16)
    changed = images.clone()
    changed[3] = 255 - images[3]
    before, after = run(options, images)[0], run(options, changed)[0]
    same = (before == after).flatten(1).all(1)
    assert same.tolist() == [number != 3 for number in range(8)]


@pytest.mark.parametrize("options", [*EVERYTHING[1:], Augmentation(colour_jitter=0.4), Augmentation(erasing=1.0)])
def test_images_of_one_batch_are_augmented_differently(pictures, options):
    copies = pictures(3, 16)[:1].repeat(64, 1, 1, 1)
    assert len(run(options, copies)[0].unique(dim=0)) > 20


def test_the_alternating_flip_shows_the_other_side_in_every_second_epoch(monkeypatch, pictures):
    whole = torch.tensor([[0, 0, 16, 16]] * 5)
    monkeypatch.setattr(geometry, "draw_crops", lambda *_, **__: whole)
    images = pictures(3, 16)[:5]  # none of these is its own mirror image
    plain = preprocess().normalise(images)
    options = Augmentation("resized_crop_flip", alternate_flip=True)
    epochs = torch.stack([run(options, images, epoch=epoch, seed=epoch)[0] for epoch in range(4)])
    mirrored = (epochs != plain).flatten(2).any(2)  # (epochs, images)
    assert torch.equal(torch.where(mirrored.view(4, 5, 1, 1, 1), plain.flip(-1), plain), epochs)
    assert torch.equal(mirrored[0], mirrored[2])
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[1], mirrored[3])


def test_the_alternating_flip_needs_to_know_which_images_they_are(pictures, generator):
    augment = BatchAugment(preprocess(), Augmentation("crop_flip", alternate_flip=True), num_classes=10)
    with pytest.raises(RequestError, match="pass indices="):
        augment(pictures(3, 16), torch.zeros(8, dtype=torch.int64), generator=generator())


def test_crops_before_a_policy_are_filled_with_the_rounded_mean(generator):
    black = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    augment = BatchAugment(preprocess(), Augmentation("crop", colour_jitter=1e-9), num_classes=10)
    levels = augment(black, torch.zeros(200, dtype=torch.int64), generator=generator())[0]
    corner = levels[:, :, 0, 0].unique(dim=0)  # black, or what came from outside
    wanted = preprocess().normalise(torch.tensor([[0, 0, 0], [128, 102, 76]], dtype=torch.uint8).view(2, 3, 1, 1))
    # A jitter of next to nothing may take a level off what isn't black.
    assert torch.allclose(corner, wanted.view(2, 3), atol=1.01 / 255 / 0.2)


def test_finishing_a_batch_is_the_last_part_of_the_pipeline(pictures, generator):
    options = Augmentation(erasing=0.7, cutmix=1.0)
    images, labels = pictures(3, 16), torch.arange(8)
    whole = run(options, images, seed=4)
    last = finish_batch(
        images, labels, preprocess=preprocess(), augmentation=options, num_classes=10, generator=generator(4)
    )
    assert torch.equal(whole[0], last[0])
    assert torch.equal(whole[1], last[1])


def test_erasing_puts_the_mean_which_is_zero(pictures, generator):
    images = preprocess().normalise(pictures(3, 16))
    erased, labels = erase_and_mix(
        images, torch.arange(8), augmentation=Augmentation(erasing=1.0), num_classes=10, generator=generator()
    )
    changed = (erased != images).any(1)
    assert changed.flatten(1).any(1).all()
    assert erased.movedim(1, -1)[changed].abs().max() == 0
    assert labels.tolist() == list(range(8))


# Photographs


@pytest.fixture(autouse=True)
def own_randomness():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        yield


def photograph(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def decoded(image: Image.Image, recorded: Preprocess, options: Augmentation) -> DecodedSplit:
    """One photograph as the loader's workers read it."""
    content = io.BytesIO()
    image.save(content, "PNG")
    split = EncodedSplit([content.getvalue()], ["photograph.png"], torch.zeros(1, dtype=torch.int64), recorded.channels)
    return DecodedSplit(split, recorded, options, seed=0)


@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_photographs_become_levels_of_the_right_size_and_their_transform_can_be_sent_to_a_worker(kind, policy, mode):
    channels = len(mode) // 3 * 2 + 1
    recorded = Preprocess(16, 12, channels, mean=(0.5,) * channels, std=(1.0,) * channels, resize=20)
    options = Augmentation(kind, policy=policy, colour_jitter=0.4)
    found, _ = pickle.loads(pickle.dumps(decoded(photograph(mode), recorded, options)))[0, 0]
    assert found.shape == (channels, 16, 12)
    assert found.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (
            Augmentation("resized_crop_flip", policy="rand_augment", policy_ops=3, policy_magnitude=20),
            v2.RandAugment(3, 20),
        ),
        (Augmentation("resized_crop_flip", policy="trivial_augment"), v2.TrivialAugmentWide()),
        (Augmentation("resized_crop_flip", policy="aug_mix"), v2.AugMix()),
    ],
)
def test_photographs_go_through_torchvisions_transforms_in_the_usual_order(options, policy):
    options = replace(options, min_crop_area=0.2, colour_jitter=0.3)
    steps = [v2.RandomResizedCrop(16, (0.2, 1)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3), policy]
    ours, theirs = decoded(photograph(), preprocess(), options), v2.Compose(steps)
    for seed in range(20):
        torch.manual_seed(seed)
        found = ours.after(ours.decode(ours.split, 0))
        torch.manual_seed(seed)
        assert torch.equal(found, theirs(to_tensor(photograph())))


def test_without_augmentation_a_photograph_is_only_fitted():
    recorded = Preprocess(16, 12, 3, mean=(0.5,) * 3, std=(1.0,) * 3, resize=20)
    found, _ = decoded(photograph(), recorded, Augmentation())[0, 0]
    assert torch.equal(found, recorded.fit(photograph()))


def test_shifted_photographs_are_filled_with_the_rounded_mean():
    recorded = Preprocess(16, 16, 3, mean=(0.5, 0.4, 0.3), std=(1.0,) * 3)
    black = decoded(Image.new("RGB", (16, 16)), recorded, Augmentation("crop"))
    corners = {tuple(black[epoch, 0][0][:, 0, 0].tolist()) for epoch in range(40)}
    assert corners == {(0, 0, 0), (128, 102, 76)}


def test_the_smallest_crop_is_as_asked_for():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(256, 0))
    recorded = Preprocess(32, 32, 1, mean=(0.5,), std=(1.0,))
    spans = []
    for min_area in (0.08, 0.9):
        crops = decoded(ramp, recorded, Augmentation("resized_crop_flip", min_crop_area=min_area))
        spans.append(min(int(crop.max()) - int(crop.min()) for crop, _ in (crops[epoch, 0] for epoch in range(60))))
    assert spans[0] < 120
    assert spans[1] > 190


@pytest.mark.parametrize("options", [Augmentation("crop_flip"), Augmentation(colour_jitter=0.5)])
def test_what_follows_the_crop_is_drawn_anew_each_time(options):
    transform = pickle.loads(pickle.dumps(after_crop(options)))
    outcomes = torch.stack([transform(to_tensor(photograph())) for _ in range(20)])
    assert outcomes.dtype == torch.uint8
    assert outcomes.shape[1:] == (3, 30, 40)
    assert len(outcomes.unique(dim=0)) == (2 if options.flips else 20)


def test_the_alternating_flip_is_refused_for_photographs():
    with pytest.raises(RequestError, match="kept in memory"):
        decoded(photograph(), preprocess(), Augmentation("crop_flip", alternate_flip=True))
