"""Every network of the catalog: shapes, gradients, state_dict, eval, memory format, dtype, copies, heads, maps."""

import copy
import pickle

import pytest
import torch
from tests.models.shrunk import BASELINES, ENTRIES, SHRUNK, build, images_for, settle_norms
from torch import nn

from reslab.errors import RequestError
from reslab.models.architecture import Architecture
from reslab.models.catalog import MODELS, create_model, depth_of
from reslab.models.features import FeatureNetwork, FeaturesOnly, resolve_indices, run_layers

RESIDUAL = [
    name
    for name, a in SHRUNK.items()
    if a.shortcut != "none" and a.conv != "standardised" and a.order != "relu_before" and a.connection != "fixup"
]
HEADS = ("fc.", "classifier.", "head_bias.")


def step_three_times(net: nn.Module, images: torch.Tensor) -> tuple[set[str], set[str]]:
    """Names of parameters without a gradient at once, and of those whose gradient is zero in all of three steps."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    labels = torch.arange(len(images)) % 7
    absent, silent = set(), {name for name, _ in net.named_parameters()}
    for step in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net.train()(images), labels).backward()
        if step == 0:
            absent = {name for name, parameter in net.named_parameters() if parameter.grad is None}
        silent -= {name for name, p in net.named_parameters() if p.grad is not None and p.grad.count_nonzero() > 0}
        nn.utils.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)
        optimiser.step()
    return absent, silent


def create_seeded(name, num_classes=None, **changes) -> nn.Module:
    torch.manual_seed(0)
    return create_model(ENTRIES[name], num_classes, **changes)


def differing(net: nn.Module, values: dict[str, torch.Tensor]) -> list[str]:
    """Names of values that are others than they were."""
    return [key for key, value in net.state_dict().items() if not torch.equal(value, values[key])]


@pytest.fixture(scope="module", params=ENTRIES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def settled(name) -> nn.Module:
    """One network per name, in eval mode; tests leave it as it is."""
    return settle_norms(build(name), images_for(name))


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if isinstance(entry, Architecture)])
def test_the_full_depth_has_the_layers_of_its_name(name):
    with torch.device("meta"):
        net = create_model(name)
    architecture = MODELS[name]
    names = [block for block, _ in net.blocks()]
    assert len(names) == sum(architecture.num_blocks)
    assert names[0] == "layer1.0"
    layers = [
        key
        for key, m in net.named_modules()
        if isinstance(m, nn.Conv2d)
        and not any(part in key for part in ("downsample", "se.", "junction", "streams", "conv1.0", "conv1.3"))
    ]
    projections = sum(key.startswith("layer") and key.endswith(".0.downsample.0") for key, _ in net.named_modules())
    in_name = depth_of(name) - (projections if name.startswith("wide_resnet") and architecture.stem == "small" else 0)
    # a wide network's name counts projections instead of the head
    assert len(layers) + (0 if in_name != depth_of(name) else 1) == in_name
    assert architecture.depth == len(layers) + 1


# ---- outputs and gradients


def test_logits_have_the_asked_shape_and_are_finite(name, settled):
    with torch.no_grad():
        logits = settled(images_for(name))
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()
    if not name.startswith("fixup"):  # whose head starts at zero
        assert logits.std(dim=0).max() > 0, "the logits don't depend on the image"


def test_every_parameter_gets_a_gradient(name):
    absent, silent = step_three_times(build(name, dropout=0.0), images_for(name))
    assert absent == set()
    assert silent == set()


def test_eval_is_deterministic_and_changes_nothing(name, settled):
    images = images_for(name, batch=2)
    kept_images, before = images.clone(), {key: value.clone() for key, value in settled.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(settled(images), settled(images))
    assert torch.equal(images, kept_images)
    assert not differing(settled, before)


def test_float64_is_kept_and_images_and_memory_format_dont_mix(name, settled):
    # float64 and a tolerance relative to the logits: deep plain networks are chaotic, plain152 makes 1e9 of an error.
    images = images_for(name, batch=2).double()
    net = copy.deepcopy(settled).double()
    with torch.no_grad():
        logits = net(images)
        alone = net(images[1:])
        other = net.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert logits.dtype == torch.float64
    tolerance = 1e-5 * logits.abs().max().item()
    torch.testing.assert_close(other, logits, rtol=0, atol=tolerance)
    torch.testing.assert_close(alone, logits[1:], rtol=0, atol=tolerance)
    if not name.startswith("fixup"):  # whose head starts at zero
        assert (logits[0] - logits[1]).abs().max() > 10 * tolerance


def test_dropout_acts_on_the_head_in_training_only(name):
    net = build(name, dropout=0.5).train()
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.count_nonzero():
                nn.init.normal_(parameter)  # such as a head that starts at zero
        features = net.forward_features(images_for(name, batch=2))
        assert not torch.equal(net.forward_head(features), net.forward_head(features))
        assert torch.equal(net.eval().forward_head(features), net.forward_head(features))
    assert list(net.state_dict()) == list(build(name, dropout=0.0).state_dict())


def test_one_input_channel_changes_the_first_convolution_alone(name, settled):
    images = images_for(name, in_channels=1)
    net = settle_norms(build(name, in_channels=1), images)
    with torch.no_grad():
        assert net(images).isfinite().all()
    shapes, usual = ({key: value.shape for key, value in n.state_dict().items()} for n in (net, settled))
    assert list(shapes) == list(usual)
    (first,) = {key for key in shapes if shapes[key] != usual[key]}
    weight = net.state_dict()[first]
    assert weight.shape[1] == 1
    expected = (2 / (weight.shape[0] * weight[0, 0].numel())) ** 0.5  # fan_out
    assert weight.std().item() == pytest.approx(expected, rel=0.3)


# ---- copies


def test_it_is_pickled_whole(name, settled):
    images = images_for(name, batch=1)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(settled))(images), settled(images))


def test_state_dict_goes_round_strictly(name, settled):
    torch.manual_seed(1)
    other = create_model(ENTRIES[name], num_classes=7).eval()
    images = images_for(name, batch=2)
    with torch.no_grad():
        expected = settled(images)
        other.load_state_dict(settled.state_dict(), strict=True)
        assert torch.equal(other(images), expected)


def test_deepcopy_is_equal_and_independent(name, settled):
    images = images_for(name, batch=2)
    clone = copy.deepcopy(settled)
    with torch.no_grad():
        expected = settled(images)
        assert torch.equal(clone(images), expected)
        list(clone.parameters())[-1].add_(1)
        assert torch.equal(settled(images), expected)
        assert not torch.equal(clone(images), expected)


# ---- maps


@pytest.mark.parametrize(("height", "width"), [(64, 47), (33, 64)])
def test_maps_are_what_feature_info_says(name, settled, height, width):
    images = torch.randn(1, 3, height, width)
    assert isinstance(settled, FeatureNetwork)
    reductions = [info.reduction for info in settled.feature_info]
    assert reductions == sorted(reductions)
    with torch.no_grad():
        features, maps = settled.forward_intermediates(images)
        assert torch.equal(features, settled.forward_features(images))
        assert torch.equal(settled.forward_head(features), settled(images))
        assert settled.forward_head(features, pre_logits=True).ndim == 2
    for info, found in zip(settled.feature_info, maps, strict=True):
        rounding = 0 if name == "vgg11_bn" else info.reduction - 1  # VGG's own pools round down
        sizes = [(size + rounding) // info.reduction for size in (height, width)]
        assert found.shape == (1, info.channels, *sizes), info


def test_maps_are_what_the_named_modules_put_out_and_nothing_overwrites_them(name, settled):
    images, outputs = images_for(name, batch=2), {}
    modules = dict(settled.named_modules())
    hooks = [
        modules[info.name].register_forward_hook(lambda _, __, out, key=info.name: outputs.update({key: out.clone()}))
        for info in settled.feature_info
    ]
    with torch.no_grad():
        settled(images)
        for hook in hooks:
            hook.remove()
        last, maps = settled.forward_intermediates(images)
        settled.forward_head(last)
    for info, found in zip(settled.feature_info, maps, strict=True):
        assert torch.equal(found, outputs[info.name]), info


def test_maps_come_in_the_order_asked(name, settled):
    images = images_for(name, batch=1)
    with torch.no_grad():
        _, every = settled.forward_intermediates(images)
        found = settled.forward_intermediates(images, [-1, 0], intermediates_only=True)
        assert torch.equal(settled.forward_intermediates(images, 1)[1][0], every[-1])
    assert torch.equal(found[0], every[-1])
    assert torch.equal(found[1], every[0])
    with pytest.raises(RequestError, match="maps"):
        settled.forward_intermediates(images, [99])


def test_gradients_flow_through_maps(name, settled):
    images = images_for(name, batch=1).requires_grad_()
    maps = settled.forward_intermediates(images, intermediates_only=True)
    (gradient,) = torch.autograd.grad(sum(found.square().mean() for found in maps), images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_features_only_gives_the_maps_shares_parameters_and_drops_the_head(name, settled):
    images = images_for(name, batch=2)
    keys, rng = list(settled.state_dict()), torch.get_rng_state()
    backbone = settled.features_only([1, -1])
    assert isinstance(backbone, FeaturesOnly)
    assert torch.equal(torch.get_rng_state(), rng)
    assert backbone.feature_info == [settled.feature_info[1], settled.feature_info[-1]]
    with torch.no_grad():
        _, every = settled.forward_intermediates(images)
        found = backbone(images)
        assert settled(images).shape == (2, 7)
    assert torch.equal(found[0], every[1])
    assert torch.equal(found[1], every[-1])
    ours, body = dict(settled.named_parameters()), {id(p) for p in backbone.parameters()}
    assert body <= {id(p) for p in ours.values()}
    alone = {key for key, p in ours.items() if id(p) not in body}
    assert alone
    assert all(key.startswith(HEADS) for key in alone)
    assert list(settled.state_dict()) == keys


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg11_bn_cifar", "mobilenet_v3_small_cifar"])
def test_a_backbone_and_its_network_go_separate_ways_only_in_the_head(name):
    net = build(name)
    backbone = net.features_only()
    net.reset_classifier(3)
    assert not [key for key, _ in backbone.named_parameters() if key.removeprefix("network.").startswith(HEADS)]
    next(backbone.parameters()).data.zero_()
    assert next(net.parameters()).abs().max() == 0
    alone = copy.deepcopy(backbone)
    assert next(alone.parameters()) is not next(backbone.parameters())
    alone.load_state_dict(backbone.state_dict(), strict=True)


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
    assert resolve_indices(indices, 5) == expected


@pytest.mark.parametrize("indices", [0, -1, 6, [5], [-6], [0, 9], [], ()])
def test_maps_that_dont_exist_are_refused(indices):
    with pytest.raises(RequestError, match=r"The network has 5 maps: .* got"):
        resolve_indices(indices, 5)


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


# ---- heads


@pytest.mark.parametrize("num_classes", [3, 12])
def test_a_fresh_network_with_a_new_head_is_the_one_created_so(name, num_classes):
    expected = create_seeded(name, num_classes)
    net = create_seeded(name)
    random = torch.get_rng_state()
    net.reset_classifier(num_classes)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(net.state_dict()) == list(expected.state_dict())
    assert not differing(net, expected.state_dict())
    assert getattr(net, "architecture", None) == getattr(expected, "architecture", None)
    net.reset_classifier(0)
    net.reset_classifier(num_classes)
    assert not differing(net, expected.state_dict())


def test_a_trained_network_gets_a_fresh_last_layer_and_keeps_the_rest(name):
    net = create_seeded(name, 7).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    last = [key for key in before if key.startswith(("fc.", "classifier."))][-2:]
    net.reset_classifier(5)
    assert differing(net, before) == last
    assert {value.dtype for value in net.parameters()} == {torch.float64}
    assert net.train()(images_for(name, batch=2).double()).shape == (2, 5)
    fresh = create_seeded(name, 5).double().state_dict()
    assert all(torch.equal(net.state_dict()[key], fresh[key]) for key in last)


def test_without_classes_the_logits_are_the_pooled_features(name):
    net = build(name).eval()
    images = images_for(name, batch=2)
    net.reset_classifier(0)
    with torch.no_grad():
        logits = net(images)
        assert torch.equal(logits, net.forward_head(net.forward_features(images), pre_logits=True))
    assert logits.shape == (2, net.num_features)
    assert not [key for key, _ in net.named_parameters() if key.startswith(("fc.", "classifier."))]
    if name in BASELINES:
        assert net.num_classes == 0
        assert list(create_model(ENTRIES[name], num_classes=0).state_dict()) == list(net.state_dict())


def test_a_negative_number_of_classes_is_refused(name):
    with torch.device("meta"):
        net = build(name)
        with pytest.raises(RequestError, match=r"num_classes must be at least 1.*, got -1"):
            create_model(ENTRIES[name], num_classes=-1)
    with pytest.raises(RequestError, match="num_classes"):
        net.reset_classifier(-1)
    assert net(images_for(name, batch=2).to("meta")).shape == (2, 7)
    net.reset_classifier(5)
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}


# ---- branches that start at zero


@pytest.mark.parametrize("name", RESIDUAL)
def test_zero_init_makes_each_identity_block_pass_its_input_on(name):
    net = build(name, zero_init_residual=True).eval()
    num_identities = 0
    for key, block in net.blocks():
        if isinstance(block.downsample, nn.Identity) and block.streams is None:
            x = torch.randn(2, block.conv1.in_channels, 4, 4)
            expected = block.after(block.junction.shortcut_gain * x.clone())
            assert torch.allclose(block(x.clone()), expected, rtol=1e-6, atol=1e-7), key
            num_identities += 1
    assert num_identities > 0 or net.architecture.connection in ("hyper", "mhc") or net.architecture.block == "single"


@pytest.mark.parametrize("name", RESIDUAL)
def test_zero_init_still_trains_every_parameter(name):
    absent, silent = step_three_times(build(name, zero_init_residual=True), images_for(name))
    assert absent == set()
    assert silent == set()


def test_zero_init_changes_nothing_but_the_last_scale_of_each_branch():
    torch.manual_seed(0)
    ordinary = create_model("resnet20").state_dict()
    torch.manual_seed(0)
    changed = set(differing(create_model("resnet20", zero_init_residual=True), ordinary))
    padding = {"layer2.0.bn2.weight", "layer3.0.bn2.weight"}
    assert changed == {f"layer{stage}.{block}.bn2.weight" for stage in (1, 2, 3) for block in range(3)} - padding


@pytest.mark.parametrize("name", ["resnet20", "preresnet20"])
def test_zero_init_leaves_no_channel_without_a_gradient(name):
    """Channels that a shortcut pads would be 0, and a rectifier passes nothing back there."""
    torch.manual_seed(0)
    net = create_model(name, zero_init_residual=True).train()
    images = torch.randn(4, 3, 16, 16)
    for _ in range(2):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(images), torch.arange(4)).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.sub_(0.1 * parameter.grad)
    for _, block in net.blocks():
        last = block.bn2.weight if name == "resnet20" else block.conv2.weight
        assert (last.grad.flatten(1) if last.ndim > 1 else last.grad[:, None]).any(dim=1).all()
