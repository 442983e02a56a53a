"""Every network of the catalog: shapes, gradients, state_dict, eval, memory format, dtype, copies."""

import copy
import math

import pytest
import torch
from torch import nn

from reslab.models.catalog import MODELS, create_model, depth_of
from reslab.models.resnet import ResNet

BIG = {name for name in MODELS if depth_of(name) in (101, 152, 1202)}
CATALOG = [pytest.param(name, marks=pytest.mark.slow) if name in BIG else name for name in MODELS]
RESIDUAL = [
    pytest.param(name, marks=pytest.mark.slow) if name in BIG else name
    for name in MODELS
    if name.startswith("resnet") and depth_of(name) != 1202
]


def images_for(name: str, *, batch: int = 4, in_channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    side = 64 if MODELS[name].func.__name__ == "imagenet_resnet" and not name.endswith("_small") else 32
    side = 16 if depth_of(name) == 1202 or name.endswith("50_small") else side
    return torch.randn(batch, in_channels, side, side, generator=generator)


def build(name: str, **options) -> ResNet:
    torch.manual_seed(0)
    return create_model(name, num_classes=7, **options)


@torch.no_grad()
def settle_norms(net: nn.Module, images: torch.Tensor) -> nn.Module:
    """Running statistics equal to this batch's, so that a fresh network of any depth is finite in eval mode."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def step_three_times(net: nn.Module, images: torch.Tensor) -> tuple[set[str], set[str]]:
    """Names of parameters without a gradient at once, and of those whose gradient is zero in all of three steps."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
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


@pytest.fixture(scope="module", params=CATALOG)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def settled(name) -> ResNet:
    """One network a name, in eval mode; tests leave it as it is."""
    return settle_norms(build(name), images_for(name))


def test_logits_have_the_asked_shape_and_are_finite(name, settled):
    images = images_for(name)
    with torch.no_grad():
        logits = settled(images)
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()
    assert logits.std(dim=0).max() > 0, "the logits don't depend on the image"


def test_stages_halve_the_maps_and_blocks_have_torchvisions_names(name, settled):
    images = images_for(name, batch=1)
    with torch.no_grad():
        features = settled.forward_features(images)
        pooled = settled.forward_head(features, pre_logits=True)
    reduction = (4 if settled.architecture.stem == "imagenet" else 1) * 2 ** (len(settled.stages()) - 1)
    assert features.shape == (1, settled.fc.in_features, images.shape[2] // reduction, images.shape[3] // reduction)
    torch.testing.assert_close(pooled, features.mean(dim=(2, 3)))
    modules = dict(settled.named_modules())
    names = [block for block, _ in settled.blocks()]
    assert len(names) == sum(settled.architecture.num_blocks)
    assert all(modules[block] is module for block, module in settled.blocks())


def test_depth_in_the_name_counts_the_layers_on_the_longest_path(name, settled):
    layers = [m for key, m in settled.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in key]
    assert len(layers) + 1 == depth_of(name)


def test_every_parameter_gets_a_gradient(name):
    absent, silent = step_three_times(build(name), images_for(name))
    assert absent == set()
    assert silent == set()


def test_state_dict_goes_round_strictly(name, settled):
    torch.manual_seed(1)
    other = create_model(name, num_classes=7).eval()
    images = images_for(name, batch=2)
    with torch.no_grad():
        expected = settled(images)
        assert not torch.equal(other(images), expected)
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
    assert (logits[0] - logits[1]).abs().max() > 10 * tolerance


def test_deepcopy_is_equal_and_independent(name, settled):
    images = images_for(name, batch=2)
    clone = copy.deepcopy(settled)
    with torch.no_grad():
        expected = settled(images)
        assert torch.equal(clone(images), expected)
        clone.fc.bias.add_(1)
        assert torch.equal(settled(images), expected)
        assert not torch.equal(clone(images), expected)


def test_one_input_channel_works(name):
    images = images_for(name, in_channels=1)
    net = settle_norms(build(name, in_channels=1), images)
    with torch.no_grad():
        assert net(images).isfinite().all()
    assert net.conv1.weight.shape[1] == 1
    assert net.conv1.weight.std().item() == pytest.approx(
        math.sqrt(2 / (net.conv1.weight[0, 0].numel() * net.conv1.out_channels)), rel=0.3
    )


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_zero_init_makes_each_identity_block_a_relu(name, training):
    net = build(name, zero_init_residual=True).train(training)
    seen = []
    for _, block in net.blocks():
        if isinstance(block.downsample, nn.Identity):
            block.register_forward_hook(lambda _, args, out: seen.append(torch.equal(out, torch.relu(args[0]))))
    with torch.no_grad():
        net(images_for(name, batch=2))
        for _, block in net.blocks():
            if isinstance(block.downsample, nn.Identity):  # blocks see only non-negative maps above: signs as well
                signed = torch.randn(2, block.conv1.in_channels, 4, 4)
                assert torch.equal(block(signed.clone()), torch.relu(signed))
    num_identities = sum(isinstance(block.downsample, nn.Identity) for _, block in net.blocks())
    assert num_identities > 0
    assert seen[:num_identities] == [True] * num_identities


@pytest.mark.parametrize("name", RESIDUAL)
def test_zero_init_still_trains_every_parameter(name):
    absent, silent = step_three_times(build(name, zero_init_residual=True), images_for(name))
    assert absent == set()
    assert silent == set()


def test_zero_init_changes_nothing_but_the_last_scale_of_each_branch():
    ordinary, zeroed = build("resnet20").state_dict(), build("resnet20", zero_init_residual=True).state_dict()
    changed = {key for key, value in ordinary.items() if not torch.equal(value, zeroed[key])}
    assert changed == {f"layer{stage}.{block}.bn2.weight" for stage in (1, 2, 3) for block in range(3)}


def test_dropout_acts_in_training_only():
    net = build("resnet20", dropout=0.5)
    features = torch.ones(2, 64, 8, 8)
    dropped = net.train().forward_head(features, pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(net.eval().forward_head(features, pre_logits=True), torch.ones(2, 64))
    assert set(net.state_dict()) == set(build("resnet20").state_dict())
