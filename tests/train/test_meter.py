"""The loop's own numbers: read at once, summed over steps, and the wait for the loader."""

import pytest
import torch

from reslab.distributed import LOCAL
from reslab.train import meter
from reslab.train.meter import Meter, Reading, Waits


def test_steps_are_read_in_their_order():
    found = Meter(LOCAL, torch.device("cpu"))
    found.add(torch.tensor(0.5), torch.tensor(2.0), torch.tensor(3))
    found.add(torch.tensor(0.25), torch.tensor(1.0), torch.tensor(1), grad_scale=8.0, penalty=torch.tensor(0.125))
    assert len(found) == 2
    assert found.read() == [Reading(0.5, 2.0, 3, 1.0, 0.0), Reading(0.25, 1.0, 1, 8.0, 0.125)]
    assert len(found) == 0


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_what_is_not_finite_stays_noted(loss, norm):
    found = Meter(LOCAL, torch.device("cpu"))
    found.add(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0))
    assert found.bad == 0
    found.add(torch.tensor(loss), torch.tensor(norm), torch.tensor(0))
    found.add(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0))
    assert found.bad == 1  # so that an optimiser that asks for it skips the later steps too


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(meter, "time", made)
    return made


def loop(waits, clock, *, batches, wait_s, compute_s, first_s=0.0):
    """A loop over a loader that takes ``wait_s`` a batch; returns what was said."""

    def loader():
        for index in range(batches):
            clock.now += wait_s + (first_s if index == 0 else 0)
            yield index

    said = []
    for _ in waits.over(loader()):
        clock.now += compute_s
        said.append(waits.complaint(100))
    return [sentence for sentence in said if sentence]


def test_a_slow_loader_is_named_once_with_its_figure(clock):
    waits = Waits()
    said = loop(waits, clock, batches=60, wait_s=0.75, compute_s=0.25)
    assert len(said) == 1
    assert "104 images/s where the network takes 400 (data-bound: 26 %)" in said[0]  # but for the first wait
    assert waits.seconds == pytest.approx(45)
    assert not loop(waits, clock, batches=60, wait_s=0.75, compute_s=0.25)  # the next epoch


@pytest.mark.parametrize(
    ("batches", "wait_s", "compute_s", "first_s"),
    [
        (60, 0.1, 0.9, 0.0),  # a tenth of the time
        (10, 3.0, 0.1, 0.0),  # too few batches to tell
        (30, 0.2, 0.1, 0.0),  # over too soon to matter
        (30, 0.01, 0.99, 40.0),  # the workers had to start
    ],
)
def test_nothing_is_said_without_reason(clock, batches, wait_s, compute_s, first_s):
    assert not loop(Waits(), clock, batches=batches, wait_s=wait_s, compute_s=compute_s, first_s=first_s)
