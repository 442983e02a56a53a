"""Singular values: against the dense Jacobian of plain autograd, and against matrices whose values are known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import reslab
from reslab.errors import RequestError
from reslab.probe._jacobian import jacobians, parts_of, singular_values, stage_names
from reslab.probe.shattering import frozen_norms
from reslab.untouched import untouched


class Block(nn.Module):
    def __init__(self, width: int, *, inplace: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(width, width), nn.Linear(width, width), nn.BatchNorm1d(width)
        self.act = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.act(self.first(x)))
        y += x
        return self.norm(self.act(y))


class Net(nn.Module):
    """A layer, two stages of blocks, a layer; every part can be called alone."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.layer1 = nn.Sequential(Block(6, inplace=inplace), Block(6, inplace=inplace))
        self.wider = nn.Linear(6, 9)
        self.layer2 = nn.Sequential(Block(9, inplace=inplace))
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.begin1 = self.stem(x)
        self.begin2 = self.wider(self.layer1(self.begin1))
        return self.head(self.layer2(self.begin2))


def net(inplace: bool = True) -> Net:
    torch.manual_seed(0)
    return Net(inplace).double().train()


def vectors(num: int = 5, size: int = 3) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dense(function, inputs: Tensor) -> Tensor:
    """The Jacobian of plain autograd, of all samples side by side."""
    found = torch.autograd.functional.jacobian(function, inputs)
    return found.reshape(-1, inputs.numel())


def expected_values(model: Net, inputs: Tensor, num_samples: int) -> dict[str, Tensor]:
    """Dense singular values of the whole and of both stages, each without the norm that follows its last activation."""
    with untouched(model), frozen_norms(model, inputs):
        some = inputs[:num_samples]
        model(some)
        begin1, begin2 = model.begin1.detach(), model.begin2.detach()
        last1, last2 = model.layer1[1], model.layer2[0]
        first = model.layer1[0]
        last1.norm, last2.norm, norms = nn.Identity(), nn.Identity(), (last1.norm, last2.norm)
        stage1 = dense(lambda x: last1(first(x)), begin1)
        stage2 = dense(last2, begin2)
        last1.norm, last2.norm = norms
        return {"all": dense(model, some), "layer1": stage1, "layer2": stage2}


def test_the_dense_jacobian_has_the_same_singular_values():
    model, inputs = net(), vectors()
    expected = expected_values(model, inputs, 4)
    records = jacobians(model, inputs)
    assert [record.name for record in records] == ["all", "layer1", "layer2"]
    for record in records:
        matrix = expected[record.name]
        values = torch.linalg.svdvals(matrix)
        assert record.singular_values == pytest.approx(values.tolist(), rel=1e-9, abs=1e-12)
        assert record.largest == record.singular_values[0]
        assert record.mean_square == pytest.approx((matrix.square().sum() / len(matrix)).item(), rel=1e-9)
        assert record.num_samples == 4


@pytest.mark.parametrize("place", [0, 1, 2], ids=["all", "layer1", "layer2"])
def test_products_and_bidiagonalisation(place):
    model, inputs = net().eval(), vectors(3)
    jacobian = parts_of(model, inputs)[place]
    matrix = jacobian.dense()
    vector = torch.randn(jacobian.num_columns, dtype=torch.float64)
    torch.testing.assert_close(jacobian.times(vector), matrix @ vector, rtol=1e-12, atol=1e-12)
    values = torch.linalg.svdvals(matrix)
    steps = min(matrix.shape)
    found = singular_values(jacobian, torch.Generator().manual_seed(0), num_steps=steps)
    assert found[0] == pytest.approx(values[0].item(), rel=1e-6)
    rank = int((values > 1e-9).sum())
    assert found[:rank] == pytest.approx(values[:rank].tolist(), rel=1e-6)
    assert sum(value > 1e-9 for value in found) == rank
    few = singular_values(jacobian, torch.Generator().manual_seed(0), num_steps=steps // 2)
    assert len(few) == steps // 2
    assert 0.8 * values[0].item() < few[0] <= values[0].item() * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)], ids=["wide", "tall"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_as_many_steps_as_ranks_find_all_values(shape, dtype):
    """In single precision too, where rounding grows if it may."""
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=False).to(dtype)
    jacobian = parts_of(layer, torch.ones(1, shape[1], dtype=dtype))[0]
    values = torch.linalg.svdvals(layer.weight.detach().double())
    found = singular_values(jacobian, torch.Generator().manual_seed(0), num_steps=40)
    assert found == pytest.approx(values.tolist(), rel=1e-6 if dtype == torch.float64 else 1e-4)


def test_an_orthogonal_network_stretches_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(30, 30) for _ in range(20))).double()
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    (record,) = jacobians(model, vectors(2, 30))
    assert record.singular_values == pytest.approx([1] * 60, abs=1e-12)
    assert record.mean_square == pytest.approx(1, abs=1e-12)
    (record,) = jacobians(model, vectors(2, 30), num_steps=10)
    assert record.singular_values == pytest.approx([1], abs=1e-12)  # each value once
    assert record.mean_square == pytest.approx(1, abs=1e-12)


def test_the_mean_square_of_random_directions():
    torch.manual_seed(0)
    model = nn.Linear(100, 80, bias=False).double()
    (record,) = jacobians(model, vectors(1, 100), num_directions=100, num_steps=2)
    assert record.mean_square == pytest.approx(model.weight.square().sum().item() / 80, rel=0.05)
    assert len(record.singular_values) == 2


def test_an_activation_after_the_last_sum_belongs_to_the_stage_and_in_place_makes_no_difference():
    batch = vectors()
    apart, in_place = jacobians(net(inplace=False), batch), jacobians(net(inplace=True), batch)
    for first, second in zip(apart, in_place, strict=True):
        assert first.singular_values == pytest.approx(second.singular_values, rel=1e-12, abs=1e-12)


def test_a_dead_network_sends_all_to_zero():
    model = net()
    nn.init.zeros_(model.head.weight)
    whole = jacobians(model, vectors(), num_steps=2)[0]
    assert (whole.mean_square, whole.largest, whole.singular_values) == (0, 0, (0,))


@pytest.mark.parametrize(
    ("model", "shape", "names"),
    [
        (lambda: reslab.create_model("resnet20", 3), (3, 3, 8, 8), ["layer1", "layer2", "layer3"]),
        (lambda: torchvision.models.resnet18(num_classes=3), (2, 3, 32, 32), [f"layer{i}" for i in (1, 2, 3, 4)]),
        (lambda: torchvision.models.mobilenet_v2(num_classes=3), (2, 3, 32, 32), [f"stage {i}" for i in range(1, 6)]),
        (lambda: torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 16), (2, 3, 16, 16), ["encoder.layers"]),
        (lambda: reslab.create_model("plain20", 3), (2, 3, 8, 8), []),
    ],
    ids=["resnet20", "torchvision", "mobilenet", "transformer", "plain"],
)
def test_stages_of_known_networks(model, shape, names):
    torch.manual_seed(0)
    records = jacobians(model(), torch.randn(*shape), num_directions=2, num_steps=4, num_samples=2)
    assert [record.name for record in records] == ["all", *names]
    for record in records[1:]:
        assert len(record.singular_values) == 4
        assert record.largest**2 > record.mean_square > 0


def test_words_begin_at_their_embedding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4, bias=False)).double()
    (record,) = jacobians(model, torch.arange(6).view(2, 3))
    values = torch.linalg.svdvals(model[1].weight.detach())
    assert record.singular_values == pytest.approx([v for v in values.tolist() for _ in range(6)], rel=1e-10)


def test_attention_written_by_hand():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.norm = nn.Linear(8, 24), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = self.mix(self.norm(x)).chunk(3, dim=-1)
            return x + F.scaled_dot_product_attention(query, key, value)

    torch.manual_seed(0)
    model, inputs = nn.Sequential(Attention(), Attention()).double(), torch.randn(2, 3, 8).double()
    values = torch.linalg.svdvals(dense(model, inputs))
    jacobian = parts_of(model, inputs)[0]
    assert singular_values(jacobian, torch.Generator().manual_seed(0), num_steps=48) == pytest.approx(values.tolist())


class Once(torch.autograd.Function):
    """A square whose backward can't be differentiated."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


def test_what_can_not_be_differentiated_twice():
    """A few outputs need no second derivative; many do."""
    batch = vectors(1, 9)
    (record,) = jacobians(Squares(), batch)
    assert record.singular_values == pytest.approx(sorted((2 * batch.abs()).flatten().tolist(), reverse=True))
    (record,) = jacobians(Squares(), batch, num_steps=2, num_directions=200)
    assert math.isnan(record.largest)
    assert record.singular_values == ()
    assert record.mean_square == pytest.approx((2 * batch).square().mean().item(), rel=0.2)
    hard = nn.Sequential(nn.Linear(9, 9), nn.Hardsigmoid()).double()  # torch has no second derivative of it
    assert jacobians(hard, batch, num_steps=2)[0].singular_values == ()


def test_a_backward_pass_without_a_graph_of_its_own_is_noticed():
    class Detached(Once):
        backward = staticmethod(lambda ctx, gradient: (2 * ctx.saved_tensors[0] * gradient).detach())

    model = nn.Sequential(Squares(), nn.Linear(9, 9, bias=False)).double()
    model[0].forward = lambda x: Detached.apply(x) + 0.1 * x
    assert jacobians(model, vectors(1, 9), num_steps=3)[0].singular_values == ()


def test_blocks_side_by_side_are_stages_of_their_own():
    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = Block(4), Block(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.left(x), self.right(x)], dim=1)

    torch.manual_seed(0)
    records = jacobians(Sides().double(), vectors(3, 4))
    assert sorted(record.name for record in records) == ["all", "left", "right"]
    assert all(record.mean_square > 0 for record in records)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([["layer1.0", "layer1.1"], ["layer2.0"]], ["layer1", "layer2"]),
        ([["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn"]], ["blocks"]),
        ([["0", "1"], ["2"]], ["stage 1", "stage 2"]),
        ([["body#1", "body#2"], ["tail.all"]], ["body", "tail.all"]),
        ([["a.0", "b.0"], ["all.0"]], ["stage 1", "stage 2"]),
        ([], []),
    ],
)
def test_names_of_stages(runs, expected):
    assert stage_names(runs) == expected


def test_bad_input():
    batch = vectors()
    for name in ("num_directions", "num_steps", "num_samples"):
        with pytest.raises(RequestError, match=f"{name} is 0"):
            jacobians(net(), batch, **{name: 0})
    with pytest.raises(RequestError, match="depend"):
        jacobians(nn.Threshold(0.0, 1.0).requires_grad_(False), torch.arange(3))
    model = net()
    nn.init.constant_(model.head.weight, torch.inf)
    with pytest.raises(RequestError, match="not finite"):
        jacobians(model, batch)
    with pytest.raises(RequestError, match="not finite"):
        jacobians(model, batch, num_steps=1)
