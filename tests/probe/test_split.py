"""The parts of the gradient are exact: they add up to the whole, and each is what autograd gives for it alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tests.probe.subjects import NETWORKS, awake
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

import reslab
from reslab.models.graph import Graph
from reslab.probe._backward import Splitter
from reslab.records.diagnosis import SplitRecord


def splits_of(model: nn.Module, images: Tensor) -> list[SplitRecord]:
    images = images.detach().requires_grad_()
    loss = model(images).square().mean(dim=-1).mean()
    graph = Graph(loss.grad_fn, [get_gradient_edge(images).node])
    splitter = Splitter(graph, graph.additions(), num_samples=len(images), check=True)
    loss.backward()
    found = splitter.read()
    splitter.close()
    assert None not in found
    assert max(splitter.gaps) <= 1e-12
    return found


MORE = {
    **NETWORKS,
    "squeeze and excitation": lambda: reslab.create_model("seresnet20", num_classes=3),
    "layer scale": lambda: torchvision.models.convnext_tiny(num_classes=3),
}


@pytest.mark.parametrize("name", MORE)
def test_the_parts_add_up_to_the_whole(name):
    splits = splits_of(awake(MORE[name]), torch.randn(4, 3, 32, 32, dtype=torch.float64))
    for split in splits:
        assert split.shortcut_share + split.branch_share + split.other_share == pytest.approx(1, abs=1e-12)
        assert (split.other_share == 0) == (name != "gates")


class Net(nn.Module):
    """One residual block between two layers; its parts can be asked for one by one."""

    def __init__(self, after) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.after = after

    def forward(self, images: Tensor) -> Tensor:
        self.x = self.stem(images)
        self.shortcut, self.branch = self.x, self.second(F.relu(self.first(self.x)))
        self.sum = self.shortcut + self.branch
        return self.head(self.after(self.sum))


@pytest.mark.parametrize("after", [lambda y: y, F.relu], ids=["pre", "post"])
def test_the_parts_are_those_that_autograd_gives_one_by_one(after):
    torch.manual_seed(1)
    model, images = Net(after).double(), torch.randn(5, 6, dtype=torch.float64)
    (split,) = splits_of(model, images)
    loss = model(images).square().mean(dim=-1).mean()
    (arriving,) = torch.autograd.grad(loss, model.sum, retain_graph=True)
    (whole,) = torch.autograd.grad(loss, model.x, retain_graph=True)
    (branch,) = torch.autograd.grad(model.branch, model.x, arriving, retain_graph=True)

    def norm(gradient: Tensor) -> float:  # of one sample's own loss: a mean over 5 was undone
        return (gradient * 5).flatten(1).norm(dim=1).square().mean().sqrt().item()

    assert split.grad_norm == pytest.approx(norm(whole), rel=1e-12)
    assert split.shortcut_norm == pytest.approx(norm(arriving), rel=1e-12)
    assert split.branch_norm == pytest.approx(norm(branch), rel=1e-12)
    samples = (whole * 5).norm(dim=1).quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert [split.grad_norm_low, split.grad_norm_high] == pytest.approx(samples.tolist())
    assert split.cosine == pytest.approx(F.cosine_similarity(arriving.flatten(), branch.flatten(), dim=0).item())
    assert split.branch_share == pytest.approx(((branch * whole).sum() / whole.square().sum()).item())
    assert split.shortcut_gain == pytest.approx(1)
    if after is F.relu:
        (next_one,) = torch.autograd.grad(model.head(y := F.relu(model.sum)).square().mean(dim=-1).mean(), y)
        expected = arriving.square().sum() / next_one.square().sum()
        assert split.pass_through == pytest.approx(expected.item())
        assert split.pass_through < 1
    else:
        assert split.pass_through == 1


@pytest.mark.parametrize("gain", [1.0, 1e-2, 1e-5], ids=["alike", "smaller", "far smaller"])
def test_single_precision_gives_what_double_gives(gain):
    torch.manual_seed(2)
    model, images = reslab.create_model("resnet20", 3), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        for _, block in model.blocks():
            list(block.parameters())[-2].mul_(gain)
    exact = splits_of(copy.deepcopy(model).double(), images.double())
    leaves = images.clone().requires_grad_()
    loss = model(leaves).square().mean(dim=-1).mean()
    graph = Graph(loss.grad_fn, [get_gradient_edge(leaves).node])
    splitter = Splitter(graph, graph.additions(), num_samples=len(leaves))
    loss.backward()
    for single, double in zip(splitter.read(), exact, strict=True):
        assert single.branch_norm == pytest.approx(double.branch_norm, rel=1e-4)
        assert single.shortcut_share == pytest.approx(double.shortcut_share, abs=1e-4)
        assert single.branch_share == pytest.approx(double.branch_share, abs=1e-4)
        assert single.cosine == pytest.approx(double.cosine, abs=1e-3)


def test_a_tap_on_the_stream_is_the_other_part():
    weight, x = torch.eye(3, dtype=torch.float64).requires_grad_(), torch.ones(2, 3, dtype=torch.float64)
    x.requires_grad_()
    stream = x * 2
    loss = (stream + stream @ weight).sum() + 10 * stream.sum()
    graph = Graph(loss.grad_fn, [get_gradient_edge(x).node])
    splitter = Splitter(graph, graph.additions(), num_samples=1, check=True)
    loss.backward()
    (split,) = splitter.read()
    assert split.other_share == pytest.approx(10 / 12)
    assert splitter.gaps == [0]


def test_a_branch_that_starts_at_zero_has_no_share():
    model = reslab.create_model("resnet20", num_classes=3, shortcut="projection", zero_init_residual=True).double()
    splits = splits_of(model, torch.randn(4, 3, 32, 32, dtype=torch.float64))
    assert all(split.branch_norm == 0 and split.branch_share == 0 for split in splits)
    assert all(math.isnan(split.cosine) for split in splits)
