"""The rate that was really applied, the hold, and reading the device late."""

import pytest
import torch

from reslab.models.catalog import create_model
from reslab.training import loop
from reslab.training.failure import NonFiniteError
from reslab.training.loop import Recorder, fit
from reslab.training.optim import lamb, muon, sgd
from reslab.training.options import TrainOptions
from reslab.training.schedule import Hold, RateCheck, constant, set_rate


class Notes(Recorder):
    """Keeps what it is told."""

    def __init__(self):
        self.notes, self.steps = [], []

    def note(self, text):
        self.notes.append(text)

    def step(self, record):
        self.steps.append(record)


def train(loaders, task, *, model=None, optimizer=sgd, schedule=None, steps=6):
    model = model or create_model("resnet8", 3, in_channels=1)
    recorder = Notes()
    fit(
        model,
        task,
        (loaders[0], None),
        optimizer=optimizer(model),
        schedule=schedule or constant(0.05),
        options=TrainOptions(steps=steps),
        recorder=recorder,
    )
    return model, recorder


def test_the_recorded_rate_is_the_scheduled_one(loaders, task):
    _, recorder = train(loaders, task)
    assert [step.lr for step in recorder.steps] == [0.05] * 6
    assert recorder.notes == []


def test_a_rate_that_something_else_changed_is_named_once_and_recorded_as_applied(loaders, task):
    model = create_model("resnet8", 3, in_channels=1)

    def meddling(model):
        optimizer = sgd(model)
        optimizer.register_step_pre_hook(lambda *_: set_rate(optimizer, 0.005))
        return optimizer

    _, recorder = train(loaders, task, model=model, optimizer=meddling)
    assert len(recorder.notes) == 1
    assert "rate of step 0 was 0.005, and the schedule says 0.05" in recorder.notes[0]
    assert {step.lr for step in recorder.steps[:1]} == {0.005}


def test_groups_with_a_share_of_the_rate_are_no_deviation():
    model = create_model("resnet8")
    optimizer, check = sgd(model, norm_lr=2.0), RateCheck()
    set_rate(optimizer, 0.1)
    assert check.see(0, expected=0.1, optimizer=optimizer) is None


def test_a_hold_ends_when_the_network_has_learned_and_says_so(loaders, task):
    _, recorder = train(loaders, task, steps=205, schedule=Hold(constant(0.05), total_steps=205, until=0.9))
    rates = [step.lr for step in recorder.steps]
    assert rates[:100] == [pytest.approx(0.005)] * 100
    assert rates[100:] == [0.05] * 105
    assert recorder.notes == ["warm-up ended after 100 steps: the rate is the scheduled one now"]


def test_a_hold_that_never_ends_is_named(loaders, task):
    _, recorder = train(loaders, task, steps=18, schedule=Hold(constant(0.05), total_steps=18, until=0.0))
    assert [step.lr for step in recorder.steps] == [pytest.approx(0.005)] * 18
    assert len(recorder.notes) == 1
    assert "has not ended after 9 steps" in recorder.notes[0]


def poisoned(loader, *, at):
    """The loader with NaN in one batch of every epoch."""

    class Poisoned:
        batch_size = loader.batch_size

        def __len__(self):
            return len(loader)

        def batches(self, epoch=0, *, start=0):
            for index, (images, labels) in enumerate(loader.batches(epoch, start=start), start):
                yield (torch.full_like(images, float("nan")) if (epoch, index) == at else images), labels

    return Poisoned()


@pytest.mark.parametrize("optimizer", [sgd, lamb, muon])
def test_a_failure_that_is_noticed_late_leaves_the_weights_as_before_it(loaders, task, optimizer, monkeypatch):
    monkeypatch.setattr(loop, "reading_interval", lambda *_: 100)
    torch.manual_seed(0)
    start = create_model("resnet8", 3, in_channels=1).state_dict()

    def fresh():
        model = create_model("resnet8", 3, in_channels=1)
        model.load_state_dict(start)
        return model

    good, _ = train(loaders, task, model=fresh(), optimizer=optimizer, steps=4)
    model = fresh()
    loader = poisoned(loaders[0], at=(1, 1))  # three batches per epoch: step 4
    with pytest.raises(NonFiniteError) as caught:
        train((loader, None), task, model=model, optimizer=optimizer, steps=12)
    assert (caught.value.step, caught.value.what) == (4, "loss")
    assert caught.value.origin.direction == "input"
    assert torch.isnan(caught.value.batch[0]).all()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, good.get_parameter(name), msg=name)


def test_reading_late_changes_no_record(loaders, task, monkeypatch):
    torch.manual_seed(0)
    start = create_model("resnet8", 3, in_channels=1).state_dict()
    found = []
    for read_every in (1, 2, 100):
        monkeypatch.setattr(loop, "reading_interval", lambda *_, every=read_every: every)
        model = create_model("resnet8", 3, in_channels=1)
        model.load_state_dict(start)
        found.append(train(loaders, task, model=model, steps=7)[1].steps)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 7
