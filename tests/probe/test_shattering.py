"""The shattering curve: against gradients that are known, and against what deep networks are known to do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reslab
from reslab.errors import RequestError
from reslab.probe.shattering import frozen_norms, half_of, shattering
from reslab.records.depth import ShatteringRecord
from reslab.untouched import untouched


def images(num: int = 8, side: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_the_gradient_of_a_linear_network_is_the_same_everywhere():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).double()
    record = shattering(model, images(dtype=torch.float64))
    assert record.similarities == pytest.approx([1] * len(record.distances), abs=1e-12)
    assert record.half == math.inf
    assert record.num_pairs == 8


def bend(place: float) -> nn.Module:
    """|x - place|: its slope is -1 before that place, and 1 behind it."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(inplace=True), nn.Linear(2, 1))
    for layer, weight, bias in ((model[0], [[1.0], [-1.0]], [-place, place]), (model[2], [[1.0, 1.0]], [0.0])):
        layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return model


def test_a_slope_that_turns_at_a_known_place():
    """From 0 to 1 it turns at a quarter of the way, from 1 to 0 at three quarters."""
    batch = torch.tensor([[0.0], [1.0]])
    record = shattering(bend(0.25), batch, distances=(0.1, 0.2, 0.3, 0.7, 0.8, 1.0))
    assert record.similarities == (1, 1, 0, 0, -1, -1)
    assert record.half == pytest.approx(math.sqrt(0.2 * 0.3))
    assert record.num_pairs == 2


def test_where_the_gradient_is_gone_the_cosine_is_zero():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    model[0].weight.data, model[0].bias.data = torch.ones(1, 1), torch.tensor([-0.5])
    record = shattering(model, torch.tensor([[0.0], [1.0]]), distances=(0.4, 0.6))
    assert record.similarities == (0.5, 0)  # one of the two begins where there is no gradient


def test_cosines_are_those_of_plain_autograd():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)).double(), torch.randn(6, 4).double()
    record = shattering(model, inputs, distances=(0.01, 0.3), num_pairs=4, seed=5)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(5))
    weights = torch.randn(4, 2, generator=torch.Generator().manual_seed(5)).double()

    def gradient(sample: Tensor, weight: Tensor) -> Tensor:
        sample = sample.clone().requires_grad_()
        return torch.autograd.grad(model(sample) @ weight, sample)[0]

    for distance, similarity in zip(record.distances, record.similarities, strict=True):
        found = []
        for pair in range(4):
            start, end, weight = inputs[order[pair]], inputs[order[(pair + 1) % 6]], weights[pair]
            there = (1 - distance) * start + distance * end
            found.append(F.cosine_similarity(gradient(start, weight), gradient(there, weight), dim=0).item())
        assert similarity == pytest.approx(sum(found) / 4, rel=1e-10)


def curve(name: str) -> ShatteringRecord:
    torch.manual_seed(0)
    return shattering(reslab.create_model(name, num_classes=10), images(16, side=16))


def test_deep_plain_networks_shatter_and_residual_ones_do_not():
    plain, shallow, residual = curve("plain56"), curve("plain20"), curve("resnet56")
    assert plain.half < 1e-3  # what the verdict's limit is
    assert 5e-3 < shallow.half < 5e-2
    assert 3e-3 < residual.half < 0.2
    assert plain.similarities[plain.distances.index(1e-2)] < 0.2 < 0.4 < residual.similarities[6]


NORMS = {
    "running": lambda: nn.BatchNorm2d(4),
    "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "none kept": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "no weights": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    "by sample": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "by group": lambda: nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_frozen_norm_divides_by_what_train_mode_divides_by(name):
    """And no sample depends on another."""
    torch.manual_seed(0)
    norm = NORMS[name]()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3)).double().train()
    inputs = images(dtype=torch.float64)
    before, keys = {key: value.clone() for key, value in model.state_dict().items()}, list(model.state_dict())
    with untouched(model):
        expected = model(inputs)
        with frozen_norms(model, inputs):
            assert not model.training
            torch.testing.assert_close(model(inputs), expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(model(inputs[:3]), expected[:3], rtol=1e-12, atol=1e-12)
    assert list(model.state_dict()) == keys
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training


def test_a_norm_that_is_kept_in_eval_mode_keeps_its_statistics():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    model[0].eval()
    with untouched(model), frozen_norms(model, images()):
        assert torch.equal(model[0].running_mean, torch.zeros(3))
        assert not torch.equal(model[1].running_mean, torch.zeros(3))


class Spoken(nn.Module):
    """Takes an image and a word by keyword, and answers with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(5, 4), nn.Linear(4, 4)

    def forward(self, image: Tensor, word: Tensor) -> dict[str, Tensor]:
        return {"word": word, "answer": torch.tanh(self.layer(image)) * self.words(word)}


def test_words_beside_an_image_stay_what_they_are():
    torch.manual_seed(0)
    inputs = {"image": torch.randn(5, 4), "word": torch.arange(5)}
    record = shattering(Spoken(), inputs, distances=(1e-3, 1.0), num_pairs=20)
    assert record.num_pairs == 5
    assert record.similarities[0] > 0.99 > record.similarities[1]


@pytest.mark.parametrize(
    ("similarities", "expected"),
    [((0.9, 0.8, 0.7), math.inf), ((0.4, 0.3, 0.2), 0.01), ((1.0, 0.5, 0.0), 0.1), ((1.0, 0.0, 0.9), 10**-1.5)],
)
def test_half(similarities, expected):
    assert half_of((0.01, 0.1, 1.0), similarities) == pytest.approx(expected)


def test_bad_input():
    model, batch = bend(0.25), torch.tensor([[0.0], [1.0]])
    with pytest.raises(RequestError, match="whole numbers"):
        shattering(nn.Embedding(3, 2), torch.arange(3))
    with pytest.raises(RequestError, match="one sample"):
        shattering(model, torch.ones(1, 1))
    with pytest.raises(RequestError, match="num_pairs is 0"):
        shattering(model, batch, num_pairs=0)
    for distances in ((), (0.2, 0.1), (0.0, 0.5), (0.5, 1.5)):
        with pytest.raises(RequestError, match="distances are"):
            shattering(model, batch, distances=distances)
    nn.init.zeros_(model[2].weight)
    with pytest.raises(RequestError, match="is zero"):
        shattering(model, batch)
    nn.init.constant_(model[2].weight, math.inf)
    with pytest.raises(RequestError, match="not finite"):
        shattering(model, batch)
