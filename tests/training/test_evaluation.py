"""Evaluation: eval mode, no gradient, and the mode put back."""

import pytest
import torch
from bright_data import make_loader
from torch import nn

from reslab.models.catalog import create_model
from reslab.tasks.classify import Classify
from reslab.training.evaluation import evaluate, reestimate_norms
from reslab.training.execution import ExecutionMode

TASK = Classify(3)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(loaders, task, training):
    model = create_model("resnet8", 3, in_channels=1).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, task, loaders[1])
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_mode_is_put_back_after_an_error(loaders, task):
    model = create_model("resnet8", 3, in_channels=3).train()
    with pytest.raises(RuntimeError):
        evaluate(model, task, loaders[1])
    assert model.training


def test_numbers_are_those_of_one_big_batch(loaders, task):
    model = create_model("resnet8", 3, in_channels=1).eval()
    images, labels = (torch.cat(parts) for parts in zip(*loaders[1].batches(), strict=True))
    with torch.no_grad():
        logits = model(images)
    found = evaluate(model, task, loaders[1])
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["error"] == pytest.approx((logits.argmax(1) != labels).double().mean().item())
    assert found["num_images"] == 48
    assert sum(map(sum, found["confusion"])) == 48


# ---- batch norm's statistics estimated again


def test_estimated_statistics_are_those_of_all_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(1, 3))
    loader = make_loader(training=False, augment="none")
    assert reestimate_norms(model, TASK, loader, num_images=48, mode=ExecutionMode()) == 48
    images = torch.cat([batch for batch, _ in loader.batches()])
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, images.var((0, 2, 3)), rtol=2e-3, atol=0)


def test_deeper_norms_see_what_the_earlier_ones_give():
    """With one batch of everything, eval mode then gives what training mode gives."""
    torch.manual_seed(0)
    model = create_model("resnet8", 3, in_channels=1)
    loader = make_loader(training=False, augment="none", batch_size=48)
    images, _ = next(iter(loader.batches()))
    reestimate_norms(model, TASK, loader, num_images=48, mode=ExecutionMode())
    with torch.no_grad():
        settled, as_trained = model.eval()(images), model.train()(images)
    torch.testing.assert_close(settled, as_trained, rtol=2e-2, atol=2e-3)  # n against n - 1 in the variance


def test_modes_momenta_and_weights_stay():
    model = create_model("resnet8", 3, in_channels=1)
    model.layer1.eval()
    weights = {name: value.clone() for name, value in model.named_parameters()}
    assert reestimate_norms(model, TASK, make_loader(), num_images=17, mode=ExecutionMode()) == 32  # whole batches
    assert not model.layer1.training
    assert model.training
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    for name, value in model.named_parameters():
        assert torch.equal(value, weights[name]), name


def test_a_network_without_them_is_left_alone():
    assert reestimate_norms(nn.Conv2d(1, 1, 3), TASK, make_loader(), num_images=48, mode=ExecutionMode()) == 0
