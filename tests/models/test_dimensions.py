"""Networks of 1 and 3 dimensions, and 2-D ones inflated to 3-D."""

import pytest
import torch
from tests.models.shrunk import SHRUNK, build, images_for, settle_norms
from torch import nn

from reslab.errors import RequestError
from reslab.models.architecture import change
from reslab.models.catalog import create_model
from reslab.models.resnet import ResNet, inflate


@pytest.mark.parametrize("ndim", [1, 3])
@pytest.mark.parametrize("name", SHRUNK)
def test_every_family_exists_in_one_and_three_dimensions(name, ndim):
    net = build(name, ndim=ndim, in_channels=2)
    side = 40 if ndim == 1 else 9
    net(torch.randn(2, 2, *[side] * ndim)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    with torch.no_grad():
        features, maps = net.eval().forward_intermediates(torch.randn(1, 2, *[side] * ndim))
    for info, found in zip(net.feature_info, maps, strict=True):
        assert found.shape[:2] == (1, info.channels)
        assert all(abs(size - -(-side // info.reduction)) <= 1 for size in found.shape[2:])
    assert features.ndim == 2 + ndim


@pytest.mark.parametrize("name", ["resnet20", "preresnet18", "resnet50d", "resnet50_gn"])
def test_a_network_of_one_dimension_is_the_two_dimensional_one_on_a_line(name):
    """Kernels of which only the middle row is not zero see a picture of one row as a sequence."""
    net = build(name, ndim=1).double().train()
    flat = ResNet(change(net.architecture, ndim=2)).double().train()
    weights = {}
    for key, value in flat.state_dict().items():
        ours = net.state_dict()[key]
        if value.ndim == ours.ndim + 1:
            kernel = torch.zeros_like(value)
            kernel[:, :, value.shape[2] // 2] = ours
            ours = kernel
        weights[key] = ours
    flat.load_state_dict(weights)
    line = torch.randn(3, 3, 64, dtype=torch.float64)
    torch.testing.assert_close(flat(line.unsqueeze(2)), net(line), rtol=1e-9, atol=1e-9)


INFLATABLE = [name for name, architecture in SHRUNK.items() if architecture.conv != "standardised"]


@pytest.mark.parametrize("name", INFLATABLE)
def test_an_inflated_network_answers_a_repeated_frame_like_the_frame(name):
    net = settle_norms(build(name), images_for(name)).double()
    torch.manual_seed(1)
    for parameter in net.parameters():
        if parameter.numel() < 3000:  # scales, biases and gates away from their neutral values
            nn.init.normal_(parameter, mean=1.0, std=0.1)
    images = images_for(name, batch=2).double()[..., :-1]
    clip = images.unsqueeze(2).repeat(1, 1, 5, 1, 1)
    with torch.no_grad():
        expected, found = net(images), inflate(net)(clip)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * max(expected.abs().max().item(), 1))


def test_inflating_keeps_the_mean_of_kernels_and_leaves_everything_else_alone():
    torch.manual_seed(0)
    net = create_model("resnet20")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    clip_net = inflate(net)
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, value in clip_net.state_dict().items():
        assert torch.equal(net.state_dict()[key], before[key])
        if value.ndim == 5:
            torch.testing.assert_close(value.sum(2), before[key])
        else:
            assert torch.equal(value, before[key])
    assert clip_net.architecture.time_padding == "replicate"


def test_a_moving_clip_is_answered_differently():
    net = settle_norms(build("resnet20"), images_for("resnet20"))
    clip = torch.randn(1, 3, 5, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(inflate(net)(clip), net(clip[:, :, 0]), atol=1e-3)


def test_what_cannot_be_inflated_is_refused():
    with pytest.raises(RequestError, match="scaled anew at every use"):
        inflate(build("preresnet50_bit"))
    with pytest.raises(RequestError, match="got one with ndim=3"):
        inflate(build("resnet20", ndim=3))
