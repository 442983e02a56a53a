"""Every connection keeps what it declares, and what its paper says of it; one of your own plugs in the same way."""

import ast
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reslab.models
from reslab.errors import RequestError
from reslab.layers.connections import CONNECTIONS, Connection, Gating, Highway, NormFree, Scaling, Streams
from reslab.layers.junction import BranchOnly, DynamicStreams, ManifoldStreams, ScaledAdd, StaticStreams, sinkhorn
from reslab.layers.nd import ACTIVATION_GAINS, Standardised, standardise
from reslab.models.architecture import Architecture, Order, change
from reslab.models.block import Block
from reslab.models.catalog import create_model
from reslab.models.families import cifar
from reslab.models.resnet import ResNet
from reslab.training.optim import parameter_groups

SMALL = replace(cifar(14), num_classes=5)
"""Three stages of two blocks."""
IDENTITY_SPEC = SMALL.block_specs()[0][1]
"""Of a block with 16 channels in and out."""
ORDERS = get_args(Order)


def names_that_start_as(at_start: str) -> list[str]:
    return [name for name, connection in CONNECTIONS.items() if connection.at_start == at_start]


def build(connection, seed: int = 0, **changes) -> ResNet:
    torch.manual_seed(seed)
    return create_model(SMALL, connection=connection, **changes).double()


def build_joined_by_addition(connection: str) -> ResNet:
    """The network of that connection, with the choices that it brings, but joined by addition."""
    return build("add", **CONNECTIONS[connection].implies)


def specs_and_blocks(net: ResNet):
    specs = [spec for stage in net.architecture.block_specs() for spec in stage]
    return zip(specs, (block for _, block in net.blocks()), strict=True)


def images(batch: int = 3, side: int = 12, ndim: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *[side] * ndim, generator=generator, dtype=torch.float64)


def maps_for(block: Block, batch: int = 2, side: int = 5) -> Tensor:
    return torch.randn(batch, block.conv1.in_channels, side, side, dtype=torch.float64)


def randomise(net: nn.Module) -> nn.Module:
    """Give values under which no part is silent."""
    torch.manual_seed(5)
    for parameter in net.parameters():
        nn.init.normal_(parameter, mean=0.3 if parameter.ndim < 2 else 0.0, std=0.2)
    return net


def identity_blocks(net: ResNet) -> list[Block]:
    return [block for _, block in net.blocks() if isinstance(block.downsample, nn.Identity)]


# ---- what every kind declares

EXTRA_PARAMETERS = {
    # beyond those of the same block joined by addition, of C channels; n = 4 streams
    "skipinit": lambda channels, changes: 1,
    "rezero": lambda channels, changes: 1,
    "layer_scale": lambda channels, changes: channels,
    "exclusive_gate": lambda channels, changes: channels**2 + channels,
    "shortcut_gate": lambda channels, changes: channels**2 + channels,
    "highway": lambda channels, changes: 0 if changes else 9 * channels**2 + channels,
    "fixup": lambda channels, changes: 5,
    "hyper": lambda channels, changes: 0 if changes else 24,
    "dynamic_hyper": lambda channels, changes: 0 if changes else 24 + 6 * channels + 2,
    "mhc": lambda channels, changes: 0 if changes else 24 * (4 * channels + 1) + 3,
}


@pytest.mark.parametrize("name", CONNECTIONS)
def test_extra_parameters_are_those_of_the_papers(name):
    joined, added = build(name), build_joined_by_addition(name)
    for (spec, block), (_, peer) in zip(specs_and_blocks(joined), specs_and_blocks(added), strict=True):
        extra = sum(p.numel() for p in block.parameters()) - sum(p.numel() for p in peer.parameters())
        assert extra == EXTRA_PARAMETERS.get(name, lambda *_: 0)(spec.out_channels, spec.changes), spec


@pytest.mark.parametrize("name", names_that_start_as("identity"))
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_blocks_declared_the_identity_start_as_it(name, block):
    net = build(name, block=block).train()
    assert identity_blocks(net)
    for part in identity_blocks(net):
        x = maps_for(part)
        assert torch.equal(part(x.clone()), part.after(x.clone()))


@pytest.mark.parametrize("name", names_that_start_as("addition"))
@pytest.mark.parametrize("order", ORDERS)
def test_networks_declared_addition_start_as_it(name, order):
    joined, added = build(name, order=order).eval(), build("add", order=order).eval()
    torch.testing.assert_close(joined(images()), added(images()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", names_that_start_as("other"))
def test_networks_declared_other_start_as_neither(name):
    joined, added = build(name).eval(), build_joined_by_addition(name).eval()
    assert not torch.allclose(joined(images()), added(images()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CONNECTIONS)
def test_the_shortcut_gain_is_what_a_silent_branch_leaves(name):
    for _, block in specs_and_blocks(build(name).eval()):
        if isinstance(block.downsample, nn.Identity):
            x = torch.randn(1, block.conv1.in_channels, 4, 4, dtype=torch.float64)
            if block.streams is None:
                silent = block.junction(x.clone(), torch.zeros_like(x))
            else:
                streams = block.streams.open(x)
                silent = block.streams.close(
                    block.streams(streams, torch.zeros_like(x), block.streams.coefficients(streams)[1])
                )
            torch.testing.assert_close(silent, block.junction.shortcut_gain * x, rtol=1e-5, atol=1e-5)
        elif name == "highway":
            assert isinstance(block.junction, BranchOnly), "plain where the dimensions change"


@pytest.mark.parametrize(("bias", "product"), [(-3.0, 0.073), (-5.0, 0.70), (-6.0, 0.875), (-7.0, 0.95)])
def test_fifty_four_gates_multiply_to_the_known_gain(bias, product):
    assert Gating(bias=bias).make_junction(IDENTITY_SPEC).shortcut_gain ** 54 == pytest.approx(product, rel=0.01)
    half = CONNECTIONS["constant_half"].make_junction(IDENTITY_SPEC)
    assert half.shortcut_gain**54 == pytest.approx(5.6e-17, rel=0.02)


@pytest.mark.parametrize("name", CONNECTIONS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("family", ["basic", "bottleneck"])
def test_every_parameter_learns_within_three_steps_in_any_dimension(name, ndim, family):
    net = build(name, ndim=ndim, block=family).train()
    x, labels = images(6, {1: 33, 2: 12, 3: 6}[ndim], ndim), torch.tensor([0, 1, 2, 3, 4, 0])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    silent = {key for key, _ in net.named_parameters()}
    for step in range(3):
        optimiser.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        if step == 0:
            assert all(parameter.grad is not None for parameter in net.parameters())
        silent -= {key for key, p in net.named_parameters() if p.grad.count_nonzero()}
        nn.utils.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)
        optimiser.step()
    assert silent == set()


@pytest.mark.parametrize("name", CONNECTIONS)
def test_eval_is_deterministic(name):
    net = randomise(build(name)).eval()
    assert torch.equal(net(images()), net(images()))


@pytest.mark.parametrize("name", [name for name in CONNECTIONS if not isinstance(CONNECTIONS[name], Streams)])
def test_the_parts_of_the_gradient_sum_to_the_whole(name):
    block = identity_blocks(randomise(build(name)).eval())[0]
    x = maps_for(block).requires_grad_()
    upstream = torch.randn_like(x)
    branch = block.branch(block.entry(x))
    shortcut, beside = x.clone(), branch.clone()
    joined = block.junction(shortcut, beside)
    by_shortcut, by_branch = torch.autograd.grad(joined, [shortcut, branch], upstream, retain_graph=True)
    (whole,) = torch.autograd.grad(joined, x, upstream, retain_graph=True)
    (through_branch,) = torch.autograd.grad(branch, x, by_branch)
    torch.testing.assert_close(whole, by_shortcut + through_branch, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "neutral",
    [
        Scaling(),
        Scaling(learned="scalar"),
        Scaling(learned="channel"),
        Gating(bias=-50.0, exclusive=False),
        Streams(num_streams=1),
        Streams(kind="dynamic", num_streams=1),
    ],
    ids=str,
)
def test_neutral_settings_are_addition_bit_for_bit(neutral):
    joined, added = build(neutral).train(), build("add").train()
    x = images().requires_grad_()
    y = x.detach().clone().requires_grad_()
    ours, plain = joined(x), added(y)
    assert torch.equal(ours, plain)
    ours.sum().backward()
    plain.sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in CONNECTIONS if not CONNECTIONS[name].implies])
def test_branches_are_named_and_valued_like_the_plain_twins(name):
    torch.manual_seed(3)
    joined = create_model("resnet20", connection=name).state_dict()
    torch.manual_seed(3)
    plain = create_model("plain20").state_dict()
    assert [key for key in joined if "junction" not in key and "streams" not in key] == list(plain)
    assert all(torch.equal(value, joined[key]) for key, value in plain.items())


SPECIAL = ("branch_scale", "gate.bias", ".gain", "reading", "writing", "mixing", "_scale", "scales", "bias1", "bias2")
"""Parts of names of parameters that must not decay."""


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("name", CONNECTIONS)
def test_every_parameter_is_in_one_group_and_no_special_one_decays(name, decay_norms):
    net = build(name)
    groups = parameter_groups(net, weight_decay=0.1, decay_norms=decay_norms)
    names = {id(parameter): key for key, parameter in net.named_parameters()}
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(names)
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert not [key for key in decayed if any(part in key for part in SPECIAL)]
    slow = {names[id(p)] for group in groups if group.get("lr_scale") == 0.1 for p in group["params"]}
    assert slow == ({key for key, p in net.named_parameters() if p.numel() == 1} if name == "fixup" else set())


# ---- one of your own


class Blend(nn.Module):
    """``(1 - a) * shortcut + a * branch`` with a learned number and a learned convolution of the shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.25))
        self.mix = nn.Conv2d(channels, channels, kernel_size=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.dirac_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return torch.lerp(self.mix(shortcut), branch, self.share)


@dataclass(frozen=True)
class Blending(Connection):
    implies = {"norm": "layer"}  # noqa: RUF012  # read only

    def make_junction(self, spec):
        return Blend(spec.out_channels)

    def has_shortcut(self, spec):
        return not spec.changes


def test_a_connection_of_your_own_plugs_in():
    net, twin = build(Blending()).train(), build("add", shortcut="none", norm="layer")
    assert net.architecture.norm == "layer"
    block = net.layer2[1]
    assert isinstance(block.junction, Blend)
    assert isinstance(net.layer2[0].junction, BranchOnly), "no shortcut where the dimensions change"
    x = maps_for(block)
    torch.testing.assert_close(block(x), torch.relu(0.75 * x + 0.25 * block.branch(x)))  # its own initial values
    values = net.state_dict()
    assert all(torch.equal(value, values[key]) for key, value in twin.state_dict().items())
    net(images()).sum().backward()
    assert block.junction.share.grad != 0
    assert change(SMALL, connection=Blending()) == change(SMALL, connection=Blending())


def test_what_is_no_connection_is_refused():
    with pytest.raises(RequestError, match="connection takes a name such as 'rezero', or a Connection, got <class"):
        create_model(SMALL, connection=Blend)


def test_networks_name_no_connection():
    """What a connection asks of a network it says by its methods."""
    kinds = {type(connection).__name__ for connection in CONNECTIONS.values()}
    for file in Path(reslab.models.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reslab.layers"):
                assert not kinds & {alias.name for alias in node.names}, file


# ---- order of norm and activation (He et al. 2016, Table 2)


def test_relu_before_addition_only_ever_adds():
    net = build("add", order="relu_before").train()
    for block in identity_blocks(net):
        x = maps_for(block, batch=4)
        assert (block(x.clone()) >= x).all()


def test_batch_norm_after_addition_pins_the_variance_of_the_stream():
    net = build("add", order="bn_after").train()
    for block in identity_blocks(net):
        x = 7 * maps_for(block, batch=16, side=8)
        normed = block.bn2(block.junction(block.shortcut(x), block.branch(x)))
        torch.testing.assert_close(
            normed.var((0, 2, 3), unbiased=False), torch.ones_like(normed[0, :, 0, 0]), rtol=1e-4, atol=0
        )
        torch.testing.assert_close(block(x), torch.relu(normed))


@pytest.mark.parametrize("order", ["pre", "relu_only", "relu_before"])
def test_the_stream_of_a_stage_is_its_start_plus_the_sum_of_branches(order):
    net = randomise(build("add", order=order, num_blocks=(4, 4, 4))).train()
    stage = net.stages()[0]
    x = torch.randn(4, 16, 6, 6, dtype=torch.float64)
    total, stream = x.clone(), x.clone()
    for block in stage:
        total = total + block.branch(block.entry(stream))
        stream = block(stream)
    torch.testing.assert_close(stream, total, rtol=1e-12, atol=1e-12)


def test_the_gradient_goes_through_silent_branches_unchanged():
    net = build("add", order="pre", zero_init_residual=True).train()
    x = torch.randn(4, 16, 6, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(net.stages()[0](x), x, upstream)
    assert torch.equal(gradient, upstream)


def test_where_dimensions_change_both_sides_read_the_activated_input():
    block = randomise(build("add", order="pre", shortcut="projection")).train().layer2[0]
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    activated = torch.relu(F.batch_norm(x, None, None, block.bn1.weight, block.bn1.bias, training=True))
    torch.testing.assert_close(block(x), block.downsample(activated) + block.branch(activated))
    assert len(block.downsample) == 1, "a pre-activation projection has no norm"


def test_option_c_with_unit_matrices_is_the_identity():
    block = build("add", shortcut="projection_all").eval().layer1[0]
    with torch.no_grad():
        block.downsample[0].weight.copy_(torch.eye(16)[..., None, None])
        block.downsample[1].running_var.fill_(1 - block.downsample[1].eps)
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(block.shortcut(x), x, rtol=1e-14, atol=1e-14)


# ---- one scaled addition


def test_the_gradient_of_a_scale_is_the_branch_seen_from_above():
    block = randomise(build("skipinit", norm="none")).train().layer1[1]
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    upstream = torch.randn_like(x)
    junction = ScaledAdd(branch_gain=0.0, learned="scalar").double()
    branch = block.branch(x).detach()
    junction(x, branch).backward(upstream)
    torch.testing.assert_close(junction.branch_scale.grad, (upstream * branch).sum())


def test_a_layer_scale_folds_into_the_last_convolution():
    net = randomise(build("layer_scale", order="pre")).eval()
    folded = build("add", order="pre").eval()
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    for name in [key for key in weights if key.endswith("branch_scale")]:
        scale = weights.pop(name)
        weights[name.replace("junction.branch_scale", "conv2.weight")] *= scale[:, None, None, None]
        assert scale.ndim == 1
    folded.load_state_dict(weights)
    torch.testing.assert_close(net(images()), folded(images()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unit_variance", lambda num_blocks: 1.0),
        ("depth_scale", lambda num_blocks: (1 + 1 / num_blocks) ** num_blocks),
        ("add", lambda num_blocks: 2.0**num_blocks),
    ],
)
def test_the_variance_of_the_stream_follows_its_closed_form(name, expected):
    """Branches as wide as the stream and independent of it: the stream of other samples; 10,000 of them."""
    num_blocks, width = 5, 64  # few enough that the sums hold no sample twice
    torch.manual_seed(0)
    stream = torch.randn(10_000, width, 1, dtype=torch.float64)
    for spec in change(cifar(20), num_blocks=(num_blocks,), widths=(width,)).block_specs()[0]:
        junction = CONNECTIONS[name].make_junction(replace(spec, in_place=False))
        stream = junction(stream, stream[torch.randperm(10_000)])
    assert stream.var().item() == pytest.approx(expected(num_blocks), rel=0.02)


# ---- highway


def test_a_closed_highway_is_the_input_and_an_open_one_the_branch():
    for bias, pick in ((-50.0, lambda x, block: x), (50.0, lambda x, block: block.branch(x))):
        block = build(Highway(bias=bias)).layer1[1]
        x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(block(x), pick(x, block), rtol=1e-12, atol=1e-12)


def test_the_gradient_of_a_highway_is_the_papers():
    """T H' + (1 - T) + (H - x) T', eq. 4 and 5 of arXiv:1505.00387."""
    block = randomise(build("highway")).layer1[1]
    x = torch.randn(1, 16, 3, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    gate, branch = torch.sigmoid(block.junction.gate(x)), block.branch(x)
    (whole,) = torch.autograd.grad(block(x), x, upstream, retain_graph=True)
    (by_branch,) = torch.autograd.grad(branch, x, upstream * gate, retain_graph=True)
    (by_gate,) = torch.autograd.grad(gate, x, upstream * (branch - x))
    torch.testing.assert_close(whole, by_branch + upstream * (1 - gate) + by_gate)


# ---- Fixup


def test_fixup_starts_at_the_loss_of_guessing_and_wakes_in_three_steps():
    net = build("fixup").train()
    labels = torch.tensor([0, 1, 2])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    awake: list[set[str]] = []
    for step in range(3):
        optimiser.zero_grad()
        loss = F.cross_entropy(net(images()), labels)
        if step == 0:
            assert loss.item() == pytest.approx(math.log(5), abs=1e-12)
        loss.backward()
        awake.append({key for key, parameter in net.named_parameters() if parameter.grad.count_nonzero()})
        optimiser.step()
    assert awake[0] == {"fc.weight", "fc.bias"}
    branch_ends = {f"layer{s}.{b}.{part}" for s in (1, 2, 3) for b in (0, 1) for part in ("conv2.weight", "bn2.bias")}
    entries = {"layer2.0.bias1.bias", "layer3.0.bias1.bias"}  # which the shortcut shares where the dimensions change
    assert awake[1] == awake[0] | {"conv1.weight", "bn1.bias", "head_bias.bias"} | branch_ends | entries
    assert awake[2] == {key for key, _ in net.named_parameters()}


def test_fixup_keeps_the_scale_of_the_stem_through_110_layers():
    torch.manual_seed(0)
    net = create_model("fixup_resnet110").double()
    seen = []
    for _, block in net.blocks():
        block.register_forward_hook(lambda _, args, out: seen.append((args[0].var().item(), out.var().item())))
    with torch.no_grad():
        net(images(8, 32))
    stem = seen[0][0]
    assert all(stem / 3 / 16 < var < 3 * stem for _, var in seen)
    assert all(1 / 3 < out / into < 3 for into, out in seen[:18])


@pytest.mark.parametrize(("block", "scalars"), [("basic", 5), ("bottleneck", 7)])
def test_fixup_has_the_scalars_of_the_paper_and_two_more(block, scalars):
    net = build("fixup", block=block, shortcut="projection")
    count = sum(parameter.numel() for parameter in net.parameters() if parameter.numel() == 1)
    assert count == 6 * scalars + 2
    assert sum(p.numel() == 1 for p in create_model("fixup_resnet110").parameters()) == 272


# ---- NF-ResNet


def test_norm_free_betas_are_those_of_the_published_code():
    stages = create_model("nf_resnet50").architecture.block_specs()
    betas = [[round(NormFree().beta(spec), 4) for spec in specs] for specs in stages]
    assert betas[0] == [1.0, 0.9806, 0.9623]
    assert betas[1] == [0.9449, 0.9806, 0.9623, 0.9449]
    assert betas[2] == [0.9285, 0.9806, 0.9623, 0.9449, 0.9285, 0.9129]
    assert betas[3][0] == 0.898


def test_standardised_weights_have_mean_0_and_the_variance_of_the_paper():
    conv = create_model("nf_resnet26").double().layer2[0].conv2
    assert isinstance(conv, Standardised)
    weight = standardise(conv.weight, gain=conv.gain, scale=conv.scale, eps=1e-30).flatten(1)
    torch.testing.assert_close(weight.mean(1), torch.zeros_like(weight[:, 0]), rtol=0, atol=1e-12)
    expected = ACTIVATION_GAINS["relu"] ** 2 / weight.shape[1]
    torch.testing.assert_close(weight.var(1, unbiased=False), torch.full_like(weight[:, 0], expected))


def test_the_scale_of_standardised_weights_does_not_matter():
    torch.manual_seed(0)
    net = randomise(create_model("nf_resnet20").double()).eval()
    convs = [conv for conv in net.modules() if isinstance(conv, Standardised)]
    before = net(images())
    with torch.no_grad():
        for conv in convs:
            conv.eps = 1e-30
        expected = net(images())
        for conv in convs:
            conv.weight.mul_(10)
    torch.testing.assert_close(net(images()), expected)
    torch.testing.assert_close(before, expected, rtol=1e-2, atol=1e-2)


def test_the_variance_of_a_norm_free_stream_is_the_tracked_one():
    torch.manual_seed(0)
    net = create_model("nf_resnet50", shortcut="projection")
    with torch.no_grad():
        for conv in net.modules():
            if isinstance(conv, Standardised):
                conv.gain.fill_(1.0)
        x, tracked, measured = torch.randn(8, 64, 16, 16), [], []
        for stage, specs in zip(net.stages(), net.architecture.block_specs(), strict=True):
            for index, (block, spec) in enumerate(zip(stage, specs, strict=True)):
                x = block(x)
                tracked.append(1 + 0.04 * (index + 1))
                measured.append(x.var(dim=(0, 2, 3)).mean().item())  # over samples, a channel at a time
                assert spec.since_renewal == index or index == 0
    assert measured[:3] == pytest.approx(tracked[:3], rel=0.1)
    assert measured == pytest.approx(tracked, rel=0.25)  # small maps at the end: padding has its part in them


# ---- streams


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("order", ORDERS)
def test_many_streams_start_as_the_residual_network(kind, order):
    joined = build(Streams(kind=kind, num_streams=4), order=order).train()
    added = build("add", order=order).train()
    torch.testing.assert_close(joined(images()), added(images()), rtol=1e-12, atol=1e-12)


def test_streams_part_because_each_block_reads_another_one():
    net = build("hyper", num_blocks=(5, 2, 2))
    assert [block.streams.home for block in net.stages()[0]] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("name", ["hyper", "dynamic_hyper", "mhc"])
def test_streams_close_before_a_block_that_ends_a_stage(name):
    """With ``stride_in="last"`` dimensions change in the last block, which has no streams."""
    joined, added = build(name, stride_in="last").eval(), build("add", stride_in="last").eval()
    close = torch.allclose(joined(images()), added(images()), rtol=1e-9)
    assert close == (name != "mhc")


def test_one_doubly_stochastic_stream_is_near_addition():
    joined, added = build(Streams(kind="manifold", num_streams=1)).eval(), build("add").eval()
    weight = torch.sigmoid(torch.tensor(3.0)).item()  # of its only stream, at home
    x, _ = identity_blocks(joined)[0].streams.read(torch.ones(1, 1, 16, 2, 2).double())
    assert x.mean().item() == pytest.approx(weight, rel=1e-6)
    assert not torch.equal(joined(images()), added(images()))


def test_the_names_of_streams_do_not_matter():
    torch.manual_seed(0)
    streams = randomise(StaticStreams(4).double())
    order = torch.tensor([2, 0, 3, 1])
    renamed = StaticStreams(4).double()
    with torch.no_grad():
        renamed.reading.copy_(streams.reading[order])
        renamed.writing.copy_(streams.writing[order])
        renamed.mixing.copy_(streams.mixing[order][:, order])
    state, branch = torch.randn(4, 2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    x, mix = streams.read(state)
    y, other = renamed.read(state[order])
    torch.testing.assert_close(x, y)
    torch.testing.assert_close(streams(state, branch, mix)[order], renamed(state[order], branch, other))


@pytest.fixture
def manifold() -> ManifoldStreams:
    torch.manual_seed(0)
    streams = ManifoldStreams(3, 4, home=1).double()
    for parameter in streams.parameters():
        nn.init.normal_(parameter, std=0.7)
    return streams


def test_mixing_on_the_manifold_is_doubly_stochastic_and_never_grows(manifold):
    state = torch.randn(4, 5, 3, 6, 6, dtype=torch.float64)
    _, (mixing, writing) = manifold.coefficients(state)
    ones = torch.ones(5, 4, dtype=torch.float64)
    torch.testing.assert_close(mixing.sum(1), ones, rtol=0, atol=1e-4)
    torch.testing.assert_close(mixing.sum(2), ones, rtol=0, atol=1e-4)
    assert torch.linalg.matrix_norm(mixing, 2).max() <= 1 + 1e-4
    assert writing.min() > 0
    assert writing.max() < 2
    silent = manifold(state, torch.zeros(5, 3, 6, 6, dtype=torch.float64), (mixing, writing))
    torch.testing.assert_close(silent.mean(0), state.mean(0), rtol=0, atol=1e-3)


def test_mixing_is_not_transposed(manifold):
    """New stream i is the sum over old streams j of H[i, j], where H is what the paper writes."""
    state = torch.randn(4, 1, 3, 2, 2, dtype=torch.float64)
    pooled = state.mean((3, 4)).transpose(0, 1).flatten(1)
    normed = pooled / pooled.square().mean(1, keepdim=True).add(1e-6).sqrt()
    logits = manifold.scales[2] * (normed @ manifold.projection)[:, 8:].reshape(4, 4) + manifold.mixing_bias
    mixing = sinkhorn(logits[None], 20)[0]
    assert not torch.allclose(mixing, mixing.T, atol=0.05)
    _, mix = manifold.coefficients(state)
    after = manifold(state, torch.zeros(1, 3, 2, 2, dtype=torch.float64), mix)
    torch.testing.assert_close(after, torch.einsum("ij,jbchw->ibchw", mixing, state))


def test_the_gradient_goes_through_twenty_iterations():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: sinkhorn(values, 20), (logits,))


def test_mhc_starts_near_the_residual_network():
    streams = ManifoldStreams(3, 4, home=2).double()
    reading, (mixing, writing) = streams.coefficients(torch.randn(4, 1, 3, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(reading[0], torch.tensor([0.0474, 0.0474, 0.9526, 0.0474]).double(), rtol=0, atol=1e-4)
    assert writing.tolist() == [[1.0] * 4]
    assert mixing[0].diagonal().tolist() == pytest.approx([0.9926] * 4, abs=1e-4)
    assert mixing[0, 0, 1].item() == pytest.approx(0.0025, abs=1e-4)


def test_dynamic_coefficients_follow_the_sample():
    streams = randomise(DynamicStreams(3, 2).double())
    state = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    reading, (mixing, writing) = streams.coefficients(state)
    assert (reading.shape, mixing.shape, writing.shape) == ((5, 2), (5, 2, 2), (5, 2))
    alone, _ = streams.coefficients(state[:, 2:3])
    torch.testing.assert_close(alone[0], reading[2])
    assert not torch.allclose(reading[0], reading[1])


# ---- choices


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"connection": "rezro"}, r"Unknown connection 'rezro'\. Did you mean 'rezero'"),
        ({"connection": "rezero", "shortcut": "none"}, "A plain network has no shortcut to join"),
        ({"connection": "fixup", "norm": "batch"}, "'fixup' is made for norm='none', got 'batch'"),
        ({"connection": "norm_free", "order": "post"}, "'norm_free' is made for order='pre', got 'post'"),
        ({"connection": "fixup", "zero_init_residual": True}, "starts each branch at zero by itself"),
        ({"order": "relu_before", "zero_init_residual": True}, "silence the branches permanently"),
        ({"order": "preactivation"}, "Unknown order 'preactivation'"),
        ({"norm": "instance"}, r"Unknown norm 'instance'\. Expected one of: batch"),
        ({"stem": "cifar"}, r"Unknown stem 'cifar'\. Expected one of: imagenet, .*small"),
        ({"drop_path": 1.0}, r"drop_path must be below 1, got 1.0"),
        ({"drop_path": 0.1, "shortcut": "none"}, "drop_path drops whole branches"),
        ({"groups": 4}, "apply to bottleneck blocks only; this network has 'basic' blocks"),
        ({"block": "bottleneck", "groups": 2, "width_per_group": 3}, "a fraction of a channel per group"),
        ({"ndim": 4}, "Unknown ndim '4'"),
        ({"time_padding": "replicate"}, "is for 3-D networks only"),
        ({"num_blocks": (1, 2)}, "need one number per stage, got 2 and 3"),
        ({"num_blocks": (0, 1, 1)}, "num_blocks must be at least 1, got 0"),
        ({"block": "single", "block_dropout": 0.1}, "a 'single' block has only one"),
        ({"nrom": "batch"}, r"Unknown choice 'nrom'\. Did you mean 'norm'"),
        ({"conv": "standardised", "order": "pre", "zero_init_residual": True}, "standardised convolution can't"),
    ],
)
def test_choices_that_make_no_network_are_refused_at_once(changes, said):
    with pytest.raises(RequestError, match=said):
        create_model(SMALL, **changes)


def test_an_architecture_is_as_good_as_a_name():
    own = Architecture(
        block="single",
        num_blocks=(1, 3),
        widths=(8, 24),
        stem="small",
        stem_width=8,
        shortcut="zero_pad",
        num_classes=2,
    )
    assert create_model(own, connection=Scaling(branch=0.3))(torch.zeros(1, 3, 9, 9)).shape == (1, 2)
