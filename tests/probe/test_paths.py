"""The path spectrum: against all 2^n paths one by one, against closed forms, and against the whole gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tests.probe.subjects import NETWORKS, awake
from torch import Tensor, nn

import reslab
from reslab.errors import RequestError
from reslab.probe.batch import BatchLoss
from reslab.probe.paths import path_spectrum


class Block(nn.Module):
    """A residual block; ``is_off`` names the sides that no gradient goes through."""

    def __init__(self, width: int, after=F.relu, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.after, self.shortcut, self.is_off = after, shortcut or nn.Identity(), ""

    def forward(self, x: Tensor) -> Tensor:
        shortcut, branch = self.shortcut(x), self.second(F.relu(self.first(x)))
        shortcut = shortcut.detach() if self.is_off == "shortcut" else shortcut
        branch = branch.detach() if self.is_off == "branch" else branch
        return self.after(shortcut + branch)


class Net(nn.Module):
    """Stem, blocks, head; the norms between the blocks tie the samples together."""

    def __init__(self, *blocks: nn.Module, width: int = 5) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        self.blocks, self.norms = nn.ModuleList(blocks), nn.ModuleList(nn.BatchNorm1d(width) for _ in blocks)

    def forward(self, x: Tensor) -> Tensor:
        self.entry = x = self.stem(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(block(x))
        return self.head(x)


def batch(num: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 3, generator=generator, dtype=dtype), torch.arange(num) % 2


def images(num: int = 4, side: int = 16, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 3, side, side, generator=generator, dtype=dtype), torch.arange(num) % 3


def one_by_one(model: Net) -> list[Tensor]:
    """The gradient at the first block's input by number of branches: the sum over all subsets of blocks."""
    inputs, targets = batch()
    found = [torch.zeros(len(inputs), 5, dtype=torch.float64) for _ in range(len(model.blocks) + 1)]
    for way in itertools.product(("shortcut", "branch"), repeat=len(model.blocks)):
        for block, side in zip(model.blocks, way, strict=True):
            block.is_off = "branch" if side == "shortcut" else "shortcut"
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(inputs), targets), model.entry)
        found[way.count("branch")] += gradient
    for block in model.blocks:
        block.is_off = ""
    return found


@pytest.mark.parametrize("after", [F.relu, lambda y: y, F.relu_], ids=["post", "pre", "in place"])
@pytest.mark.parametrize("count", [1, 4])
def test_all_paths_one_by_one_give_the_same(after, count):
    torch.manual_seed(0)
    projected = Block(5, after, nn.Linear(5, 5))
    model = Net(*(Block(5, after) for _ in range(count - 1)), projected).double()
    record = path_spectrum(model, BatchLoss(batch(), F.cross_entropy))
    squares = [part.square().sum().item() for part in one_by_one(model)]
    expected = [square / sum(squares) for square in squares]
    assert record.energies == pytest.approx(expected, rel=1e-10)
    assert record.effective == pytest.approx(sum(k * share for k, share in enumerate(expected)))
    assert record.gap < 1e-14
    assert record.num_samples == 6


class Scaled(nn.Module):
    """x + factor W x with an orthogonal W of its own, so that a path's length is all that its energy depends on."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(factor * torch.eye(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + x @ self.weight


def test_a_linear_network_has_squared_binomial_terms():
    """With branches c x, the paths with k branches are C(n, k) times c^k times the gradient that arrives."""
    count, factor = 6, 0.3
    model = nn.Sequential(*(Scaled(factor) for _ in range(count)))
    record = path_spectrum(
        model, BatchLoss((torch.ones(3, 4, dtype=torch.float64), None), lambda outputs, _: outputs.sum())
    )
    squares = [(math.comb(count, k) * factor**k) ** 2 for k in range(count + 1)]
    expected = [square / sum(squares) for square in squares]
    assert record.energies == pytest.approx(expected, rel=1e-12)
    assert record.effective == pytest.approx(sum(k * share for k, share in enumerate(expected)))
    assert record.proxy == pytest.approx(count * factor**2 / (1 + factor**2), rel=1e-12)
    assert (record.low, record.high) == (0, 2)
    assert sum(expected[:2]) < 0.95 < sum(expected[:3])


def test_an_addition_with_a_factor_of_its_own():
    """What the addition does to an operand belongs to that operand's way."""

    class Subtracted(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sub(x, x @ self.weight, alpha=2)

    model = nn.Sequential(Subtracted(0.25), Subtracted(0.25))
    record = path_spectrum(
        model, BatchLoss((torch.ones(3, 4, dtype=torch.float64), None), lambda outputs, _: outputs.sum())
    )
    assert record.energies == pytest.approx([16 / 33, 16 / 33, 1 / 33], rel=1e-12)  # 1, 2 / 2, 1 / 4; squared
    assert record.gap < 1e-14


BUILDERS = {
    **NETWORKS,
    "two additions a block": lambda: torchvision.models.VisionTransformer(16, 4, 3, 2, 8, 16, num_classes=3),
}


@pytest.mark.parametrize(
    ("name", "count"), list(zip(BUILDERS, [9, 9, 9, 16, 9, 8, 6], strict=True)), ids=list(BUILDERS)
)
def test_the_parts_add_up_to_the_whole(name, count):
    record = path_spectrum(awake(BUILDERS[name]), BatchLoss(images(), F.cross_entropy))
    assert record.gap < 1e-12
    assert len(record.energies) == count + 1
    assert sum(record.energies) == pytest.approx(1)
    assert 0 < record.low <= record.effective <= record.high <= count or name == "gates"


def test_the_proxy_is_near_where_parts_are_at_right_angles():
    torch.manual_seed(0)
    model = reslab.create_model("resnet20", num_classes=3).train()
    record = path_spectrum(model, BatchLoss(images(8, dtype=torch.float32), F.cross_entropy))
    assert record.proxy == pytest.approx(record.effective, rel=0.15)
    assert record.gap < 1e-4


class Gated(nn.Module):
    """t F(x) + (1 - t) x with t = T(x): both sides go through the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.gate = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.t, self.x, self.f = self.gate(x).sigmoid(), x, self.branch(x)
        self.x.retain_grad()
        return self.t * self.f + (1 - self.t) * x


def test_what_goes_through_a_gate_counts_as_branch():
    torch.manual_seed(0)
    block = Gated()
    model = Net(block).double()
    record = path_spectrum(model, BatchLoss(batch(), F.cross_entropy))
    inputs, targets = batch()
    block.forward = lambda x: (t := block.gate(x).sigmoid()) * block.branch(x) + (1 - t) * x.detach()
    (branch,) = torch.autograd.grad(F.cross_entropy(model(inputs), targets), model.entry)
    block.forward = lambda x: (t := block.gate(x).sigmoid().detach()) * block.branch(x).detach() + (1 - t) * x
    (shortcut,) = torch.autograd.grad(F.cross_entropy(model(inputs), targets), model.entry)
    ratio = branch.square().sum() / shortcut.square().sum()
    assert record.energies[1] / record.energies[0] == pytest.approx(ratio.item(), rel=1e-10)


def test_branches_that_begin_at_zero_leave_the_shortest_path_alone():
    model = reslab.create_model("resnet20", num_classes=3, shortcut="projection", zero_init_residual=True).double()
    record = path_spectrum(model, BatchLoss(images(), F.cross_entropy))
    assert record.energies[0] == 1
    assert (record.effective, record.proxy, record.low, record.high) == (0, 0, 0, 0)


def test_words_have_paths():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), Block(4), Block(4))
    words = torch.arange(6).view(2, 3)
    record = path_spectrum(model.double(), BatchLoss((words, None), lambda outputs, _: outputs.square().mean()))
    assert len(record.energies) == 3
    assert record.gap < 1e-14


def test_what_lies_outside_of_the_window_shows_as_a_gap():
    """27 blocks in 270 products: the 10 values of k around the greatest."""
    torch.manual_seed(0)
    model = reslab.create_model("resnet56", num_classes=3).double().train()
    whole = path_spectrum(model, BatchLoss(images(2), F.cross_entropy))
    narrow = path_spectrum(model, BatchLoss(images(2), F.cross_entropy), max_products=270)
    assert whole.gap < 1e-12
    assert 1e-6 < narrow.gap < 0.5
    assert len(narrow.energies) == len(whole.energies) == 28
    assert sum(energy > 0 for energy in narrow.energies) == 10
    assert narrow.effective == pytest.approx(whole.effective, rel=0.05)


def test_it_is_read_in_the_mode_that_it_is_in():
    torch.manual_seed(0)
    model = Net(Block(5), Block(5)).double()
    trained = path_spectrum(model.train(), BatchLoss(batch(), F.cross_entropy))
    evaluated = path_spectrum(model.eval(), BatchLoss(batch(), F.cross_entropy))
    assert not model.training
    assert trained.energies != pytest.approx(evaluated.energies)


def test_a_plain_network_has_no_spectrum():
    with pytest.raises(RequestError, match="no residual additions"):
        path_spectrum(nn.Linear(3, 2), BatchLoss(batch(dtype=torch.float32), F.cross_entropy))


class Hourglass(Net):
    """Its first block's sum is used again at the end."""

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.blocks[0](self.stem(x))
        return self.head(torch.cat([self.blocks[1](x)[:, :3], first[:, 3:]], dim=1))


class Tapped(Net):
    """A second head sees what goes into the second block."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.blocks[0](self.stem(x)))
        return torch.stack([self.head(self.blocks[1](x)).sum(), self.head(x).sum()])


class Parallel(Net):
    """Two blocks side by side."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([self.blocks[0](x)[:, :3], self.blocks[1](x)[:, 3:]], dim=1))


@pytest.mark.parametrize("kind", [Hourglass, Tapped, Parallel])
def test_blocks_that_do_not_follow_one_another_are_refused(kind):
    model = kind(Block(5, lambda y: y), Block(5, lambda y: y)).double()
    with pytest.raises(RequestError, match="not a chain"):
        path_spectrum(model, BatchLoss(batch(), lambda outputs, _: outputs.square().sum()))


def test_a_gradient_that_never_arrives_is_refused():
    model = Net(Block(5)).double()
    nn.init.zeros_(model.head.weight)
    with pytest.raises(RequestError, match="got none"):
        path_spectrum(model, BatchLoss(batch(), F.cross_entropy))
    nn.init.constant_(model.head.weight, math.inf)
    with pytest.raises(RequestError, match="isn't finite"):
        path_spectrum(model, BatchLoss(batch(), F.cross_entropy))
    with pytest.raises(RequestError, match="max_products"):
        path_spectrum(model, BatchLoss(batch(), F.cross_entropy), max_products=0)
