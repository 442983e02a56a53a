"""``depth="full"`` measures everything, lists what it can't with the reason, and leaves the network alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.probe.subjects import batch
from torch import nn

import reslab
from reslab.errors import RequestError
from reslab.probe import Diagnosis, diagnose_step
from reslab.probe.batch import BatchLoss, first_samples


@pytest.fixture(scope="module")
def full() -> Diagnosis:
    torch.manual_seed(0)
    return reslab.diagnose(reslab.create_model("resnet14", 3), batch(12), F.cross_entropy, depth="full", twin=True)


def test_everything_is_measured(full):
    depth = full.depth
    assert depth.not_measured == {}
    assert len(depth.paths.energies) == len(full.blocks) + 1 == 7
    assert [lesion.name for lesion in depth.lesions] == [block.name for block in full.blocks]
    assert [part.name for part in depth.jacobians] == ["all", "layer1", "layer2", "layer3"]
    assert len(depth.twin.grad_norms) == len(full.blocks)
    assert depth.slice.losses[len(depth.slice.losses) // 2] == pytest.approx(full.readings[0].loss, rel=1e-4)
    assert depth.shattering.half > 0
    assert depth.curvature.iterations > 0
    assert depth.noise_scale > 0


def test_a_step_is_measured_as_its_batch_is(full):
    torch.manual_seed(0)
    model, (images, labels) = reslab.create_model("resnet14", 3), batch(12)
    found = diagnose_step(model, lambda model: F.cross_entropy(model(images), labels), depth="full", twin=True)
    assert list(found.depth.not_measured) == ["noise_scale"]
    assert replace(found.depth, noise_scale=full.depth.noise_scale, not_measured={}) == full.depth
    assert found.blocks == full.blocks


def test_the_rules_hear_of_it(full):
    assert "SHATTERED" in full.judged.clean
    assert "depth='full'" not in "".join(full.not_checked.values())


def test_every_picture_and_the_page(full, tmp_path):
    for name in ("flow", "split", "paths", "shattering", "lesions", "jacobian", "surface", "spine"):
        assert full.chart(name).is_drawn, name
    assert "shortcuts cut" in full.chart("flow").caption
    page = full.save(tmp_path / "page.html")
    assert "Diagnosis of ResNet" in page.read_text()
    assert json.loads(full.to_json())["depth"]["lesions"][0]["name"] == "layer1.0"


def test_what_cannot_be_measured_is_listed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    depth = reslab.diagnose(model, batch(12), F.cross_entropy, depth="full").depth
    assert depth.paths is None
    assert "no residual additions" in depth.not_measured["paths"]
    assert depth.lesions == ()
    assert depth.jacobians


def test_the_twin_alone():
    depth = reslab.diagnose(reslab.create_model("resnet8", 3), batch(12), F.cross_entropy, twin=True).depth
    assert len(depth.twin.grad_norms) == 3
    assert depth.paths is None


def test_another_word_for_the_depth_is_refused():
    with pytest.raises(RequestError, match="depth is quick or full, got 'deep'"):
        reslab.diagnose(nn.Linear(3, 3), (torch.ones(2, 3), torch.zeros(2).long()), F.cross_entropy, depth="deep")


def test_fewer_samples():
    loss_of = first_samples(BatchLoss(((torch.ones(9, 2), torch.ones(5)), torch.arange(9)), F.mse_loss), 4)
    (images, mask), labels = loss_of.batch
    assert (len(images), len(mask), len(labels)) == (4, 5, 4)
