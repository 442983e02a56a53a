"""Batch norm's statistics estimated again."""

import torch
from bright_data import make_loader
from torch import nn

from reslab.models.catalog import create_model
from reslab.train.precise_norm import reestimate_norms

CPU = torch.device("cpu")


def test_they_are_those_of_all_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1))
    loader = make_loader(training=False, augment="none")
    assert reestimate_norms(model, loader, num_images=48, device=CPU) == 48
    images = torch.cat([batch for batch, _ in loader.batches()])
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, images.var((0, 2, 3)), rtol=2e-3, atol=0)


def test_deeper_norms_see_what_the_earlier_ones_give():
    """With one batch of everything, eval mode then gives what training mode gives."""
    torch.manual_seed(0)
    model = create_model("resnet8", 3, in_channels=1)
    loader = make_loader(training=False, augment="none", batch_size=48)
    images, _ = next(iter(loader.batches()))
    reestimate_norms(model, loader, num_images=48, device=CPU)
    with torch.no_grad():
        settled, as_trained = model.eval()(images), model.train()(images)
    torch.testing.assert_close(settled, as_trained, rtol=2e-2, atol=2e-3)  # n against n - 1 in the variance


def test_modes_momenta_and_weights_stay():
    model = create_model("resnet8", 3, in_channels=1)
    model.layer1.eval()
    weights = {name: value.clone() for name, value in model.named_parameters()}
    assert reestimate_norms(model, make_loader(), num_images=17, device=CPU) == 32  # whole batches
    assert not model.layer1.training
    assert model.training
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    for name, value in model.named_parameters():
        assert torch.equal(value, weights[name]), name


def test_a_network_without_them_is_left_alone():
    assert reestimate_norms(nn.Conv2d(1, 1, 3), make_loader(), num_images=48, device=CPU) == 0
