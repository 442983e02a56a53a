"""The twin law: a plain network is its residual twin with the shortcut taken away, and nothing else changed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reslab.layers.connections import CONNECTIONS
from reslab.layers.shortcut import NoShortcut
from reslab.layers.spec import SHORTCUT_KINDS
from reslab.models.architecture import Architecture, change
from reslab.models.block import Block
from reslab.models.catalog import create_model, twin_of

RESIDUAL_KINDS = [kind for kind in SHORTCUT_KINDS if kind not in ("none", "identity")]
OPTION_A = ("zero_pad", "zero_pad_both")


def seeded(name: str, seed: int = 0, **options):
    torch.manual_seed(seed)
    return create_model(name, num_classes=5, **options)


def assert_twins(residual, plain, *, equal_names: bool) -> None:
    ours, theirs = residual.state_dict(), plain.state_dict()
    assert [key for key in ours if "downsample" not in key] == list(theirs)
    assert (list(ours) == list(theirs)) is equal_names
    for key, value in theirs.items():
        assert torch.equal(value, ours[key]), key


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet110", "resnet18", "resnet50", "resnet18_small"])
def test_twins_have_the_same_names_and_values(name, kind):
    residual, plain = seeded(name, shortcut=kind), seeded(twin_of(name))
    assert_twins(residual, plain, equal_names=kind in OPTION_A)


@settings(deadline=None, max_examples=15, database=None)
@given(
    num_blocks=st.integers(1, 6),
    seed=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(RESIDUAL_KINDS),
    in_channels=st.integers(1, 4),
)
def test_twins_are_equal_at_any_depth_and_seed(num_blocks, seed, kind, in_channels):
    depth = 6 * num_blocks + 2
    residual = seeded(f"resnet{depth}", seed, shortcut=kind, in_channels=in_channels)
    plain = seeded(f"plain{depth}", seed, in_channels=in_channels)
    assert_twins(residual, plain, equal_names=kind in OPTION_A)


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_shortcut_none_is_the_plain_network(depth):
    taken_away, plain = seeded(f"resnet{depth}", shortcut="none"), seeded(f"plain{depth}")
    assert_twins(taken_away, plain, equal_names=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(taken_away(images), plain(images))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet18", "resnet50"])
def test_a_plain_block_is_the_residual_block_minus_its_shortcut(name, training):
    residual, plain = seeded(name).double().train(training), seeded(twin_of(name)).double().train(training)
    for (block_name, block), (twin_name, twin) in zip(residual.blocks(), plain.blocks(), strict=True):
        assert block_name == twin_name
        assert isinstance(twin.downsample, NoShortcut)
        x = torch.randn(2, block.conv1.in_channels, 6, 6, dtype=torch.float64)
        branch = block.branch(x)
        assert torch.equal(torch.relu(branch), twin(x)), block_name
        assert torch.equal(torch.relu(block.shortcut(x) + branch), block(x)), block_name
        assert not torch.equal(block(x), twin(x)), block_name
        assert twin.shortcut(x) is None


def one_block(kind: str, *, in_channels: int, width: int, stride: int = 1, **changes) -> Block:
    """The second block of a two-stage network if it has a stride, or else its first."""
    expansion = 4 if kind == "bottleneck" else 1
    widths = (in_channels // expansion, width)
    base = Architecture(block=kind, num_blocks=(1, 1), widths=widths, stem="small", stem_width=in_channels)
    architecture = change(base, **changes)
    return Block(architecture, architecture.block_specs()[1 if stride == 2 else 0][0])


@pytest.mark.parametrize("block_type", ["basic", "bottleneck", "single"])
@pytest.mark.parametrize("kind", SHORTCUT_KINDS)
def test_a_block_leaves_its_input_alone(block_type, kind):
    torch.manual_seed(0)
    block = one_block(block_type, in_channels=8, width=8, shortcut=kind)
    x = torch.randn(2, 8, 5, 5)
    before = x.clone()
    out = block(x)
    assert out.shape == x.shape
    assert torch.equal(x, before)
    assert out.min() >= 0


@pytest.mark.parametrize("order", ["post", "bn_after", "relu_before", "relu_only", "pre"])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_a_block_of_any_order_and_connection_leaves_its_input_alone(order, connection):
    torch.manual_seed(0)
    order = CONNECTIONS[connection].implies.get("order", order)
    block = one_block("basic", in_channels=8, width=8, order=order, connection=connection)
    x = torch.randn(3, 2, 8, 5, 5) if block.streams else torch.randn(2, 8, 5, 5)
    if block.streams:
        x = x[:1].repeat(4, 1, 1, 1, 1)
    before = x.clone()
    block(x.requires_grad_()).square().sum().backward()  # and nothing that autograd needs was written over
    assert torch.equal(x, before)


@pytest.mark.parametrize("block_type", ["basic", "bottleneck"])
@pytest.mark.parametrize("kind", [*RESIDUAL_KINDS, "identity"])
def test_gradients_of_a_block_equal_finite_differences(block_type, kind):
    torch.manual_seed(0)
    changes = kind != "identity"
    width = 8 // (4 if block_type == "bottleneck" else 1) * (2 if changes else 1)
    block = one_block(block_type, in_channels=8, width=width, stride=2 if changes else 1, shortcut=kind).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block.eval(), (x,), eps=1e-6, atol=1e-5)


def test_the_global_seed_alone_decides_the_values():
    once, again, other = seeded("resnet20", 3), seeded("resnet20", 3), seeded("resnet20", 4)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in once.state_dict().items())
    convolutions = [key for key, value in once.state_dict().items() if value.dim() == 4]
    assert len(convolutions) == 19
    assert not any(torch.equal(once.state_dict()[key], other.state_dict()[key]) for key in convolutions)
    assert not torch.equal(once.fc.weight, other.fc.weight)
    torch.manual_seed(0)
    first, second = create_model("resnet20"), create_model("resnet20")
    assert not torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.layer1[0].conv1.weight, first.layer1[0].conv2.weight)
