"""Two processes of torchrun beside one: the same gradients, weights, numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reslab.distributed import LOCAL, Ranks, launched_ranks
from reslab.errors import RequestError
from reslab.layers.nd import SyncedBatchNorm, sync_norms
from reslab.models.catalog import create_model

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([*command, SCRIPT, out], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """What one process finds."""
    from tests.two_processes import results

    return results(LOCAL)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one", "five", "l1", "parts"])
def test_two_processes_train_as_one(both, alone, case):
    """One step of SGD without momentum is the gradient: equal weights after it are equal summed gradients."""
    if (
        case == "parts"
    ):  # batch norm sees each part of all processes, and those are other images than one process's parts
        torch.testing.assert_close(both[0][case]["weights"], both[1][case]["weights"])
        return
    for found in both:
        torch.testing.assert_close(found[case]["weights"], alone[case]["weights"], rtol=1e-7, atol=1e-9)
        assert found[case]["loss"] == pytest.approx(alone[case]["loss"], rel=1e-6)
        assert found[case]["grad_norm"] == pytest.approx(alone[case]["grad_norm"], rel=1e-5)


@pytest.mark.slow
def test_without_synced_norms_the_gradients_are_others(both, alone):
    ours, theirs = both[0]["plain_norms"]["weights"], alone["one"]["weights"]
    assert not torch.allclose(ours["conv1.weight"], theirs["conv1.weight"], rtol=1e-7)
    torch.testing.assert_close(ours["conv1.weight"], both[1]["plain_norms"]["weights"]["conv1.weight"])


@pytest.mark.slow
def test_metrics_are_those_of_all_images(both, alone):
    for found in both:
        assert found["evaluated"]["num_images"] == 23
        assert found["evaluated"]["error"] == alone["evaluated"]["error"]
        assert found["evaluated"]["loss"] == pytest.approx(alone["evaluated"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_torchrun_writes_one_run(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    words = ["-m", "reslab", "train", "--recipe", "tiny", "--epochs", "1", "--device", "cpu", "--out", "run", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
    assert len(steps) == 20
    assert done.stdout.count('"num_parameters"') == 1
    assert done.stderr.count("speed: ") == 1


def test_a_process_alone_is_the_first_of_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert launched_ranks() == Ranks(0, 1)
    assert LOCAL.any(True)
    assert LOCAL.sum(torch.tensor(3.0)) == 3


@pytest.mark.parametrize(("rank", "world", "sentence"), [("x", "2", "should hold numbers"), ("2", "2", "is not below")])
def test_an_impossible_environment_is_refused(monkeypatch, rank, world, sentence):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(RequestError, match=sentence):
        launched_ranks()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "999")):
        monkeypatch.setenv(name, value)
    assert launched_ranks().device == torch.device("cpu")
    with pytest.raises(RequestError, match="started a process for GPU 999"):
        launched_ranks(torch.device("cuda"))


def test_syncing_changes_classes_and_nothing_else():
    model, twin = create_model("resnet8"), create_model("resnet8")
    twin.load_state_dict(model.state_dict())
    sync_norms(twin)
    assert list(twin.state_dict()) == list(model.state_dict())
    assert sum(isinstance(module, SyncedBatchNorm) for module in twin.modules()) == 7
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(twin(images), model(images))  # alone it is plain batch norm
    assert torch.equal(twin.bn1.running_var, model.bn1.running_var)
    assert not any(
        isinstance(module, SyncedBatchNorm) for module in sync_norms(nn.Sequential(nn.GroupNorm(1, 2))).modules()
    )
