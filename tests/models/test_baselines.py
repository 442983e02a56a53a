"""VGG, plain stacks and MobileNets: equal to torchvision's where they share a name, and fit for small images."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.models.catalog import MODELS, create_model
from reslab.models.sequential import (
    MOBILENETS,
    VGG_DEPTHS,
    StackSpec,
    mobilenet,
    plain_stack,
    stack,
    strided_convolutions,
    vgg,
)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def on_meta(build, *arguments, **options) -> nn.Module:
    with torch.device("meta"):
        return build(*arguments, **options)


def fill(net: nn.Module) -> nn.Module:
    """Float64 values for a network on the meta device, with norms that matter; faster than its own initial values."""
    net = net.double().to_empty(device="cpu").eval()
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            spread = math.sqrt(3 * 2 / value[0].numel()) if value.dim() > 1 else 0.5
            value.uniform_(-spread, spread)
            if "running_var" in name or (value.dim() == 1 and "weight" in name):
                value.add_(1)
    return net


# ---- VGG


@pytest.mark.parametrize("depth", VGG_DEPTHS)
def test_vgg_has_torchvisions_keys_shapes_and_counts(depth):
    theirs, ours = on_meta(getattr(torchvision.models, f"vgg{depth}_bn")), on_meta(vgg, depth)
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in theirs.state_dict().items()
    ]
    assert count(ours) == count(theirs) == VGG_DEPTHS[depth][1]


@pytest.mark.parametrize("depth", [11, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (13, 16, 19))])
@torch.no_grad()
def test_vgg_gives_torchvisions_logits(depth):
    torch.manual_seed(0)
    theirs, ours = fill(on_meta(getattr(torchvision.models, f"vgg{depth}_bn"))), on_meta(vgg, depth).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 45, 67, dtype=torch.float64)
    expected, logits = theirs(images), ours(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depth", VGG_DEPTHS)
@torch.no_grad()
def test_vgg_gives_torchvisions_maps(depth):
    torch.manual_seed(0)
    theirs = fill(on_meta(getattr(torchvision.models, f"vgg{depth}_bn")).features)
    ours = on_meta(vgg, depth).eval()
    ours.features.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    images = torch.randn(1, 3, 33, 40, dtype=torch.float64)
    torch.testing.assert_close(ours.forward_features(images), theirs(images), rtol=1e-10, atol=1e-10)


def test_vggs_maps_are_timms():
    # timm 1.0.31, create_model("vgg16_bn", features_only=True).feature_info.get_dicts()
    infos = on_meta(vgg, 16).feature_info
    assert [info.name for info in infos] == [f"features.{index}" for index in (5, 12, 22, 32, 42, 43)]
    assert [info.channels for info in infos] == [64, 128, 256, 512, 512, 512]
    assert [info.reduction for info in infos] == [1, 2, 4, 8, 16, 32]


def kuangliu_vgg(weights: dict[str, Tensor], images: Tensor, num_convs: tuple[int, ...]) -> Tensor:
    """VGG of https://github.com/kuangliu/pytorch-cifar/blob/master/models/vgg.py in eval mode, as functions."""
    x, index = images, 0
    for convs in num_convs:
        for _ in range(convs):
            x = F.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1)
            norm = [weights[f"features.{index + 1}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
            x = F.batch_norm(x, *norm).relu()
            index += 3
        x = F.max_pool2d(x, kernel_size=2, stride=2)
        index += 1
    return F.linear(x.flatten(1), weights["classifier.weight"], weights["classifier.bias"])


@pytest.mark.parametrize("depth", [11, 16])
@torch.no_grad()
def test_the_small_vgg_is_kuanglius(depth):
    torch.manual_seed(0)
    net = fill(on_meta(vgg, depth, 10, small=True))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = kuangliu_vgg(net.state_dict(), images, VGG_DEPTHS[depth][0])
    torch.testing.assert_close(net(images), expected, rtol=1e-10, atol=1e-10)
    classic = on_meta(vgg, depth)
    assert [key for key in net.state_dict() if key.startswith("features")] == [
        key for key in classic.state_dict() if key.startswith("features")
    ]
    assert count(net) == count(classic.features) + 513 * 10


def test_vgg_refuses_images_that_would_vanish():
    net = on_meta(vgg, 11)
    for call in (net, net.forward_intermediates):
        with pytest.raises(RequestError, match="Images are 31x64, this network takes 32 pixels per side or more"):
            call(torch.zeros(1, 3, 31, 64, device="meta"))
    assert net.eval()(torch.zeros(1, 3, 32, 32, device="meta")).shape == (1, 1000)


def test_vgg_starts_like_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.VGG(torchvision.models.vgg.make_layers([16, "M", 32], batch_norm=True), num_classes=50)
    ours = stack(StackSpec((1, 1), (16, 32), small=False, conv_bias=True), 50).state_dict()
    for key, value in theirs.state_dict().items():
        if value.dim() > 1 and ours[key].shape == value.shape:
            ratio, sampling_error = ours[key].std() / value.std(), 5 / math.sqrt(value.numel())
            assert ratio.item() == pytest.approx(1, abs=sampling_error), key
            assert (ours[key].mean() / ours[key].std()).abs().item() < sampling_error, key
        elif value.dim() <= 1:
            assert torch.equal(ours[key].unique(), value.unique()), key
    assert ours["classifier.0.weight"].std().item() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("depth", [0, 12, 18, 20])
def test_vgg_of_another_depth_is_refused(depth):
    with pytest.raises(RequestError, match=f"VGG networks have depth 11, 13, 16, 19; got {depth}"):
        vgg(depth)


# ---- plain stacks


@pytest.mark.parametrize("depth", [4, 5, 6, 7, 20, 56])
def test_depth_of_a_stack_counts_its_layers(depth):
    net = on_meta(plain_stack, depth)
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    convs = [sum(conv.out_channels == width for conv in layers[:-1]) for width in (16, 32, 64)]
    assert max(convs) - min(convs) <= 1
    assert sum(isinstance(module, nn.MaxPool2d) for module in net.modules()) == 2
    assert [(info.channels, info.reduction) for info in net.feature_info] == [(16, 1), (32, 2), (64, 4)]


@pytest.mark.parametrize(("depth", "num_parameters"), [(20, 269_722), (56, 853_018), (110, 1_727_962)])
def test_stacks_have_as_many_parameters_as_the_papers_plain_networks(depth, num_parameters):
    assert count(on_meta(plain_stack, depth)) == num_parameters


def test_a_stack_may_have_other_stages():
    net = on_meta(plain_stack, 10, widths=(8, 16, 32, 64), num_classes=5)
    widths = [layer.out_channels for layer in net.features if isinstance(layer, nn.Conv2d)]
    assert widths == [8] * 3 + [16] * 2 + [32] * 2 + [64] * 2
    assert net(torch.zeros(2, 3, 16, 16, device="meta")).shape == (2, 5)
    with pytest.raises(RequestError, match="depth is at least 5, got 4"):
        plain_stack(4, widths=(8, 16, 32, 64))
    with pytest.raises(RequestError, match="widths"):
        plain_stack(4, widths=())
    with pytest.raises(RequestError, match="widths"):
        plain_stack(4, widths=(8, 0))


@pytest.mark.parametrize("depth", [20, 56])
def test_a_deep_stack_starts_with_activations_of_ordinary_size(depth):
    torch.manual_seed(0)
    features = plain_stack(depth).forward_features(torch.randn(4, 3, 16, 16))
    assert 0.1 < features.std().item() < 10


def test_the_global_seed_alone_decides_the_values():
    def values(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return plain_stack(6).state_dict()

    once, again, other = values(3), values(3), values(4)
    assert all(torch.equal(value, again[key]) for key, value in once.items())
    assert not any(torch.equal(value, other[key]) for key, value in once.items() if value.dim() > 1)
    torch.manual_seed(0)
    first, second = plain_stack(6), plain_stack(6)
    assert not torch.equal(first.features[0].weight, second.features[0].weight)


# ---- MobileNets


@pytest.mark.parametrize("name", MOBILENETS)
@torch.no_grad()
def test_mobilenets_and_torchvisions_swap_weights(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=11).double().eval()
    ours, again = (create_model(name, 11).double().eval() for _ in range(2))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    assert torch.equal(ours(images), theirs(images))
    assert not torch.equal(again(images), ours(images))
    again.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(again(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "channels"),
    # timm 1.0.31's feature_info of mobilenetv2_100, mobilenetv3_small_100 and mobilenetv3_large_100, but for V2's last,
    # where timm stops before the 1x1 convolution
    [
        ("mobilenet_v2", [16, 24, 32, 96, 1280]),
        ("mobilenet_v3_small", [16, 16, 24, 48, 576]),
        ("mobilenet_v3_large", [16, 24, 40, 112, 960]),
    ],
)
def test_mobilenets_have_published_counts_and_maps_of_each_resolution(name, channels):
    net, small = on_meta(create_model, name), on_meta(create_model, f"{name}_cifar", 1000)
    assert count(net) == count(small) == MOBILENETS[name][1]
    assert [info.channels for info in net.feature_info] == channels
    assert [info.reduction for info in net.feature_info] == [2, 4, 8, 16, 32]
    assert [info.name for info in small.feature_info] == [info.name for info in net.feature_info]
    assert [info.reduction for info in small.feature_info] == [1, 1, 2, 4, 8]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mobilenet_v2", {"features.0.0", "features.2.conv.1.0"}),
        ("mobilenet_v3_small", {"features.0.0", "features.1.block.0.0"}),
        ("mobilenet_v3_large", {"features.0.0", "features.2.block.1.0"}),
    ],
)
def test_the_small_form_changes_two_strides(name, changed):
    net, small = on_meta(create_model, name), on_meta(create_model, f"{name}_cifar", 1000)
    assert len(strided_convolutions(net)) == 5
    theirs = dict(net.named_modules())
    differing = {key for key, module in small.named_modules() if repr(module) != repr(theirs[key])}
    assert {key for key in differing if isinstance(theirs[key], nn.Conv2d)} == changed
    assert list(small.state_dict()) == list(net.state_dict())


def test_an_unknown_mobilenet_is_refused():
    with pytest.raises(RequestError, match="Did you mean 'mobilenet_v3_small'"):
        mobilenet("mobilenet_v3_smal", num_classes=10)


# ---- all of them; test_model_catalog.py asks of them what it asks of every network

SMALL = [name for name in MODELS if name.endswith("_cifar")]


@pytest.mark.parametrize("side", [8, 28, 32, 45])
@pytest.mark.parametrize("name", SMALL)
def test_small_images_of_any_side_give_logits(name, side):
    torch.manual_seed(0)
    with torch.no_grad():
        logits = create_model(name, 7).eval()(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("options", [{"in_channels": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"num_classes": -2}])
@pytest.mark.parametrize("name", ["vgg11_bn_cifar", "vgg20_cifar", "mobilenet_v2_cifar"])
def test_impossible_options_are_refused(name, options):
    with pytest.raises(RequestError, match=next(iter(options))):
        create_model(name, **options)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", ["vgg11_bn_cifar", "vgg20_cifar"])
@torch.no_grad()
def test_stacks_take_sequences_images_and_volumes(name, ndim):
    torch.manual_seed(0)
    net = create_model(name, ndim=ndim).eval()
    images = torch.randn(2, 3, *(9, 8, 7)[:ndim])
    _, maps = net.forward_intermediates(images)
    assert net(images).shape == (2, 10)
    for info, found in zip(net.feature_info, maps, strict=True):
        assert found.shape == (2, info.channels, *(math.ceil(size / info.reduction) for size in images.shape[2:]))
    with pytest.raises(RequestError, match="ndim is 1 for sequences, 2 for images or 3 for volumes, got 4"):
        plain_stack(8, ndim=4)
