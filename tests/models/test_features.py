"""Maps, heads and backbones: what the networks of the catalog offer beside their logits."""

import copy

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.models.features import FeatureInfo, FeatureNetwork, FeaturesOnly, chosen, run_layers
from reslab.models.mobilenet import mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from reslab.models.vgg import VGG, Layout, plain_stack, vgg_cifar


def classic_in_small(num_classes: int = 7) -> VGG:
    """The form with hidden layers, narrow enough for a test."""
    return VGG(Layout((1, 2, 1), (4, 6, 8), small=False, pool_last=True), num_classes=num_classes)


BUILDERS = {
    "vgg11_bn_cifar": lambda num_classes=7: vgg_cifar(11, num_classes),
    "classic": classic_in_small,
    "plain_stack": lambda num_classes=7: plain_stack(8, num_classes),
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_small": mobilenet_v3_small,
    "mobilenet_v3_small_cifar": lambda num_classes=7: mobilenet_v3_small(num_classes, small=True),
    "mobilenet_v3_large_cifar": lambda num_classes=7: mobilenet_v3_large(num_classes, small=True),
}


@pytest.fixture(scope="module", params=BUILDERS)
def net(request):
    """One network a name, in eval mode; tests leave it as it is."""
    torch.manual_seed(0)
    return BUILDERS[request.param](num_classes=7).eval()


@pytest.fixture(scope="module", params=BUILDERS)
def builder(request):
    return BUILDERS[request.param]


def images_of(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        (1, [4]),
        (5, [0, 1, 2, 3, 4]),
        (2, [3, 4]),
        ([0], [0]),
        ((-1, 0), [4, 0]),
        (range(1, 3), [1, 2]),
        ([-5, 4, 4], [0, 4, 4]),
    ],
)
def test_indices_choose_maps(indices, expected):
    assert chosen(indices, 5) == expected


@pytest.mark.parametrize("indices", [0, -1, 6, [5], [-6], [0, 9], [], ()])
def test_maps_that_dont_exist_are_refused(indices):
    with pytest.raises(RequestError, match=r"The network has 5 maps: .* got"):
        chosen(indices, 5)


def test_layers_after_the_last_map_asked_for_dont_run():
    ran = []
    layers = nn.Sequential(*(nn.Identity() for _ in range(5)))
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    maps = run_layers(layers, torch.zeros(1), ends=[0, 2, 4], indices=[1], intermediates_only=True)
    assert (len(maps), ran) == (1, [0, 1, 2])
    ran.clear()
    run_layers(layers, torch.zeros(1), ends=[0, 2, 4], indices=[1], intermediates_only=False)
    assert ran == [0, 1, 2, 3, 4]


def test_every_network_keeps_the_protocol(net):
    assert isinstance(net, FeatureNetwork)
    assert all(isinstance(info, FeatureInfo) for info in net.feature_info)
    assert [info.reduction for info in net.feature_info] == sorted(info.reduction for info in net.feature_info)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32), (33, 47)])
def test_feature_info_agrees_with_the_maps(net, height, width):
    images = images_of(height, width)
    with torch.no_grad():
        last, maps = net.forward_intermediates(images)
        assert torch.equal(last, net.forward_features(images))
        assert torch.equal(maps[-1], last)
    round_off = 0 if isinstance(net, VGG) and not net.layout.small else 1
    for info, found in zip(net.feature_info, maps, strict=True):
        sizes = [(size + round_off * (info.reduction - 1)) // info.reduction for size in (height, width)]
        assert found.shape == (2, info.channels, *sizes), info


def test_maps_are_what_the_named_modules_put_out_and_nothing_overwrites_them(net):
    images, outputs = images_of(32, 32), {}
    modules = dict(net.named_modules())
    hooks = [
        modules[info.name].register_forward_hook(lambda _, __, out, name=info.name: outputs.update({name: out.clone()}))
        for info in net.feature_info
    ]
    with torch.no_grad():
        net(images)
        for hook in hooks:
            hook.remove()
        last, maps = net.forward_intermediates(images)
        net.forward_head(last)
    for info, found in zip(net.feature_info, maps, strict=True):
        assert torch.equal(found, outputs[info.name]), info


def test_maps_come_in_the_order_asked_with_the_logits_or_without(net):
    images = images_of(32, 32)
    with torch.no_grad():
        last, every = net.forward_intermediates(images)
        assert torch.equal(net.forward_head(last), net(images))
        found = net.forward_intermediates(images, [-1, 0], intermediates_only=True)
        assert torch.equal(net.forward_intermediates(images, 1)[1][0], every[-1])
    assert torch.equal(found[0], every[-1])
    assert torch.equal(found[1], every[0])
    with pytest.raises(RequestError, match="maps"):
        net.forward_intermediates(images, [99])


def test_gradients_flow_through_maps(net):
    images = images_of(32, 32).requires_grad_()
    maps = net.forward_intermediates(images, intermediates_only=True)
    (gradient,) = torch.autograd.grad(sum(found.square().mean() for found in maps), images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_features_only_gives_the_maps_shares_parameters_and_drops_the_head(net):
    images = images_of(32, 32)
    keys, rng = list(net.state_dict()), torch.get_rng_state()
    backbone = net.features_only([1, -1])
    assert isinstance(backbone, FeaturesOnly)
    assert torch.equal(torch.get_rng_state(), rng)
    assert backbone.feature_info == [net.feature_info[1], net.feature_info[-1]]
    with torch.no_grad():
        _, every = net.forward_intermediates(images)
        found = backbone(images)
        assert net(images).shape == (2, 7)
    assert [torch.equal(one, other) for one, other in zip(found, (every[1], every[-1]), strict=True)] == [True, True]
    ours, body = dict(net.named_parameters()), {id(p) for p in backbone.parameters()}
    assert {name for name, p in ours.items() if id(p) not in body} == {n for n in ours if n.startswith("classifier")}
    assert body <= {id(p) for p in ours.values()}
    assert list(net.state_dict()) == keys


def test_a_backbone_and_its_network_go_separate_ways_only_in_the_head(builder):
    net = builder(num_classes=7)
    backbone = net.features_only()
    net.reset_classifier(3)
    assert backbone.network.num_classes == 0
    assert not [name for name, _ in backbone.named_parameters() if "classifier" in name]
    next(backbone.parameters()).data.zero_()
    assert next(net.parameters()).abs().max() == 0
    alone = copy.deepcopy(backbone)
    assert next(alone.parameters()) is not next(backbone.parameters())
    alone.load_state_dict(backbone.state_dict(), strict=True)


def test_without_classes_the_logits_are_the_pooled_features(builder):
    images, net = images_of(32, 32), builder(num_classes=7).eval()
    with torch.no_grad():
        pooled = net.forward_head(net.forward_features(images), pre_logits=True)
        net.reset_classifier(0)
        assert torch.equal(net(images), pooled)
    assert pooled.shape == (2, net.num_features)
    assert net.num_classes == 0
    assert not [name for name, _ in net.named_parameters() if name.startswith("classifier")]
    never = builder(num_classes=0)
    assert list(never.state_dict()) == list(net.state_dict())


def test_a_new_head_has_new_values_for_its_last_layer_alone(builder):
    net = builder(num_classes=7).double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.reset_classifier(3)
    after = net.state_dict()
    assert list(after) == list(before)
    changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
    last = [key for key in before if key.startswith("classifier")][-2:]
    assert changed == last
    assert net(images_of(32, 32).double()).shape == (2, 3)
    assert {value.dtype for value in net.parameters()} == {torch.float64}
    assert after[last[0]].std().item() == pytest.approx(0.01, rel=0.3)
    assert after[last[1]].abs().max() == 0
    net.reset_classifier(0)
    net.reset_classifier(7)
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in before.items()}


def test_a_negative_number_of_classes_is_refused(builder):
    with pytest.raises(RequestError, match="num_classes is a number of classes, or 0 for no head, got -1"):
        builder(num_classes=-1)
    net = builder(num_classes=2)
    with pytest.raises(RequestError, match="num_classes"):
        net.reset_classifier(-1)
    assert net.num_classes == 2
