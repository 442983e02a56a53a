"""The learning-rate range test: what it suggests, when it says no, and that it leaves no trace."""

import math
import random

import numpy as np
import pytest
import torch
from bright_data import make_loader
from torch import nn

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.records.training import RangeStep
from reslab.tasks.classify import Classify
from reslab.training.lr_range import Means, Sweep, lr_range_test, suggest
from reslab.training.optim import adamw, sgd
from reslab.training.options import TrainOptions
from reslab.untouched import unchanged


def taken(losses, sweep):
    """Steps with these losses at the sweep's rates."""
    means, steps = Means(sweep.keep), []
    for step, loss in enumerate(losses):
        steps.append(RangeStep(step, sweep.rate(step), loss, *means.add(sweep.rate(step), loss)))
    return steps


def curve(sweep, *, begins=1e-4, ends=1e-1, start=2.3, low=1.0, explodes=1.0):
    """A textbook curve: level, falling in a straight line over the logarithm of the rate, exploding."""
    losses = []
    for step in range(sweep.steps):
        place = math.log(sweep.rate(step) / begins) / math.log(ends / begins)
        losses.append(start - (start - low) * min(1.0, max(0.0, place)))
        if sweep.rate(step) > explodes:
            losses[-1] = start * (sweep.rate(step) / explodes) ** 2
    return losses


def test_the_suggestion_is_where_the_steep_descent_ends():
    sweep = Sweep(1e-6, 10, 100)
    found = suggest(taken(curve(sweep), sweep), sweep)
    assert found.lr is not None
    assert 0.02 < found.lr < 0.2  # the descent ends at 0.1
    assert found.steepest is not None
    assert 1e-4 < found.steepest <= found.lr
    assert f"Learning rate {found.lr:.2g}" in found.reason


def test_the_lowest_loss_is_told_by_the_rate_at_which_the_line_shows_it():
    """A valley about 0.1."""
    sweep = Sweep(1e-6, 10, 100)
    steps = taken([abs(math.log10(sweep.rate(step) / 0.1)) for step in range(100)], sweep)
    found, bottom = suggest(steps, sweep), min(steps, key=lambda step: step.mean_loss)
    assert found.tenth == pytest.approx(bottom.mean_lr / 10)
    assert f"lowest at {bottom.mean_lr:.2g}" in found.reason


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (lambda sweep: [2.3] * sweep.steps, "the loss never fell"),
        (lambda sweep: curve(sweep, begins=1, ends=10, explodes=100), "still fell steeply at the highest rate, 10"),
        (lambda sweep: [math.nan] * 3, "grew from the first steps on. Lower --lowest"),
    ],
)
def test_without_a_usable_descent_nothing_is_suggested(losses, words):
    sweep = Sweep(1e-6, 10, 100)
    found = suggest(taken(losses(sweep), sweep), sweep)
    assert found.lr is None
    assert words in found.reason


def test_noise_is_no_fall():
    sweep = Sweep(1e-6, 10, 100)
    generator = np.random.default_rng(0)
    for _ in range(20):
        assert suggest(taken(2.3 + 0.1 * generator.standard_normal(100), sweep), sweep).lr is None


def test_the_mean_of_rates_and_losses_lags_alike():
    means = Means(0.5)
    pairs = [means.add(rate, math.log10(rate)) for rate in (0.001, 0.01, 0.1, 1.0)]
    for lr, loss in pairs:
        assert math.log10(lr) == pytest.approx(loss)  # a line over the logarithm stays the same line


SHORT = Sweep(1e-5, 1, 12)


def run(model, optimizer=None, *, sweep=SHORT, loader=None, **options):
    return lr_range_test(
        model,
        Classify(3),
        loader or make_loader(),
        optimizer=optimizer or sgd(model),
        sweep=sweep,
        options=TrainOptions(**options),
    )


@pytest.mark.parametrize("make", [sgd, adamw])
def test_everything_is_as_it_was(make):
    torch.manual_seed(0)
    model = create_model("resnet8", 3, in_channels=1, dropout=0.2)
    optimizer = make(model)
    images, labels = next(iter(make_loader().batches()))
    Classify(3).loss(model(images), labels).backward()
    optimizer.step()  # so that there are gradients, momenta and moved statistics
    model.layer2.eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    places = [p.data_ptr() for p in model.parameters()]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    rates = [group["lr"] for group in optimizer.param_groups]
    state = torch.utils._pytree.tree_map(
        lambda value: value.clone() if isinstance(value, torch.Tensor) else value, dict(optimizer.state)
    )
    assert len(run(model, optimizer).steps) == 12
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == places
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert not model.layer2.training
    assert model.layer1.training
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            old = state[parameter][key]
            assert torch.equal(value, old) if isinstance(value, torch.Tensor) else value == old


def test_an_error_inside_leaves_no_trace_either():
    model = nn.Linear(2, 2)
    optimizer, before = torch.optim.SGD(model.parameters(), lr=1.0), model.weight.clone()

    def fail():
        with unchanged(model, optimizer):
            model.weight.data.add_(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(model.weight, before)


def test_a_network_that_explodes_ends_the_test_early():
    torch.manual_seed(0)
    found = run(create_model("resnet8", 3, in_channels=1, norm="none"), sweep=Sweep(1e-3, 1e6, 40))
    assert found.ending != "done"
    assert len(found.steps) < 40


def test_parts_of_a_batch_change_nothing():
    torch.manual_seed(0)
    model = create_model("resnet8", 3, in_channels=1, norm="layer")
    whole, parts = run(model), run(model, accumulate=3)
    for one, other in zip(whole.steps, parts.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_rates_rise_by_one_factor_and_groups_keep_their_share():
    model = create_model("resnet8", 3, in_channels=1)
    found = run(model, sgd(model, norm_lr=0.5))
    ratios = [after.lr / before.lr for before, after in zip(found.steps, found.steps[1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert found.steps[0].lr == pytest.approx(1e-5)
    assert found.steps[-1].lr == pytest.approx(1)


@pytest.mark.parametrize("sweep", [Sweep(0, 1), Sweep(1, 1), Sweep(2, 1), Sweep(1e-6, math.inf), Sweep(steps=3)])
def test_what_is_no_range_is_refused(sweep):
    with pytest.raises(RequestError, match="A range test"):
        run(nn.Linear(1, 1), torch.optim.SGD(nn.Linear(1, 1).parameters()), sweep=sweep)


def test_the_number_of_steps_follows_from_the_data():
    assert [Sweep().for_epochs_of(number).steps for number in (3, 20, 400)] == [40, 80, 100]
    assert Sweep(steps=15).for_epochs_of(400).steps == 15
