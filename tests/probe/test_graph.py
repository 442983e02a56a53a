"""Residual additions are found in networks that know nothing of reslab; the counts were checked by hand."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

import reslab
from reslab.models.graph import Addition, Graph, chain_length, outermost

SMALL, LARGE = (2, 3, 64, 64), (1, 3, 224, 224)


def graph_of(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    images = torch.randn(*shape, requires_grad=True)
    return Graph(model.train()(images).sum().grad_fn, [get_gradient_edge(images).node])


def kinds(model: nn.Module, shape: tuple[int, ...] = SMALL) -> dict[str, int]:
    return dict(Counter(addition.kind for addition in graph_of(model, shape).additions()))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("resnet18", SMALL, {"identity": 5, "projection": 3}),
        ("resnet50", SMALL, {"identity": 12, "projection": 4}),
        ("mobilenet_v2", SMALL, {"identity": 10}),
        ("mobilenet_v3_large", SMALL, {"identity": 10}),
        ("mnasnet0_5", SMALL, {"identity": 10}),
        ("efficientnet_b0", SMALL, {"identity": 9}),
        ("regnet_y_400mf", SMALL, {"identity": 12, "projection": 4}),
        ("convnext_tiny", SMALL, {"identity": 18}),
        ("swin_t", LARGE, {"identity": 24}),
        ("vit_b_16", LARGE, {"identity": 24}),
        ("vgg11", SMALL, {}),
        ("densenet121", SMALL, {}),
        ("shufflenet_v2_x0_5", SMALL, {}),
    ],
)
def test_torchvision(name, shape, expected):
    assert kinds(torchvision.models.get_model(name, weights=None), shape) == expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("resnetv2_50", SMALL, {"identity": 12, "projection": 4}),
        ("resnetv2_101", SMALL, {"identity": 29, "projection": 4}),
        ("seresnet50", SMALL, {"identity": 12, "projection": 4}),
        ("nf_resnet50", SMALL, {"identity": 12, "projection": 4}),  # weight standardisation has additions of its own
        ("dm_nfnet_f0", SMALL, {"identity": 8, "projection": 4}),
        ("res2net50_26w_4s", SMALL, {"identity": 12, "projection": 4}),  # additions inside of the blocks, too
        ("skresnet18", SMALL, {"identity": 5, "projection": 3}),
        ("vit_tiny_patch16_224", LARGE, {"identity": 24}),
        ("mixer_s32_224", LARGE, {"identity": 16}),
        ("swin_tiny_patch4_window7_224", LARGE, {"identity": 24}),
        ("convnext_atto", SMALL, {"identity": 12}),
        ("regnety_004", SMALL, {"identity": 12, "projection": 4}),
    ],
)
def test_timm(name, shape, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
        model = timm.create_model(name)
    assert kinds(model, shape) == expected


@pytest.mark.parametrize(
    "name", ["resnet20", "preresnet20", "wide_resnet16_4", "seresnet20", "fixup_resnet20", "resnet164"]
)
def test_our_own(name):
    model = reslab.create_model(name)
    assert sum(kinds(model, (2, 3, 32, 32)).values()) == len(list(model.blocks()))


@pytest.mark.parametrize("name", ["plain20", "vgg20_cifar"])
def test_plain_networks_have_none(name):
    assert kinds(reslab.create_model(name), (2, 3, 32, 32)) == {}


@pytest.mark.parametrize(
    ("shortcut", "kind"),
    [
        ("zero_pad", "zero_pad"),
        ("zero_pad_both", "zero_pad"),
        ("projection", "projection"),
        ("projection_pool", "projection"),
    ],
)
def test_kinds_of_shortcuts(shortcut, kind):
    assert kinds(reslab.create_model("resnet20", shortcut=shortcut), (2, 3, 32, 32)) == {"identity": 7, kind: 2}


class Block(nn.Module):
    """Joins x to its branch in a way of the test's."""

    def __init__(self, join) -> None:
        super().__init__()
        self.join, self.weight = join, nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, x @ self.weight)


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (lambda x, b: x + b, {"identity": 1}),
        (lambda x, b: b + x, {"identity": 1}),
        (lambda x, b: torch.add(x, b, alpha=0.5), {"identity": 1}),
        (lambda x, b: x - b, {"identity": 1}),
        (lambda x, b: b.add_(x), {"identity": 1}),
        (lambda x, b: x.view(-1, 4).contiguous() + b, {"identity": 1}),
        (lambda x, b: 0.5 * x + b, {"scaled": 1}),
        (lambda x, b: F.relu(x) + b, {"other": 1}),
        (lambda x, b: torch.addcmul(x, b, torch.ones(4, requires_grad=True)), {"identity": 1}),
        (lambda x, b: x * b, {}),
        (lambda x, b: x - x.mean(), {}),  # no weights on either side
        (lambda x, b: b + 1, {}),
        (lambda x, b: torch.cat([x, b], dim=1), {}),
        (lambda x, b: x[:, :2] + b[:, 2:], {"pool": 1}),
    ],
)
def test_ways_to_join(join, expected):
    x = torch.randn(3, 4, requires_grad=True)
    graph = Graph(Block(join)(x).sum().grad_fn, [get_gradient_edge(x).node])
    assert dict(Counter(addition.kind for addition in graph.additions())) == expected


def test_two_parts_of_a_split_tensor_are_no_shortcut():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.eye(2, requires_grad=True)
    first, second = (x * 2).chunk(2, dim=1)
    graph = Graph((first + second @ weight).sum().grad_fn, [get_gradient_edge(x).node])
    assert graph.additions() == []


def test_terms_of_a_loss_are_no_residual_addition():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.eye(4, requires_grad=True)
    graph = Graph((x.square().sum() + (x @ weight).sum()).grad_fn, [get_gradient_edge(x).node])
    assert graph.additions() == []


def test_a_long_skip_is_opened_and_a_block_inside_of_a_block_is_not():
    def addition(node: int, fork: int) -> Addition:
        ways = frozenset(range(fork + 1, node))
        return Addition(node, fork, 0, "identity", {}, frozenset(), ways, 0, (2, 4))

    blocks = [addition(node, node - 10) for node in (20, 30, 40)]
    assert chain_length(blocks) == 3
    assert outermost([*blocks, addition(60, 5)]) == blocks
    assert outermost([*blocks[:2], addition(60, 5)]) == [addition(60, 5)]


def test_frozen_weights_leave_the_additions_where_they_are():
    model = torchvision.models.resnet18()
    model.requires_grad_(False)
    assert kinds(model) == {"identity": 5, "projection": 3}


def test_a_thousand_layers_take_no_recursion():
    assert sum(kinds(reslab.create_model("resnet1202"), (1, 3, 8, 8)).values()) == 600
