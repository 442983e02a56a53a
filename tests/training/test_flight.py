"""The flight recorder: it keeps the last steps, changes nothing, and speaks when training fails or diverges."""

import math

import pytest
import torch
from torch import nn

from reslab.errors import WorkFailed
from reslab.records import StepRecord
from reslab.training import loop
from reslab.training.failure import KEPT_STEPS, FlightRecorder, clip_gradients
from reslab.training.loop import Recorder, fit
from reslab.training.optim import sgd
from reslab.training.options import TrainOptions
from reslab.training.schedule import constant


class Keep(Recorder):
    def __init__(self):
        self.steps, self.flights, self.notes = [], [], []

    def step(self, record):
        self.steps.append(record)

    def flight(self, records):
        self.flights.append(list(records))

    def note(self, text):
        self.notes.append(text)


def with_gradients(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 2))
    (model(torch.randn(4, 5)) ** 2).sum().backward()
    return model


@pytest.mark.parametrize("max_norm", [math.inf, 0.5, 1e6])
def test_clipping_is_torchs_own_bit_for_bit(max_norm):
    ours, theirs = with_gradients(), with_gradients()
    norms = [p.grad.norm().item() for p in ours.parameters()]
    total, each = clip_gradients(list(ours.parameters()), max_norm)
    assert torch.equal(total, nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, foreach=True))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert each.tolist() == pytest.approx(norms)


def test_a_parameter_without_gradient_has_a_norm_of_nothing():
    model = with_gradients()
    model[1].weight.grad = None
    total, each = clip_gradients(list(model.parameters()), math.inf)
    assert each[2] == 0
    rest = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert total.item() == pytest.approx(rest.norm().item())
    empty, none = clip_gradients(list(nn.Linear(2, 2).parameters()), 1.0)
    assert (empty, none.tolist()) == (0, [0, 0])


def test_other_precisions_side_by_side():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double())
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    total, each = clip_gradients(list(model.parameters()), math.inf)
    assert each.tolist() == pytest.approx([6.0, 12**0.5, 6.0, 12**0.5])
    assert total.item() == pytest.approx(96**0.5)


def record(step, loss=1.0):
    return StepRecord(step, 0, 0.1, loss, 1.0)


def test_the_last_hundred_steps_are_kept():
    model = nn.Linear(2, 1)
    flight = FlightRecorder(model, model.parameters())
    for step in range(250):
        flight.note(step, torch.tensor([step, 2.0 * step]))
        flight.complete(record(step))
    kept = flight.records()
    assert [one.step for one in kept] == list(range(150, 250))
    assert kept[-1].grad_norms == {"weight": 249.0, "bias": 498.0}


def test_steps_that_were_not_read_from_the_device_yet_push_nothing_out():
    model = nn.Linear(2, 1)
    flight = FlightRecorder(model, model.parameters(), read_every=32)
    for step in range(192):
        flight.note(step, torch.tensor([1.0, 1.0]))
        if step % 32 == 31:
            for one in range(step - 31, step + 1):
                flight.complete(record(one))
    for step in range(192, 223):  # not known yet
        flight.note(step, torch.tensor([1.0, 1.0]))
    assert [one.step for one in flight.records()] == list(range(192 - KEPT_STEPS, 192))


def losses_said(losses):
    model = nn.Linear(2, 1)
    flight, said = FlightRecorder(model, model.parameters()), []
    for step, loss in enumerate(losses):
        flight.note(step, torch.tensor([loss, loss]))
        said.append(flight.complete(record(step, loss)))
    return [(step, text) for step, text in enumerate(said) if text]


def test_a_loss_that_goes_back_to_where_it_began_is_a_divergence_said_once():
    falling, high = [2.3 * 0.95**step for step in range(60)], [2.4] * 60
    [(step, text)] = losses_said([*falling, *high])
    assert step == 69
    assert text.startswith("The loss is 2.4 at step 69 and was 0.141: training diverges. ")


@pytest.mark.parametrize(
    "losses",
    [
        [2.3] * 200,
        [2.3 * 0.95**step for step in range(200)],
        [2.3] * 10 + [0.01] * 90 + [0.5] * 100,  # worse, but most of what was learnt is still there
        [2.3] * 10 + [0.01] * 90 + [5.0] * 4 + [0.01] * 96,  # a few bad batches
        [5.0, 9.0, 2.0],
    ],
    ids=["flat", "falling", "worse", "spike", "short"],
)
def test_other_losses_are_no_divergence(losses):
    assert losses_said(losses) == []


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def train(model, loaders, task, *, recorder, lr=lambda step: 0.05, steps=30, **options):
    return fit(
        model,
        task,
        (loaders[0], None),
        optimizer=sgd(model, momentum=0.0, weight_decay=0.0),
        schedule=lr,
        options=TrainOptions(steps=steps, **options),
        recorder=recorder,
    )


class Explodes(nn.Module):
    """Multiplies the gradient of what it is given by more at each call, and says NaN in the end."""

    def __init__(self, *, start, stop, factor=1.5):
        super().__init__()
        self.calls, self.start, self.stop, self.factor = 0, start, stop, factor

    def forward(self, x):
        scale = self.factor ** max(0, self.calls - self.start)
        self.calls += 1
        if self.calls > self.stop:
            return x * math.nan
        return x.detach() + (x - x.detach()) * scale


def test_a_failure_tells_which_gradient_grew_first(loaders, task):
    model = network()
    model.insert(2, Explodes(start=15, stop=29))
    keep = Keep()
    with pytest.raises(WorkFailed) as caught:
        train(model, loaders, task, recorder=keep, lr=lambda step: 1e-4, steps=40)
    assert (caught.value.step, caught.value.origin.module) == (29, "2")
    assert "The gradient of 1." in caught.value.before  # the layer before it; the one behind has the usual gradient
    assert "first of 2 of 4 parameters to grow; the loss had not risen yet." in str(caught.value)
    [records] = keep.flights
    assert [one.step for one in records] == list(range(30))
    assert math.isnan(records[-1].loss)
    assert [one.loss for one in records[:-1]] == [one.loss for one in keep.steps]
    for one in records[:-1]:
        assert one.grad_norm == pytest.approx(math.sqrt(sum(norm**2 for norm in one.grad_norms.values())))


def test_a_failure_out_of_nothing_is_said_to_be_one(loaders, task):
    model = network()
    model.insert(2, Explodes(start=99, stop=29))
    with pytest.raises(WorkFailed, match="Nothing led up to it: in the 29 steps before it"):
        train(model, loaders, task, recorder=Keep(), steps=40)


def test_a_failure_that_is_noticed_late_ends_its_history_at_its_own_step(loaders, task, monkeypatch):
    told = []
    for read_every in (1, 20):
        monkeypatch.setattr(loop, "reading_interval", lambda *_, every=read_every: every)
        model, keep = network(), Keep()
        model.insert(2, Explodes(start=99, stop=29))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=True)
        with pytest.raises(WorkFailed) as caught:
            fit(
                model,
                task,
                (loaders[0], None),
                optimizer=optimizer,
                schedule=constant(0.05),
                options=TrainOptions(steps=60),
                recorder=keep,
            )
        told.append((caught.value.step, caught.value.before, [one.step for one in keep.flights[0]]))
    assert told[0] == told[1]
    assert told[0][2] == list(range(30))


def test_a_training_that_is_well_says_nothing(loaders, task):
    keep = Keep()
    train(network(), loaders, task, recorder=keep)
    assert (keep.flights, keep.notes) == ([], [])


def test_a_training_that_diverges_without_a_nan_says_so(loaders, task):
    keep = Keep()
    model = network()
    train(model, loaders, task, recorder=keep, lr=lambda step: 0.02 if step < 40 else 8.0, steps=50)
    assert len(keep.notes) == len(keep.flights) == 1
    assert "training diverges." in keep.notes[0]
    assert keep.flights[0][-1].step == int(keep.notes[0].split("at step ")[1].split()[0])
