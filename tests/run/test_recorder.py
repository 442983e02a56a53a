"""What TensorBoard is given: read back with its own reader."""

import importlib.util
import statistics

import pytest

from reslab.data import DataOptions
from reslab.errors import RequestError
from reslab.records import RunFolder
from reslab.run.config import ModelOptions, RunConfig
from reslab.run.display import Display
from reslab.run.recorder import TensorBoard, check_track
from reslab.run.train import run_training as train
from reslab.training.options import OptimOptions, ScheduleOptions, TrainOptions

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed: pip install 'reslab[track]'"
)
ignore_its_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def config(*, model="resnet8", **changes):
    settings = {"epochs": 2, "device": "cpu", "threads": 1, "track": "tensorboard"} | changes
    return RunConfig(
        model=ModelOptions(name=model),
        data=DataOptions(name="digits", batch_size=128, workers=0),
        optim=OptimOptions(lr=0.05),
        schedule=ScheduleOptions(kind="cosine"),
        train=TrainOptions(**settings),
    )


def events(folder: RunFolder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0, "tensors": 0})
    return found.Reload()


def scalars(found, name):
    return [(event.step, event.value) for event in found.Scalars(name)]


@needs_tensorboard
@ignore_its_warnings
def test_what_is_recorded_is_what_is_tracked(tmp_path):
    folder = train(config(model="resnet56", steps=12), tmp_path / "r").folder  # of few blocks there is no slope
    found = events(folder)
    steps, epochs, readings = folder.read_steps(), folder.read_epochs(), folder.read_readings()
    assert scalars(found, "train/loss") == [(r.step, pytest.approx(r.loss, rel=1e-6)) for r in steps]
    assert scalars(found, "train/lr") == [(r.step, pytest.approx(r.lr, rel=1e-6, abs=1e-9)) for r in steps]
    assert scalars(found, "train/grad_norm") == [(r.step, pytest.approx(r.grad_norm, rel=1e-6)) for r in steps]
    assert scalars(found, "epoch/val_error") == [(r.step - 1, pytest.approx(r.scores["val_error"])) for r in epochs]
    norms = [[block.grad_norm for block in reading.blocks] for reading in readings]
    at = [reading.step for reading in readings]
    assert scalars(found, "flow/largest_grad_norm") == list(zip(at, map(pytest.approx, map(max, norms)), strict=True))
    assert scalars(found, "flow/smallest_grad_norm") == list(zip(at, map(pytest.approx, map(min, norms)), strict=True))
    shares = [statistics.median(block.shortcut_share for block in reading.blocks) for reading in readings]
    assert scalars(found, "flow/median_shortcut_share") == list(zip(at, map(pytest.approx, shares), strict=True))
    first = [p.update_norm / p.weight_norm for p in readings[0].parameters if len(p.shape) > 1]
    assert scalars(found, "flow/update_ratio")[0] == (0, pytest.approx(statistics.median(first), rel=1e-5))
    assert [step for step, _ in scalars(found, "flow/slope")] == at
    texts = found.Tensors("verdict/text_summary")
    assert [event.step for event in texts] == at
    assert texts[-1].tensor_proto.string_val[0].decode().startswith(("**healthy**", "**warning**", "**sick**"))


@needs_tensorboard
@ignore_its_warnings
def test_a_run_that_goes_on_repeats_no_step(tmp_path):
    class Stop(Display):
        def step(self, record):
            if record.step == 13:
                raise ArithmeticError("the power went")

    with pytest.raises(ArithmeticError, match="power"):
        train(config(), tmp_path / "r", display=Stop())
    folder = train(config(), tmp_path / "r", resume=True).folder
    found = events(folder)
    assert [step for step, _ in scalars(found, "train/loss")] == list(range(20))
    assert [step for step, _ in scalars(found, "epoch/train_loss")] == [9, 19]
    texts = [event.step for event in found.Tensors("verdict/text_summary")]
    assert sorted(set(texts)) == [0, 3, 5, 8, 11, 14, 16, 19]  # of texts, TensorBoard keeps those of both sittings


@needs_tensorboard
@ignore_its_warnings
def test_a_run_may_be_tracked_from_its_second_sitting_on(tmp_path):
    class Stop(Display):
        def step(self, record):
            if record.step == 13:
                raise ArithmeticError("the power went")

    with pytest.raises(ArithmeticError, match="power"):
        train(config(track=""), tmp_path / "r", display=Stop())
    assert not RunFolder(tmp_path / "r").tensorboard.exists()
    folder = train(config(), tmp_path / "r", resume=True).folder
    assert [step for step, _ in scalars(events(folder), "train/loss")] == list(range(10, 20))


@needs_tensorboard
@ignore_its_warnings
def test_a_run_that_replaces_another_shows_none_of_it(tmp_path):
    train(config(steps=3), tmp_path / "r")
    folder = train(config(steps=2), tmp_path / "r", overwrite=True).folder
    assert [step for step, _ in scalars(events(folder), "train/loss")] == [0, 1]


def test_long_runs_are_thinned(tmp_path):
    tracker = TensorBoard(RunFolder(tmp_path), total_steps=64_000)
    assert tracker.every == 64
    assert TensorBoard(RunFolder(tmp_path), total_steps=20).every == 1


def test_without_tensorboard_the_request_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'reslab\[track\]'"):
        train(config(), tmp_path / "r")
    assert not (tmp_path / "r").exists()
    check_track("")
