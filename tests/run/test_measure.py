"""What a run's network uses its depth for, and what its step costs: on the run's own weights, read back as written."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from small_run import small_run
from torch import nn

from reslab.distributed import LOCAL
from reslab.errors import RequestError
from reslab.probe.shattering import shattering
from reslab.records import RunFolder
from reslab.run.assemble import gather
from reslab.run.config import ModelOptions
from reslab.run.diagnose import first_batch
from reslab.run.display import Display
from reslab.run.measure import kept_mib, record_costs, record_depth, step_ratio
from reslab.run.train import run_training as train
from reslab.training.execution import ExecutionMode
from reslab.training.options import TrainOptions

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "has_paths"), [("resnet8", True), ("plain8", False)])
def test_the_depth_is_that_of_the_first_and_of_the_last_weights(tmp_path, name, has_paths):
    config = small_run(model=ModelOptions(name=name))
    folder = train(config, tmp_path / "run").folder
    found = record_depth(folder)
    assert folder.read_depth() == found
    subject = gather(config, Display(), ranks=LOCAL)
    batch = first_batch(subject.data, subject.task, config, ranks=LOCAL)
    assert found["start"].shattering == shattering(subject.model.train(), batch[0])
    subject.model.load_state_dict(load_file(folder.last_weights))
    assert found["end"].shattering == shattering(subject.model.train(), batch[0])
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
        folder = train(small_run(train=TrainOptions(epochs=1, device="cpu", threads=1, amp=amp)), tmp_path / amp).folder
        costs[amp] = record_costs(folder)
        assert folder.read_costs() == costs[amp]
    assert 0.4 < costs["bf16"]["kept_mib"] / costs["none"]["kept_mib"] < 0.8
    assert costs["none"]["step_ratio"] == 1.0
    assert costs["bf16"]["step_ratio"] > 0


def test_what_is_kept_is_counted_once_and_without_parameters():
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
    images = torch.randn(1024, 512)  # 2 MiB
    assert kept_mib(model, lambda: model(images).sum()) == pytest.approx(2 + 2)  # the input, and the ReLU's output
    assert step_ratio(model, lambda m, x: m(x).sum(), images, ExecutionMode()) == 1.0
