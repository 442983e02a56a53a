"""Junctions, drop path, norms and pools by themselves; connections are tested in networks."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import reslab.layers
from reslab.layers.branch import DropPath, drop_rates
from reslab.layers.junction import Add, BranchOnly
from reslab.layers.nd import CellMean, FrozenBatchNorm, LayerFactory, ZeroPaddedMaxPool


def test_public_names_are_lazy():
    code = "import sys, reslab.layers, reslab.layers.connections; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert dir(reslab.layers) == sorted(reslab.layers.__all__)
    assert all(getattr(reslab.layers, name) is not None for name in reslab.layers.__all__)
    with pytest.raises(AttributeError, match=r"it has .*CONNECTIONS"):
        _ = reslab.layers.Subtract


# ---- junctions


def test_add_is_the_sum_into_the_branch_and_leaves_the_shortcut_alone():
    shortcut, branch = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    kept, expected = shortcut.clone(), shortcut + branch
    assert torch.equal(Add(in_place=False)(shortcut, branch), expected)
    joined = Add()(shortcut, branch)
    assert torch.equal(joined, expected)
    assert joined.data_ptr() == branch.data_ptr()
    assert torch.equal(shortcut, kept)


def test_add_gives_both_sides_the_whole_gradient():
    shortcut, leaf = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4)
    (Add()(shortcut, leaf * 2) * weight).sum().backward()
    assert torch.equal(shortcut.grad, weight)
    assert torch.equal(leaf.grad, 2 * weight)


def test_branch_only_is_the_branch_itself_and_neither_has_state():
    branch = torch.randn(2, 3, 4, 4)
    assert BranchOnly()(None, branch) is branch
    assert not Add().state_dict()
    assert not BranchOnly().state_dict()


# ---- drop path


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("rule", ["timm", "paper"])
def test_dropped_samples_are_the_shortcut_alone(rule, per):
    torch.manual_seed(0)
    drop = DropPath(0.5, rule=rule, per=per).train()
    branch, shortcut = torch.randn(64, 3, 2, 2), torch.randn(64, 3, 2, 2)
    seen = set()
    for _ in range(8):
        joined = Add()(shortcut, drop(branch))
        kept = ~(joined == shortcut).flatten(1).all(1)
        scale = 2.0 if rule == "timm" else 1.0
        torch.testing.assert_close(joined[kept], (shortcut + scale * branch)[kept])
        seen |= set(kept.tolist())
        if per == "batch":
            assert len(set(kept.tolist())) == 1
    assert seen == {True, False}


@pytest.mark.parametrize("rule", ["timm", "paper"])
def test_eval_is_the_mean_over_all_masks_of_a_linear_tail(rule):
    """Three linear units: each mask's result weighted by its probability, against eval."""
    torch.manual_seed(0)
    matrices = [torch.randn(4, 4, dtype=torch.float64) for _ in range(3)]
    rates, x = drop_rates(0.5, 3, rule=rule), torch.randn(4, dtype=torch.float64)

    def run(factors) -> Tensor:
        stream = x
        for matrix, factor in zip(matrices, factors, strict=True):
            stream = stream + factor * (matrix @ stream)
        return stream

    mean = torch.zeros(4, dtype=torch.float64)
    for kept in itertools.product([False, True], repeat=3):
        probability = math.prod(1 - rate if keep else rate for keep, rate in zip(kept, rates, strict=True))
        scales = [1 / (1 - rate) if rule == "timm" else 1.0 for rate in rates]
        mean += probability * run([scale * keep for keep, scale in zip(kept, scales, strict=True)])
    branch = torch.ones(1, 1, 1, 1)
    in_eval = [DropPath(rate, rule=rule).eval()(branch).item() for rate in rates]
    torch.testing.assert_close(run(in_eval), mean, rtol=1e-6, atol=1e-6)


def test_drop_rates_of_the_paper_keep_three_quarters_of_the_blocks():
    rates = drop_rates(0.5, 54, rule="paper")
    assert sum(1 - rate for rate in rates) == pytest.approx(40.25)
    assert rates[-1] == 0.5
    assert drop_rates(0.3, 1, rule="timm") == [0.0]


# ---- norms and pools


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_frozen_norm_loads_a_batch_norm_and_stays(ndim):
    x = torch.randn(4, 6, *[5] * ndim)
    norm = LayerFactory(ndim=ndim).make_norm(6)
    nn.init.normal_(norm.weight)
    norm.train()(x)
    frozen = LayerFactory(ndim=ndim, norm="frozen_batch").make_norm(6)
    assert isinstance(frozen, FrozenBatchNorm)
    frozen.load_state_dict(norm.state_dict())
    torch.testing.assert_close(frozen.train()(x), norm.eval()(x))
    assert not list(frozen.parameters())


def test_groups_are_32_or_leave_two_channels_to_each():
    for channels, groups in ((16, 8), (32, 16), (64, 32), (256, 32), (2048, 32), (24, 4)):
        assert LayerFactory(norm="group").make_norm(channels).num_groups == groups
    assert LayerFactory(norm="layer").make_norm(24).num_groups == 1


@pytest.mark.parametrize("sides", [(1, 1), (1, 4), (5, 3), (8, 8)])
def test_a_cell_mean_is_the_mean_of_what_is_there(sides):
    x = torch.randn(2, 3, *sides)
    found = CellMean(2)(x)
    for row in range(-(-sides[0] // 2)):
        for column in range(-(-sides[1] // 2)):
            cell = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(found[:, :, row, column], cell.mean((2, 3)))


def test_a_zero_padded_pool_never_puts_out_less_than_zero_at_the_border():
    x = -torch.rand(1, 2, 8, 8) - 1
    pooled = ZeroPaddedMaxPool(2)(x)
    assert (pooled[:, :, 0] == 0).all()
    assert (pooled[:, :, :, 0] == 0).all()
    assert (pooled[:, :, 1:, 1:] < 0).all()
