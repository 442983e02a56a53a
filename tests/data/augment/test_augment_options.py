"""Options: what is refused, and what the sentence says."""

from __future__ import annotations

import math
import pickle

import pytest

from reslab.data.augment.options import GEOMETRIES, POLICIES, Augmentation, check_augmentation
from reslab.errors import RequestError


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"geometry": "crop_flop"}, "Unknown geometry 'crop_flop'. Did you mean 'crop_flip'"),
        ({"policy": "randaugment"}, "Unknown policy 'randaugment'. Did you mean 'rand_augment'"),
        ({"min_crop_area": 0.0}, r"min_crop_area is a number in \(0, 1\], got 0.0"),
        ({"min_crop_area": 1.2}, r"min_crop_area .* got 1.2"),
        ({"policy_ops": 0}, "policy_ops is a whole number from 1 to 100, got 0"),
        ({"policy_ops": 2.5}, "policy_ops .* got 2.5"),
        ({"policy_magnitude": 31}, "policy_magnitude is a whole number from 0 to 30, got 31"),
        ({"policy_magnitude": -1}, "policy_magnitude .* got -1"),
        ({"colour_jitter": -0.1}, r"colour_jitter is a number in \[0, inf\), got -0.1"),
        ({"colour_jitter": math.inf}, "colour_jitter .* got inf"),
        ({"erasing": 1.1}, r"erasing is a number in \[0, 1\], got 1.1. It is a probability"),
        ({"erasing": math.nan}, "erasing .* got nan"),
        ({"mixup": -1.0}, "mixup .* got -1.0"),
        ({"cutmix": math.nan}, "cutmix .* got nan"),
        ({"alternate_flip": True}, "alternate_flip replaces the random flip, and geometry 'none' has none"),
        ({"alternate_flip": True, "geometry": "crop"}, "crop_flip or resized_crop_flip"),
    ],
)
def test_bad_options_are_refused_where_they_are_made(options, sentence):
    with pytest.raises(RequestError, match=sentence):
        Augmentation(**options)


def test_the_ends_of_the_ranges_are_allowed():
    low = Augmentation(min_crop_area=1.0, policy_ops=1, policy_magnitude=0, colour_jitter=2.0, erasing=1.0, mixup=8.0)
    high = Augmentation("crop_flip", alternate_flip=True, policy_magnitude=30, cutmix=1e-3)
    assert (low.min_crop_area, low.policy_magnitude, low.erasing, high.policy_magnitude) == (1.0, 0, 1.0, 30)
    assert low.mixes
    assert high.mixes


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_images_in_memory_and_photographs_take_every_geometry_and_policy(geometry, policy):
    options = Augmentation(geometry=geometry, policy=policy)
    assert [check_augmentation(options, in_memory=in_memory) for in_memory in (True, False)] == [None, None]


def test_the_alternating_flip_is_for_images_in_memory():
    options = Augmentation("crop_flip", alternate_flip=True)
    check_augmentation(options, in_memory=True)
    with pytest.raises(RequestError, match=r"up to 64 pixels.*Leave alternate_flip out"):
        check_augmentation(options, in_memory=False)


def test_options_travel_to_workers():
    options = Augmentation("crop_flip", policy="aug_mix", mixup=0.2)
    assert pickle.loads(pickle.dumps(options)) == options
