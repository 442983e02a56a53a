"""Parameter groups, penalties and the moving average."""

import pytest
import torch
from torch import nn

from reslab.models.catalog import create_model
from reslab.training.optim import adamw, l1_penalty, moving_average, parameter_groups, sgd


@pytest.mark.parametrize("decay_norms", [True, False])
def test_every_parameter_is_in_exactly_one_group(decay_norms):
    model = create_model("resnet20")
    groups = parameter_groups(model, weight_decay=0.1, decay_norms=decay_norms)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_norms_and_biases_are_exempt_by_the_module_that_owns_them():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3))
    decayed, exempt = parameter_groups(model, weight_decay=0.1, decay_norms=False)
    assert [p.shape for p in decayed["params"]] == [(3, 3)]
    assert (decayed["weight_decay"], exempt["weight_decay"], len(exempt["params"])) == (0.1, 0.0, 7)


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert len(parameter_groups(model, weight_decay=0.1, decay_norms=True)[0]["params"]) == 1


def test_builders_pass_their_arguments_on():
    model = nn.Linear(2, 2)
    group = sgd(model, lr=0.3, momentum=0.5, nesterov=True, weight_decay=0.2).param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.3, 0.5, True, 0.2)
    group = adamw(model, lr=0.3, betas=(0.5, 0.6), weight_decay=0.2).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.3, (0.5, 0.6), 0.2)


def test_l1_is_the_sum_of_absolute_weights_without_norms_and_biases():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    penalty = l1_penalty(model)
    penalty.backward()
    assert penalty.item() == 10
    assert torch.equal(model[0].weight.grad, torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    assert model[0].bias.grad is None


def test_moving_average_follows_the_formula_and_copies_at_first():
    model = nn.Linear(1, 1, bias=False)
    average = moving_average(model, 0.9)
    values, expected = [1.0, 3.0, -2.0], None
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        expected = value if expected is None else 0.9 * expected + 0.1 * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_moving_average_takes_buffers_along():
    model = nn.BatchNorm1d(2)
    average = moving_average(model, 0.5)
    for value in (2.0, 4.0):
        model.running_mean.fill_(value)
        average.update_parameters(model)
    assert average.module.running_mean.tolist() == [3.0, 3.0]
