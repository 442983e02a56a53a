"""Every network of the catalog: shapes, gradients, state_dict, eval, memory format, dtype, copies, heads, maps."""

import copy
import pickle

import pytest
import torch
from tests.models.shrunk import BASELINES, SHRUNK, build, images_for, settle_norms
from torch import nn

from reslab.models.architecture import Architecture
from reslab.models.catalog import MODELS, create_model, depth_of
from reslab.models.features import FeatureNetwork

NAMES = [*SHRUNK, *BASELINES]
RESIDUAL = [
    name
    for name, a in SHRUNK.items()
    if a.shortcut != "none" and a.conv != "standardised" and a.order != "relu_before" and a.connection != "fixup"
]


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


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def settled(name) -> nn.Module:
    """One network a name, in eval mode; tests leave it as it is."""
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


def test_logits_have_the_asked_shape_and_are_finite(name, settled):
    images = images_for(name)
    with torch.no_grad():
        logits = settled(images)
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()
    if not name.startswith("fixup"):  # whose head starts at zero
        assert logits.std(dim=0).max() > 0, "the logits don't depend on the image"


def test_maps_are_what_feature_info_says(name, settled):
    images = images_for(name, batch=1)[..., :-1]  # odd in width
    assert isinstance(settled, FeatureNetwork)
    with torch.no_grad():
        features, maps = settled.forward_intermediates(images)
        assert torch.equal(features, settled.forward_features(images))
        assert torch.equal(settled.forward_head(features), settled(images))
        pooled = settled.forward_head(features, pre_logits=True)
        chosen = settled.features_only([1, -1])(images)
    for info, found in zip(settled.feature_info, maps, strict=True):
        height, width = (-(-side // info.reduction) for side in images.shape[2:])
        assert found.shape[:2] == (1, info.channels), info
        assert abs(found.shape[2] - height) <= 1
        assert abs(found.shape[3] - width) <= 1
    assert torch.equal(chosen[0], maps[1])
    assert torch.equal(chosen[1], maps[-1])
    assert pooled.ndim == 2


def test_the_classifier_is_reset(name):
    net = build(name)
    images = images_for(name, batch=2)
    net.reset_classifier(3)
    assert net.train()(images).shape == (2, 3)
    net.reset_classifier(0)
    with torch.no_grad():
        features = net.eval().forward_features(images)
        assert torch.equal(net(images), net.forward_head(features, pre_logits=True))


def test_every_parameter_gets_a_gradient(name):
    absent, silent = step_three_times(build(name, dropout=0.0), images_for(name))
    assert absent == set()
    assert silent == set()


def test_it_is_pickled_and_copied_whole(name, settled):
    images = images_for(name, batch=1)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(settled))(images), settled(images))


def test_state_dict_goes_round_strictly(name, settled):
    torch.manual_seed(1)
    other = create_model(SHRUNK.get(name, name), num_classes=7).eval()
    images = images_for(name, batch=2)
    with torch.no_grad():
        expected = settled(images)
        other.load_state_dict(settled.state_dict(), strict=True)
        assert torch.equal(other(images), expected)


def test_eval_is_deterministic_and_changes_nothing(name, settled):
    images = images_for(name, batch=2)
    kept_images, before = images.clone(), {key: value.clone() for key, value in settled.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(settled(images), settled(images))
    assert torch.equal(images, kept_images)
    assert all(torch.equal(value, before[key]) for key, value in settled.state_dict().items())


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


def test_deepcopy_is_equal_and_independent(name, settled):
    images = images_for(name, batch=2)
    clone = copy.deepcopy(settled)
    with torch.no_grad():
        expected = settled(images)
        assert torch.equal(clone(images), expected)
        list(clone.parameters())[-1].add_(1)
        assert torch.equal(settled(images), expected)
        assert not torch.equal(clone(images), expected)


def test_one_input_channel_works(name):
    images = images_for(name, in_channels=1)
    net = settle_norms(build(name, in_channels=1), images)
    with torch.no_grad():
        assert net(images).isfinite().all()
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.shape[1] == 1


@pytest.mark.parametrize("name", RESIDUAL)
def test_zero_init_makes_each_identity_block_pass_its_input_on(name):
    net = build(name, zero_init_residual=True).eval()
    joined = net.architecture.joined
    num_identities = 0
    for _, block in net.blocks():
        if isinstance(block.downsample, nn.Identity) and block.streams is None:
            x = torch.randn(2, block.conv1.in_channels, 4, 4)
            gain = getattr(block.junction, "shortcut_gain", 1.0)
            assert torch.allclose(block(x.clone()), block.after(gain * x.clone()), rtol=1e-6, atol=1e-7), joined
            num_identities += 1
    assert num_identities > 0 or net.architecture.connection in ("hyper", "mhc") or net.architecture.block == "single"


@pytest.mark.parametrize("name", RESIDUAL)
def test_zero_init_still_trains_every_parameter(name):
    absent, silent = step_three_times(build(name, zero_init_residual=True), images_for(name))
    assert absent == set()
    assert silent == set()


def create_seeded(name: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, **changes)


def test_zero_init_changes_nothing_but_the_last_scale_of_each_branch():
    ordinary, zeroed = (
        create_seeded("resnet20").state_dict(),
        create_seeded("resnet20", zero_init_residual=True).state_dict(),
    )
    changed = {key for key, value in ordinary.items() if not torch.equal(value, zeroed[key])}
    padding = {"layer2.0.bn2.weight", "layer3.0.bn2.weight"}
    assert changed == {f"layer{stage}.{block}.bn2.weight" for stage in (1, 2, 3) for block in range(3)} - padding


@pytest.mark.parametrize("name", ["resnet20", "preresnet20"])
def test_zero_init_leaves_no_channel_without_a_gradient(name):
    """Channels that a shortcut pads would be 0, and a rectifier hands nothing back there."""
    net = create_seeded(name, zero_init_residual=True).train()
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


def test_dropout_acts_in_training_only():
    net = create_seeded("resnet20", dropout=0.5)
    features = torch.ones(2, 64, 8, 8)
    dropped = net.train().forward_head(features, pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(net.eval().forward_head(features, pre_logits=True), torch.ones(2, 64))
    assert set(net.state_dict()) == set(create_seeded("resnet20").state_dict())
