"""A run's folder: what it holds, and that what it holds is true."""

import hashlib
import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from tests.run.small_run import small_run
from torch import nn

from reslab.data import DataOptions
from reslab.errors import RequestError
from reslab.records import RunFolder
from reslab.records.files import decode
from reslab.run.assemble import build_network
from reslab.run.config import ModelOptions, as_before, load_config
from reslab.run.load import load
from reslab.run.record import deviations
from reslab.run.train import run_training as train
from reslab.tasks.classify import Classify
from reslab.training.failure import NonFiniteError
from reslab.training.options import OptimOptions, ScheduleOptions, TrainOptions


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return train(small_run(), tmp_path_factory.mktemp("runs") / "r8")


def test_the_folder_holds_what_the_design_says(done):
    names = {path.name for path in done.folder.root.iterdir()}
    assert names >= {
        "config.toml", "run.json", "steps.jsonl", "epochs.jsonl", "checkpoints",
        "config.json", "model.safetensors", "report.html",
    }  # fmt: skip


def test_the_saved_config_is_the_resolved_one(done):
    saved = load_config(done.folder.config)
    assert as_before(small_run(), saved) == saved
    speed = (saved.train.amp, saved.train.channels_last, saved.train.compile, saved.data.workers)
    assert speed == ("none", "on", "off", 0)  # too short a run for a trial
    assert "run too short" in done.record.protocol["speed"]
    assert tomllib.loads(done.folder.config.read_text())["model"]["name"] == "resnet8"


def test_run_json_reads_back_equal(done):
    assert done.folder.read_run() == done.record


def test_records_are_complete(done):
    assert [r.step for r in done.folder.read_steps()] == list(range(20))
    assert [r.epoch for r in done.folder.read_epochs()] == [0, 1]
    assert {0, 19} <= {r.step for r in done.folder.read_readings()}


@pytest.mark.parametrize(("weights", "which"), [("", "best"), ("last", "last")])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluate_finds_the_errors_that_run_json_holds(done, weights, which, split):
    found = load(done.folder.root, weights=weights).evaluate(split=split)
    scores = getattr(done.record, which).scores
    assert found["error"] == scores[f"{split}_error"]
    assert found["loss"] == pytest.approx(scores[f"{split}_loss"], rel=1e-6)
    assert found["same_data"]


def test_weights_carry_their_card(done):
    card = decode(done.folder.card.read_text())
    weights = safetensors.torch.load_file(done.folder.weights)
    assert card["classes"] == [str(i) for i in range(10)]
    assert set(card["preprocess"]) == {"height", "width", "channels", "mean", "std", "resize"}
    assert {"conv1.weight", "layer1.0.conv2.weight", "fc.bias"} <= set(weights)


def test_an_occupied_folder_is_left_as_it_is(done):
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in done.folder.root.rglob("*") if p.is_file()}
    with pytest.raises(RequestError, match="--resume"):
        train(small_run(), done.folder.root)
    with pytest.raises(RequestError, match=r"train\.epochs was 2, now 3"):
        train(small_run(train=TrainOptions(epochs=3, device="cpu", threads=1)), done.folder.root, resume=True)
    with pytest.raises(RequestError, match="6n"):  # --overwrite with a request that can't be carried out
        train(small_run(model=ModelOptions(name="resnet9")), done.folder.root, overwrite=True)
    after = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in done.folder.root.rglob("*") if p.is_file()}
    assert before == after


def test_resuming_a_finished_run_changes_nothing(done):
    assert train(small_run(), done.folder.root, resume=True).record == done.record


def test_overwrite_replaces_the_run(tmp_path):
    short = small_run(train=TrainOptions(steps=2, device="cpu", threads=1))
    train(short, tmp_path / "r")
    (tmp_path / "r" / "notes.txt").write_text("mine")
    train(short, tmp_path / "r", overwrite=True)
    assert len(RunFolder(tmp_path / "r").read_steps()) == 2
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"


def test_without_validation_the_last_weights_are_the_ones(tmp_path):
    data = DataOptions(name="digits", batch_size=128, workers=0, val_split=0)
    outcome = train(small_run(data=data, train=TrainOptions(steps=2, device="cpu", threads=1)), tmp_path / "r")
    assert outcome.record.best is None
    assert "val_error" not in outcome.record.last.scores
    assert decode(outcome.folder.card.read_text())["provenance"]["selected"] == "last"
    assert outcome.record.protocol["validation"] == "none"


def test_divergence_leaves_the_batch_and_the_place(tmp_path):
    with pytest.raises(NonFiniteError):
        train(small_run(optim=OptimOptions(lr=1e30)), tmp_path / "r")
    folder = RunFolder(tmp_path / "r")
    record = folder.read_run()
    saved = safetensors.torch.load_file(folder.failure / "batch.safetensors")
    assert (record.status, record.failure["what"]) == ("failed", "loss")
    assert record.failure["module"]
    assert saved["inputs"].shape == (128, 1, 8, 8)
    assert saved["targets"].shape == (128,)
    assert len(folder.read_steps()) == record.failure["step"]


def test_a_builder_of_ones_own_is_trained(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "def linear(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
        "def wrong(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes + 1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    short = TrainOptions(steps=2, device="cpu", threads=1)
    assert (
        train(small_run(model=ModelOptions(name="mynets:linear"), train=short), tmp_path / "r").record.status == "done"
    )
    with pytest.raises(RequestError, match="expected \\(2, 10\\)"):
        train(small_run(model=ModelOptions(name="mynets:wrong"), train=short), tmp_path / "r2")
    with pytest.raises(RequestError, match="Can't import"):
        train(small_run(model=ModelOptions(name="mynets:absent"), train=short), tmp_path / "r3")
    assert not (tmp_path / "r2").exists()


def test_twins_see_the_same_batches_and_start_from_the_same_values(tmp_path):
    short = TrainOptions(steps=1, device="cpu", threads=1)
    folders = [
        train(
            small_run(model=ModelOptions(name=name), train=short, optim=OptimOptions(lr=1e-30)), tmp_path / name
        ).folder
        for name in ("resnet8", "plain8")
    ]
    first, second = (safetensors.torch.load_file(folder.last_weights) for folder in folders)
    learned = [name for name in first if "running" not in name and "num_batches" not in name]
    for name in learned:  # one step at this rate moves nothing by more than 1e-20
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-20)


def test_deviations_from_the_paper_are_listed():
    assert deviations(small_run()) == []
    paper = small_run(
        model=ModelOptions(name="resnet20"),
        data=DataOptions(name="cifar10"),
        optim=OptimOptions(),
        schedule=ScheduleOptions(kind="multistep"),
        train=TrainOptions(steps=64_000, amp="none"),
    )
    assert len(deviations(paper)) == 1
    changed = deviations(replace(paper, optim=OptimOptions(lr=0.2, nesterov=True)))
    assert "optim.lr is 0.2, paper 0.1" in changed
    assert "optim.nesterov is True, paper False" in changed


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, sent):
    command = [
        sys.executable, "-m", "reslab", "train", "--model", "resnet8", "--data", "digits", "--epochs", "12",
        "--threads", "1", "--device", "cpu", "--workers", "0",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True, env=environment)
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "cut")], stderr=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stderr:  # once two epochs are done, somewhere in the third
        if line.startswith("epoch   2"):
            break
    process.send_signal(sent)
    process.communicate()
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    subprocess.run(
        [*command, "--out", str(tmp_path / "cut"), "--resume"], check=True, capture_output=True, env=environment
    )
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    assert whole.last_weights.read_bytes() == cut.last_weights.read_bytes()
    assert [r.loss for r in whole.read_steps()] == [r.loss for r in cut.read_steps()]


def test_a_module_with_several_inputs_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x)

    monkeypatch.setattr("reslab.run.assemble.build_network", lambda *a, **k: Two())
    with pytest.raises(RequestError, match="can't take images of 1x8x8"):
        train(small_run(), tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("parameters", "channels", "is_built"),
    [
        ("num_classes, in_channels", 1, True),
        ("num_classes, in_chans=3", 1, True),
        ("num_classes", 3, True),
        ("num_classes", 1, False),
        ("in_channels", 3, False),
    ],
)
def test_builders_of_other_libraries_are_called_as_they_are_used_to(
    tmp_path, monkeypatch, parameters, channels, is_built
):
    given = "in_channels" if "in_channels" in parameters else "in_chans" if "in_chans" in parameters else "3"
    (tmp_path / "othernets.py").write_text(
        f"from torch import nn\ndef build({parameters}):\n    return nn.Conv2d({given}, 4, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("othernets", None)
    config = ModelOptions(name="othernets:build")
    if is_built:
        assert build_network(config, Classify(4), in_channels=channels).in_channels == channels
    else:
        with pytest.raises(RequestError, match="is called with num_classes and in_channels"):
            build_network(config, Classify(4), in_channels=channels)


@pytest.mark.parametrize(
    ("body", "message"),
    [("return None", "returned a NoneType"), ("return open(num_classes, x=1)", "is called with num_classes")],
)
def test_a_builder_that_goes_wrong_is_refused_with_its_name(tmp_path, monkeypatch, body, message):
    (tmp_path / "brokennets.py").write_text(f"def build(num_classes, in_channels):\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("brokennets", None)
    with pytest.raises(RequestError, match=f"brokennets:build {message}"):
        train(small_run(model=ModelOptions(name="brokennets:build")), tmp_path / "r")


def test_other_data_is_evaluated_whole(done, tmp_path):
    from PIL import Image

    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.new("L", (8, 8), 20 * label).save(tmp_path / str(label) / "one.png")
    found = load(done.folder.root).evaluate(str(tmp_path))
    assert (found["split"], found["num_images"], found["same_data"]) == ("train", 10, False)


def test_a_run_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    outcome = train(small_run(train=TrainOptions(steps=1, device="cpu", threads=1)), tmp_path / "r")
    record = outcome.record
    record.status, record.data["fingerprint"] = "interrupted", "another"
    outcome.folder.run.write_text(record.to_json())
    with pytest.raises(RequestError, match="started on other data"):
        train(small_run(train=TrainOptions(steps=1, device="cpu", threads=1)), tmp_path / "r", resume=True)


@pytest.mark.slow
def test_ctrl_c_with_loader_workers_ends_cleanly_and_resumes(tmp_path):
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (90, 80), (number * 20, 10, 200)).save(tmp_path / "photos" / label / f"{number}.png")
    command = [
        sys.executable, "-m", "reslab", "train", "--model", "resnet8", "--data", str(tmp_path / "photos"),
        "--epochs", "200", "--image-size", "72", "--batch-size", "4", "--threads", "1", "--device", "cpu",
        "--workers", "2", "--out", str(tmp_path / "r"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    for line in process.stderr:
        if line.startswith("epoch   2"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, rest = process.communicate()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert RunFolder(tmp_path / "r").read_run().status == "interrupted"
    resumed = subprocess.run([*command, "--resume", "--epochs", "3"], capture_output=True, text=True, env=environment)
    assert resumed.returncode == 2
    assert "train.epochs was 200, now 3" in resumed.stderr


def test_a_run_is_evaluated_from_another_folder_than_it_was_trained_in(tmp_path, monkeypatch):
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / "mine" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 60 * number).save(tmp_path / "mine" / label / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    data = DataOptions(name="mine", dir="somewhere", batch_size=4, workers=0, val_split=0.25)
    short = TrainOptions(steps=1, device="cpu", threads=1)
    outcome = train(small_run(data=data, train=short), tmp_path / "r")
    assert load_config(outcome.folder.config).data.dir == str(tmp_path / "somewhere")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    found = load(outcome.folder.root).evaluate()
    best = outcome.record.best.scores["val_error"]
    assert (found["split"], found["error"], found["same_data"]) == ("val", best, True)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_card_is_named(tmp_path, content):
    outcome = train(small_run(train=TrainOptions(steps=1, device="cpu", threads=1)), tmp_path / "r")
    outcome.folder.card.write_text(content)
    with pytest.raises(RequestError, match=r"config\.json is (damaged|not a card)"):
        load(outcome.folder.root).evaluate()
