"""What a run's network uses its depth for, and what its step costs: on the run's own weights, read back as written."""

from __future__ import annotations

import pytest
import torch
from small_run import small_run
from torch import nn

from reslab.config import ModelConfig, TrainConfig
from reslab.errors import RequestError
from reslab.models.weights import load_own_weights
from reslab.probe import shattering
from reslab.records import RunFolder
from reslab.run.assemble import build_subject
from reslab.run.costs import kept_mib, record_costs, step_ratio
from reslab.run.depth import record_depth
from reslab.run.diagnose import first_batch
from reslab.run.recorder import Display
from reslab.run.train import train
from reslab.train.trial import Way

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "has_paths"), [("resnet8", True), ("plain8", False)])
def test_the_depth_is_that_of_the_first_and_of_the_last_weights(tmp_path, name, has_paths):
    config = small_run(model=ModelConfig(name=name))
    folder = train(config, tmp_path / "run").folder
    found = record_depth(folder)
    assert folder.read_depth() == found
    subject = build_subject(config, Display(), device=CPU)
    batch = first_batch(subject.data, config, device=CPU)
    assert found["start"].shattering == shattering(subject.model.train(), batch)
    load_own_weights(subject.model, folder.last_weights)
    assert found["end"].shattering == shattering(subject.model.train(), batch)
    assert found["start"] != found["end"]
    for record in found.values():
        assert (record.paths is not None) == has_paths
        assert ("paths" in record.not_measured) != has_paths


def test_damaged_files_are_named(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_depth() == {}
    for path, read in ((folder.depth, folder.read_depth), (folder.costs, folder.read_costs)):
        path.write_text('{"start": 1', encoding="utf-8")
        with pytest.raises(RequestError, match=f"{path.name} is damaged"):
            read()


def test_bf16_keeps_less_and_its_ratio_is_measured(tmp_path):
    costs = {}
    for amp in ("none", "bf16"):
        folder = train(small_run(train=TrainConfig(epochs=1, device="cpu", threads=1, amp=amp)), tmp_path / amp).folder
        costs[amp] = record_costs(folder)
        assert folder.read_costs() == costs[amp]
    assert 0.4 < costs["bf16"]["kept_mib"] / costs["none"]["kept_mib"] < 0.8
    assert costs["none"]["step_ratio"] == 1.0
    assert costs["bf16"]["step_ratio"] > 0


def test_what_is_kept_is_counted_once_and_without_parameters():
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
    images = torch.randn(1024, 512)  # 2 MiB
    assert kept_mib(model, torch.sum, images) == pytest.approx(2 + 2)  # the input, and what the ReLU puts out
    assert step_ratio(model, torch.sum, images, Way()) == 1.0
