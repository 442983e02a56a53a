"""Every probe leaves the model as it was, whatever its mode, after an exception of the model's own too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.probe.subjects import assert_untouched, state_of
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.probe._cut import cut_twin, lesions
from reslab.probe._jacobian import jacobians
from reslab.probe._landscape import largest_curvature, loss_slice, noise_scale
from reslab.probe.batch import BatchLoss
from reslab.probe.diagnosis import diagnose_step
from reslab.probe.paths import path_spectrum
from reslab.probe.shattering import shattering

PROBES = {
    "diagnose": lambda model, loss_of: diagnose_step(model, loss_of, depth="full", twin=True).judged,
    "twin": cut_twin,
    "lesions in eval mode": lambda model, loss_of: lesions(model, loss_of, mode="eval"),
    "lesions in train mode": lambda model, loss_of: lesions(model, loss_of, mode="train"),
    "paths": path_spectrum,
    "shattering": lambda model, loss_of: shattering(model, loss_of.batch[0]),
    "jacobians": lambda model, loss_of: jacobians(model, loss_of.batch[0]),
    "slice by the batch": lambda model, loss_of: loss_slice(model, loss_of, num_points=5),
    "slice by stored statistics": lambda model, loss_of: loss_slice(model, loss_of, num_points=5, norms="frozen"),
    "curvature": largest_curvature,
    "noise": noise_scale,
}


class Net(nn.Module):
    """Has norms, dropout, writes over its input and into a buffer, and may raise after it has written."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 3)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()) for _ in range(2))
        self.own_norm = nn.BatchNorm1d(6, track_running_stats=False)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("passes", torch.zeros(()))
        self.num_calls, self.fails_at = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.num_calls += 1
        x = self.stem(x.sub_(x.mean()))
        for branch in self.branches:
            x = x + branch(x)
        if self.num_calls == self.fails_at:
            raise ArithmeticError("mine")
        return self.head(self.dropout(self.own_norm(x)))


def network(*, training: bool) -> tuple[Net, BatchLoss]:
    model = Net()
    batch = torch.randn(16, 3), torch.arange(16) % 3
    F.cross_entropy(model(batch[0].clone()), batch[1]).backward()
    model.num_calls = 0
    return model.train(training), BatchLoss(batch, F.cross_entropy)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("probe", PROBES)
def test_the_model_and_the_batch_stay_and_the_same_comes_again(probe, training):
    model, loss_of = network(training=training)
    before, inputs = state_of(model), loss_of.batch[0].clone()
    with torch.no_grad():  # whoever calls it may have switched gradients off
        found = PROBES[probe](model, loss_of)
    assert_untouched(model, before)
    assert torch.equal(loss_of.batch[0], inputs)
    assert not loss_of.batch[0].requires_grad
    if probe not in ("diagnose", "noise"):
        assert PROBES[probe](model, loss_of) == found


@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.parametrize("probe", PROBES)
def test_it_stays_after_an_exception_of_its_own(probe, fails_at):
    model, loss_of = network(training=True)
    if fails_at == 2 and probe in ("paths", "curvature"):
        pytest.skip("takes one pass")
    before, model.fails_at = state_of(model), fails_at
    with pytest.raises((ArithmeticError, RequestError), match="mine"):
        PROBES[probe](model, loss_of)
    assert_untouched(model, before)
    assert not model.own_norm.track_running_stats


@pytest.mark.parametrize("probe", [name for name in PROBES if name not in ("diagnose", "noise", "paths")])
def test_the_mode_that_it_is_in_makes_no_difference(probe):
    trained, evaluated = (PROBES[probe](*network(training=training)) for training in (True, False))
    assert trained == evaluated


@pytest.mark.parametrize("probe", ["twin", "lesions in eval mode", "lesions in train mode", "paths"])
def test_a_frozen_network_is_measured_alike(probe):
    model, loss_of = network(training=True)
    expected = PROBES[probe](model, loss_of)
    assert PROBES[probe](model.requires_grad_(False), loss_of) == expected
