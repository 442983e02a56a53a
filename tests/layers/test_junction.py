"""Junctions: how a block joins its shortcut to its branch."""

import torch

from reslab.layers.junction import Add, BranchOnly


def test_add_is_the_sum_and_leaves_the_shortcut_alone():
    shortcut, branch = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    kept, expected = shortcut.clone(), shortcut + branch
    assert torch.equal(Add()(shortcut, branch), expected)
    assert torch.equal(shortcut, kept)


def test_add_writes_into_the_branch():
    shortcut, branch = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    assert Add()(shortcut, branch).data_ptr() == branch.data_ptr()


def test_add_gives_both_sides_the_whole_gradient():
    shortcut, leaf = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4)
    (Add()(shortcut, leaf * 2) * weight).sum().backward()
    assert torch.equal(shortcut.grad, weight)
    assert torch.equal(leaf.grad, 2 * weight)


def test_branch_only_is_the_branch_itself():
    branch = torch.randn(2, 3, 4, 4)
    assert BranchOnly()(None, branch) is branch


def test_junctions_have_no_state():
    assert not Add().state_dict()
    assert not BranchOnly().state_dict()
