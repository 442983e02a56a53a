"""Schedules against torch's own schedulers, step by step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reslab.errors import RequestError
from reslab.training import schedule

STEPS = 50


def torch_rates(make_scheduler, *, lr=0.1, steps=STEPS):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(
            schedule.multistep(0.1, milestones=[20, 35]),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 35]),
            id="multistep",
        ),
        pytest.param(
            schedule.cosine(0.1, total_steps=STEPS),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
            id="cosine",
        ),
        pytest.param(
            schedule.one_cycle(0.1, total_steps=STEPS),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS, cycle_momentum=False),
            id="one_cycle",
        ),
        pytest.param(
            schedule.constant(0.1), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0), id="constant"
        ),
    ],
)
def test_rates_equal_torchs(ours, theirs):
    expected = torch_rates(theirs)
    assert [ours(step) for step in range(STEPS)] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(total=st.integers(2, 400), lr=st.floats(1e-4, 10))
def test_one_cycle_is_finite_positive_and_peaks_at_lr(total, lr):
    rates = [schedule.one_cycle(lr, total_steps=total)(step) for step in range(total)]
    assert all(0 < rate <= lr * (1 + 1e-9) for rate in rates)
    assert rates[-1] == pytest.approx(lr / 25 / 1e4) or total < 4


def test_warm_up_lies_over_the_schedule_and_ends():
    base = schedule.multistep(0.1, milestones=[20])
    warmed = schedule.warm_up(base, steps=10, start=0.1)
    assert warmed(0) == pytest.approx(0.01)
    assert warmed(5) == pytest.approx(0.1 * 0.55)
    assert [warmed(step) for step in range(10, STEPS)] == [base(step) for step in range(10, STEPS)]


def test_warm_up_of_no_steps_changes_nothing():
    assert schedule.warm_up(schedule.constant(0.3), steps=0)(0) == 0.3


@pytest.mark.parametrize(("steps", "start"), [(-1, 0.1), (5, 0.0), (5, 1.5)])
def test_impossible_warm_up_is_refused(steps, start):
    with pytest.raises(RequestError, match="warm-up"):
        schedule.warm_up(schedule.constant(0.1), steps=steps, start=start)
