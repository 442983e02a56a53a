"""What went before a failure, told from histories made by hand."""

import math
import random
from dataclasses import replace

import pytest

from reslab.records.training import FlightRecord
from reslab.training.failure import describe_before, describe_onset, growth_of

NAMES = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "fc.weight")


def history(steps=100, *, first=400, loss=None, gradients=None, seed=0):
    """Noisy losses about 1 and gradients about 0.1, each times what a function of the step says, and a NaN at the end.

    Args:
        steps: before the one that fails.
        first: number of the first one.
        loss: index of the step to a factor.
        gradients: the same by name.
    """
    rng = random.Random(seed)
    records = []
    for index in range(steps):
        factors = {name: (gradients or {}).get(name, lambda i: 1.0)(index) for name in NAMES}
        norms = {name: 0.1 * factor * rng.lognormvariate(0, 0.3) for name, factor in factors.items()}
        value = rng.lognormvariate(0, 0.2) * (loss(index) if loss else 1.0)
        total = math.sqrt(sum(norm**2 for norm in norms.values()))
        records.append(FlightRecord(first + index, 4, 0.1, value, total, norms))
    nothing = dict.fromkeys(NAMES, math.nan)
    return [*records, FlightRecord(first + steps, 4, 0.1, math.nan, math.nan, nothing)]


def growing(start, factor):
    return lambda index: factor ** max(0, index - start)


def test_a_slow_growth_in_one_layer_is_named_with_step_and_factor():
    said = describe_before(history(gradients={"layer1.0.conv2.weight": growing(50, 1.15)}, loss=growing(80, 1.3)))
    found = growth_of(
        [(r.step, r.grad_norms["layer1.0.conv2.weight"]) for r in history(gradients={NAMES[2]: growing(50, 1.15)})],
        least=10,
    )
    assert found.start == pytest.approx(450, abs=6)
    assert found.factor == pytest.approx(1.15, abs=0.02)
    assert found.times == pytest.approx(1.15**49, rel=1.0)
    assert "The gradient of layer1.0.conv2.weight grew from step 4" in said
    assert "by a factor of 1.14 per step" in said
    assert "the first of 1 of 4 parameters to grow; the loss followed" in said


def test_the_first_of_several_is_named():
    gradients = {name: growing(start, 1.5) for name, start in zip(NAMES, (80, 70, 60, 85), strict=True)}
    said = describe_before(history(gradients=gradients))
    assert "The gradient of layer1.0.conv2.weight grew from step 459 on by a factor of 1.49 per step" in said
    assert said.endswith("the first of 4 of 4 parameters to grow; the loss had not risen yet.")


def test_a_nan_from_one_batch_comes_out_of_nothing():
    for seed in range(20):
        said = describe_before(history(seed=seed))
        assert said.startswith("Nothing led up to it: in the 100 steps before it neither the loss nor any"), said


def test_a_loss_that_rose_first_is_said_to():
    gradients = dict.fromkeys(NAMES, growing(90, 3.0))
    said = describe_before(history(loss=growing(60, 1.2), gradients=gradients))
    assert said.startswith("The loss grew from step 4")
    assert "by a factor of 1.2" in said
    assert "the gradients of 4 of 4 parameters followed, first that of" in said


def test_a_loss_that_rose_alone_is_said_to():
    said = describe_before(history(loss=growing(60, 1.2)))
    assert said.startswith("The loss grew from step 4")
    assert said.endswith("while no parameter's gradient did.")


def test_a_jump_at_the_last_step_is_no_growth_per_step():
    said = describe_before(history(gradients={"fc.weight": lambda index: 1000.0 if index == 99 else 1.0}))
    assert "The gradient of fc.weight jumped at step 499, to" in said
    assert "a step" not in said


def test_a_growth_older_than_what_is_known_is_said_to_be():
    said = describe_before(history(gradients={"conv1.weight": growing(0, 1.1)}))
    assert "grew from before step 424 on by a factor of 1.1" in said


def test_a_value_that_came_back_has_not_grown():
    spike = {"fc.weight": lambda index: 1000.0 if 50 <= index < 60 else 1.0}
    assert describe_before(history(gradients=spike)).startswith("Nothing led up to it")


def test_the_failing_steps_own_numbers_count_where_they_are_finite():
    records = history(gradients={"fc.weight": growing(95, 3.0)})
    last = replace(records[-1], grad_norms=dict.fromkeys(NAMES, 0.1) | {"fc.weight": 0.1 * 3.0**5})
    assert "The gradient of fc.weight grew from step 49" in describe_before([*records[:-1], last])


def test_few_steps_are_told_one_by_one():
    assert describe_before(history(0)) == ""
    one = history(1)
    assert describe_before(one) == (
        f"The only step before it had a loss of {one[0].loss:.3g} and a gradient norm of {one[0].grad_norm:.3g}."
    )
    three = history(3, loss=growing(0, 10.0))
    assert f"The 3 steps before it had a loss of {three[0].loss:.3g}, {three[1].loss:.3g}" in describe_before(three)


def test_gradients_that_never_were_there_are_left_out():
    said = describe_before(history(gradients={"fc.weight": lambda index: 0.0, "conv1.weight": growing(60, 1.3)}))
    assert "the first of 1 of 4" in said


def test_fp16_steps_that_overflowed_are_left_out():
    records = history(gradients={"fc.weight": growing(60, 1.3)})
    skipped = replace(records[70], grad_norms=dict.fromkeys(NAMES, math.inf), grad_norm=math.inf)
    said = describe_before([*records[:70], skipped, *records[71:]])
    assert "The gradient of fc.weight grew from step 4" in said


@pytest.mark.parametrize("values", [[1.0] * 30, [0.0] * 30, [math.nan] * 30, [1.0, 2.0]])
def test_what_does_not_grow_has_no_growth(values):
    assert growth_of(list(enumerate(values)), least=10) is None


def test_of_a_history_in_which_nothing_grew_there_is_no_onset():
    assert describe_onset(history()) == ""
    assert "The gradient of fc.weight grew" in describe_onset(history(gradients={"fc.weight": growing(60, 1.3)}))
