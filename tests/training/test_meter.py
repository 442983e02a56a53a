"""The loop's own numbers: read at once, summed over steps, and the wait for the loader."""

import math

import pytest
import torch

from reslab.distributed import LOCAL
from reslab.records import StepRecord
from reslab.training import progress
from reslab.training.progress import Meter, Reading, Taken, Waits


def add(meter, step, loss, norm, *, score=None, scale=1.0, penalty=None):
    taken = Taken(torch.tensor(loss), 16, *(None if x is None else torch.tensor(x) for x in (score, penalty)))
    meter.add(StepRecord(step, 0, 0.1, math.nan, math.nan), taken, torch.tensor(norm), scale)


def test_steps_are_read_in_their_order():
    found = Meter(LOCAL)
    add(found, 0, 0.5, 2.0, score=3.0)
    add(found, 1, 0.25, 1.0, scale=8.0, penalty=0.125)
    assert found.read() == [
        Reading(StepRecord(0, 0, 0.1, 0.5, 2.0), 16, 3.0, 1.0),
        Reading(StepRecord(1, 0, 0.1, 0.25, 1.0, l1_penalty=0.125), 16, None, 8.0),
    ]
    assert found.rows == []


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_what_is_not_finite_stays_noted(loss, norm):
    found = Meter(LOCAL)
    add(found, 0, 1.0, 1.0)
    assert found.bad == 0
    add(found, 1, loss, norm)
    add(found, 2, 1.0, 1.0)
    assert found.bad == 1  # so that an optimiser that asks for it skips the later steps too


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
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
    assert "104 items/s where the network takes 400 (data-bound: 26 %)" in said[0]  # but for the first wait
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
