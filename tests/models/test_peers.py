"""The same weights in torchvision's and timm's networks and in ours give the same logits, gradients and statistics."""

import pytest
import torch
import torchvision

from peers import BOUND, PAIRS, SIZES, build, compare
from reslab.models.catalog import MODELS, create_model

PARAMETERS = [pytest.param(pair, id=str(pair), marks=[pytest.mark.slow] if pair.slow else []) for pair in PAIRS]


@pytest.fixture(scope="module", params=PARAMETERS)
def networks(request):
    return build(request.param)


@pytest.mark.parametrize("size", SIZES, ids=["even", "odd"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_same_weights_give_the_same_results(networks, training, size):
    found = compare(*networks, size=size, training=training)
    assert 0.1 < found.largest_logit < 1e3, "too small or too large for an absolute bound"
    assert 0.01 < found.largest_image_gradient < 1e3, "too small or too large for an absolute bound"
    assert found.logits <= BOUND
    assert found.image_gradient <= BOUND
    assert found.parameter_gradients <= BOUND
    assert found.buffers <= BOUND


def test_a_small_deviation_is_noticed():
    theirs, ours = build(PAIRS[0])
    ours.layer3[1].bn2.eps = 2e-5  # a tiny part of a variance of about 1
    for training in (True, False):
        found = compare(theirs, ours, size=(49, 57), training=training)
        assert min(found.logits, found.image_gradient, found.parameter_gradients) > 1000 * BOUND


def test_every_residual_network_of_torchvision_is_compared():
    theirs = {name for name in torchvision.models.list_models(torchvision.models) if "resne" in name}
    assert len(theirs) == 10
    assert theirs == {pair.theirs for pair in PAIRS if pair.library == "torchvision"}
    for name in theirs:
        with torch.device("meta"):
            ours, other = create_model(name), torchvision.models.get_model(name)
        assert list(ours.state_dict()) == list(other.state_dict())


def test_pairs_are_in_the_catalog_and_listed_once():
    assert {pair.ours for pair in PAIRS} <= MODELS.keys()
    assert len({(pair.library, pair.theirs) for pair in PAIRS}) == len(PAIRS) == 32
