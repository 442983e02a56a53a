"""A number that isn't one stops the run, with its step, its module and its batch."""

import pytest
import torch
from torch import nn

from reslab.training.failure import NonFiniteError, find_origin
from reslab.training.loop import fit
from reslab.training.optim import sgd
from reslab.training.options import TrainOptions
from reslab.training.schedule import constant


class LogOfNegative(nn.Module):
    """NaN in the forward pass once armed."""

    armed = False

    def forward(self, x):
        return (x * 0 - 1).log() if self.armed else x


class RootOfZero(nn.Module):
    """A finite value with an infinite gradient."""

    def forward(self, x):
        return x + (x * 0).sqrt()


def stack(middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), middle, nn.ReLU(), nn.Linear(8, 3))


def train(model, loaders, task, *, lr=0.1, steps=5, **options):
    return fit(
        model,
        task,
        loaders,
        optimizer=sgd(model, lr=lr),
        schedule=constant(lr),
        options=TrainOptions(steps=steps, **options),
    )


def test_nan_in_forward_names_step_and_module_and_leaves_the_weights(loaders, task):
    middle = LogOfNegative()
    model = stack(middle)
    seen = []

    def arm_at_third(module, inputs):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        middle.armed = len(seen) >= 3

    model.register_forward_pre_hook(arm_at_third)
    with pytest.raises(NonFiniteError) as caught:
        train(model, (loaders[0], None), task)
    error = caught.value
    assert (error.step, error.what, error.origin.module, error.origin.direction) == (2, "loss", "2", "forward")
    assert "step 2" in str(error)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in seen[2].items())
    torch.testing.assert_close(error.batch[0], list(loaders[0].batches(0))[2][0])


def test_infinite_gradient_names_the_first_module_in_the_backward_pass(loaders, task):
    with pytest.raises(NonFiniteError) as caught:
        train(stack(RootOfZero()), loaders, task)
    assert (caught.value.what, caught.value.origin.direction, caught.value.origin.module) == (
        "gradient",
        "backward",
        "1",
    )


def test_a_batch_that_holds_nan_is_said_to(loaders, task):
    class Poisoned:
        batch_size = 16

        def __len__(self):
            return 3

        def batches(self, epoch=0, *, start=0):
            for images, labels in loaders[0].batches(epoch, start=start):
                yield images.fill_(float("nan")), labels

    with pytest.raises(NonFiniteError, match="batch itself") as caught:
        train(stack(nn.Identity()), (Poisoned(), None), task)
    assert caught.value.origin.direction == "input"


def test_a_rate_that_is_far_too_high_diverges_with_a_named_module(loaders, task):
    with pytest.raises(NonFiniteError) as caught:
        train(stack(nn.Identity()), loaders, task, lr=1e30, steps=50)
    assert caught.value.origin.module


def test_a_norm_that_overflows_is_told_from_a_gradient_that_does():
    model, batch = nn.Linear(1, 2, bias=False), torch.full((1, 1), 1.0)
    origin = find_origin(model, batch, lambda: (model(batch) * torch.tensor([3e38, 3e38])).sum())
    assert (origin.direction, origin.module) == ("norm", "weight")


def test_hooks_are_gone_afterwards():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    find_origin(model, torch.ones(1, 1), lambda: model(torch.ones(1, 1)).sum())
    assert all(not module._forward_hooks for module in model.modules())
