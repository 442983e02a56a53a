"""What a run reads of itself while it trains, the diagnosis over all of it, and its last steps when it fails."""

import json
from dataclasses import replace

import pytest
from tests.run.small_run import small_run

from reslab.cli.main import main
from reslab.errors import RequestError
from reslab.records import RunFolder
from reslab.run.config import ModelOptions
from reslab.run.diagnose import diagnose_run
from reslab.run.recorder import Display
from reslab.run.train import run_training as train
from reslab.training.failure import NonFiniteError
from reslab.training.options import OptimOptions, TrainOptions


class Notes(Display):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return train(small_run(), tmp_path_factory.mktemp("runs") / "r8")


def test_eight_steps_are_read_from_the_first_to_the_last(done):
    readings = done.folder.read_readings()
    assert [reading.step for reading in readings] == [0, 3, 5, 8, 11, 14, 16, 19]
    losses = {record.step: record for record in done.folder.read_steps()}
    for reading in readings:
        assert reading.loss == pytest.approx(losses[reading.step].loss, rel=1e-6)
        assert reading.update.grad_norm == pytest.approx(losses[reading.step].grad_norm, rel=1e-5)
        assert reading.update.lr == losses[reading.step].lr
        assert [block.name for block in reading.blocks] == ["layer1.0", "layer2.0", "layer3.0"]


def test_readings_change_nothing_in_the_run(done, tmp_path):
    quiet = TrainOptions(epochs=2, device="cpu", threads=1, probe=False)
    without = train(small_run(train=quiet), tmp_path / "r").folder
    assert without.last_weights.read_bytes() == done.folder.last_weights.read_bytes()
    assert without.read_steps() == done.folder.read_steps()
    assert without.read_readings() == []


def test_the_diagnosis_of_a_run_is_over_all_of_its_training(done):
    diagnosis = diagnose_run(done.folder)
    recorded = done.folder.read_readings()
    assert repr(diagnosis.readings[:-1]) == repr(tuple(recorded))  # NaN is equal to NaN there
    assert (diagnosis.readings[-1].step, diagnosis.readings[-1].update) == (20, None)
    assert [record.loss for record in diagnosis.losses] == [record.loss for record in done.folder.read_steps()]
    assert {"UPDATE_RATIO", "CLIP_ALWAYS", "WEIGHT_DECAY"} <= set(diagnosis.judged.clean)  # rules about steps


def test_clipping_at_every_step_is_found(tmp_path):
    folder = train(
        small_run(train=TrainOptions(epochs=2, device="cpu", threads=1, clip_grad_norm=0.05)), tmp_path / "r"
    ).folder
    found = {finding.id: finding for finding in diagnose_run(folder).findings}
    assert found["CLIP_ALWAYS"].number == 1.0


def test_a_run_without_readings_is_diagnosed_as_it_is_now(done, tmp_path):
    quiet = TrainOptions(steps=2, device="cpu", threads=1, probe=False)
    folder = train(small_run(train=quiet), tmp_path / "r").folder
    diagnosis = diagnose_run(folder)
    assert [reading.step for reading in diagnosis.readings] == [2]
    assert "CLIP_ALWAYS" in diagnosis.not_checked


def test_a_network_of_ones_own_is_read_too(tmp_path, monkeypatch):
    (tmp_path / "ownnets.py").write_text(
        "from torch import nn\n"
        "def linear(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    short = TrainOptions(steps=3, device="cpu", threads=1)
    folder = train(small_run(model=ModelOptions(name="ownnets:linear"), train=short), tmp_path / "r").folder
    assert [reading.step for reading in folder.read_readings()] == [0, 1, 2]


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "failed")
    notes = Notes()
    wild = small_run(optim=OptimOptions(lr=300.0), model=ModelOptions(name="resnet8", norm="none"))
    with pytest.raises(NonFiniteError) as caught:
        train(wild, folder.root, display=notes)
    return folder, caught.value


def test_a_failed_run_keeps_its_last_steps_and_says_what_went_before(failed):
    folder, error = failed
    record, flight = folder.read_run(), folder.read_flight()
    assert [one.step for one in flight] == list(range(error.step + 1))
    assert [one.loss for one in flight[:-1]] == [one.loss for one in folder.read_steps()]
    assert set(flight[0].grad_norms) == {p.name for p in folder.read_readings()[0].parameters}
    assert record.failure["flight"] == "flight.jsonl"
    assert record.failure["before"] == error.before
    assert error.before
    assert record.failure["sentence"].endswith(error.before)


def test_a_failed_run_is_diagnosed_by_what_was_read(failed):
    folder, error = failed
    found = diagnose_run(folder)
    assert repr(found.readings) == repr(tuple(folder.read_readings()))
    assert f"(failed after {error.step} steps)" in found.name


def test_a_run_that_never_began_is_no_run(tmp_path):
    with pytest.raises(RequestError, match="contains no trained network"):
        diagnose_run(RunFolder(tmp_path))


def test_overwriting_a_failed_run_removes_what_it_left(failed, tmp_path):
    folder, _ = failed
    short = small_run(train=TrainOptions(steps=1, device="cpu", threads=1))
    copied = RunFolder(tmp_path / "r")
    copied.root.mkdir()
    for path in (folder.config, folder.run, folder.readings, folder.flight):
        (copied.root / path.name).write_bytes(path.read_bytes())
    train(short, copied.root, overwrite=True)
    assert not copied.flight.exists()
    assert [reading.step for reading in copied.read_readings()] == [0]


def test_the_command_says_in_its_error_what_went_before(tmp_path, capsys):
    words = ["train", "--model", "resnet8", "--norm", "none", "--data", "digits", "--lr", "300", "--threads", "1"]
    assert main([*words, "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "r"), "--json"]) == 1
    before, said = RunFolder(tmp_path / "r").read_run().failure["before"], capsys.readouterr()
    assert before
    assert before in said.err
    assert before in json.loads(said.out)["error"]


def test_a_run_that_goes_on_has_the_same_readings(done, tmp_path):
    folder = tmp_path / "cut"

    class Stop(Display):
        def step(self, record):
            if record.step == 13:
                raise ArithmeticError("the power went")

    with pytest.raises(ArithmeticError, match="power"):
        train(small_run(), folder, display=Stop())
    resumed = train(small_run(), folder, resume=True).folder

    def untimed(readings):
        return [replace(reading, duration_s=0.0) for reading in readings]

    assert repr(untimed(resumed.read_readings())) == repr(untimed(done.folder.read_readings()))
