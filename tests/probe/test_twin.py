"""The cut twin of a network of ours is its plain twin; that of a stranger's is the one with its shortcuts deleted."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tests.probe.subjects import Checkpointed, Words, batch
from torch import Tensor, nn

import reslab
from reslab.errors import RequestError
from reslab.probe._cut import NumberedPass, cut_twin, survey
from reslab.probe._reading import read
from reslab.probe.batch import BatchLoss
from reslab.records.depth import TwinRecord
from reslab.untouched import untouched

LARGER = batch(side=32, dtype=torch.float64)
DATA = batch(dtype=torch.float64)


def rms(grad: Tensor) -> float:
    """The norm of each sample's own gradient, as root mean square, from that of the mean loss."""
    return (grad * len(grad)).flatten(1).norm(dim=1).square().mean().sqrt().item()


def norms_by_hand(model: nn.Module, blocks: list[nn.Module], data: tuple[Tensor, Tensor]) -> tuple[float, list[float]]:
    """Loss, and the norms of the gradients at the blocks' inputs."""
    inputs: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for block in blocks]
    with torch.random.fork_rng():
        loss = F.cross_entropy(model.train()(data[0].clone().requires_grad_()), data[1])
    for hook in hooks:
        hook.remove()
    return loss.item(), [rms(grad) for grad in torch.autograd.grad(loss, inputs)]


def assert_twin(found: TwinRecord, loss: float, norms: list[float], rel: float = 1e-9) -> None:
    assert found.loss == pytest.approx(loss, rel=rel)
    assert list(found.grad_norms) == pytest.approx(norms, rel=rel)


@pytest.mark.parametrize(
    ("name", "plain", "shortcut"),
    [
        ("resnet20", "plain20", "zero_pad"),
        ("resnet20", "plain20", "projection"),
        ("resnet56", "plain56", "zero_pad"),
        ("resnet18_small", "plain18_small", "projection"),
    ],
)
def test_the_twin_of_a_network_of_ours_is_the_plain_one(name, plain, shortcut):
    torch.manual_seed(0)
    model = reslab.create_model(name, 3, shortcut=shortcut).double()
    twin = reslab.create_model(plain, 3).double()
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if key in twin.state_dict()})
    assert len(list(model.blocks())) == len(list(twin.blocks()))
    expected = norms_by_hand(twin, [block for _, block in twin.blocks()], DATA)
    assert_twin(cut_twin(model, BatchLoss(DATA, F.cross_entropy)), *expected)


@pytest.mark.parametrize("training", [True, False])
def test_all_gradients_of_the_twin_are_those_of_the_plain_network(training):
    torch.manual_seed(0)
    model, twin = (reslab.create_model(name, 3).double() for name in ("resnet20", "plain20"))
    twin.load_state_dict(model.state_dict())
    with untouched(model, is_training=training):
        seen = survey(model, BatchLoss(DATA, F.cross_entropy))
        cut = NumberedPass(seen.calls, {junction.call: junction.shortcut for junction in seen.junctions})
        loss = cut.run(model, BatchLoss(DATA, F.cross_entropy))
        found = torch.autograd.grad(loss, list(model.parameters()))
    wanted = torch.autograd.grad(
        F.cross_entropy(twin.train(training)(DATA[0]), DATA[1]),
        list(twin.parameters()),
    )
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


class PlainBasic(nn.Module):
    """A block of torchvision's without its shortcut."""

    def __init__(self, block: torchvision.models.resnet.BasicBlock) -> None:
        super().__init__()
        self.body = nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_the_twin_of_torchvisions_resnet18():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3).double()
    plain = copy.deepcopy(model)
    for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4):
        for index, block in enumerate(stage):
            stage[index] = PlainBasic(block)
    blocks = [module for module in plain.modules() if isinstance(module, PlainBasic)]
    expected = norms_by_hand(plain, blocks, LARGER)
    assert_twin(cut_twin(model, BatchLoss(LARGER, F.cross_entropy)), *expected)


class Transformer(nn.Module):
    """Pre-norm, two additions a block, dropout; the shortcuts can be left out."""

    def __init__(self, *, has_shortcuts: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.has_shortcuts = has_shortcuts
        self.attention = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(3))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(6))
        self.head = nn.Linear(8, 3)
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        for index, branch in enumerate([part for pair in zip(self.attention, self.mlp, strict=True) for part in pair]):
            self.inputs.append(x)
            y = self.norms[index](x)
            y = F.dropout(branch(y, y, y)[0] if index % 2 == 0 else branch(y), 0.1, self.training)
            x = x + y if self.has_shortcuts else y
        return self.head(x.mean(1))


def test_the_twin_of_a_transformer():
    model, plain = (Transformer(has_shortcuts=flag).double() for flag in (True, False))
    data = torch.randn(5, 7, 8, dtype=torch.float64), torch.arange(5) % 3
    torch.manual_seed(3)  # of the dropout
    found = cut_twin(model, BatchLoss(data, F.cross_entropy))
    loss = F.cross_entropy(plain(data[0].clone().requires_grad_()), data[1])
    grads = torch.autograd.grad(loss, plain.inputs)
    assert len(grads) == 6
    assert_twin(found, loss.item(), [rms(grad) for grad in grads])


class Chain(nn.Module):
    """Blocks in any form; the first one begins at the input itself."""

    def __init__(self, join, num_blocks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.join, self.last, self.inputs = join, torch.relu_, []
        self.weights = nn.ParameterList(torch.randn(4, 4) for _ in range(num_blocks)).double()

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            self.inputs.append(x)
            x = self.last(self.join(x, torch.tanh(x @ weight)))
        return x


@pytest.mark.parametrize("num_blocks", [1, 4])
@pytest.mark.parametrize(
    ("join", "left"),
    [
        (lambda x, b: x + b, lambda x, b: b.clone()),
        (lambda x, b: torch.add(b, x, alpha=0.5), lambda x, b: b.clone()),
        (lambda x, b: torch.sub(x, b, alpha=3), lambda x, b: -3 * b),
        (lambda x, b: x.clone().add_(b), lambda x, b: b.clone()),
        (lambda x, b: b.clone().add_(x), lambda x, b: b.clone()),
    ],
)
def test_the_gradients_of_any_form(join, left, num_blocks):
    model, plain = Chain(join, num_blocks), Chain(left, num_blocks)
    data = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3
    found = cut_twin(model, BatchLoss(data, F.cross_entropy))
    loss = F.cross_entropy(plain(data[0].clone().requires_grad_()), data[1])
    grads = torch.autograd.grad(loss, plain.inputs)
    assert_twin(found, loss.item(), [rms(grad) for grad in grads], rel=1e-12)


@pytest.mark.parametrize("name", ["resnet8", "preresnet20", "seresnet20", "wide_resnet16_4"])
def test_blocks_are_those_of_the_diagnosis(name):
    model, data = reslab.create_model(name, 3), batch()
    twin = cut_twin(model, BatchLoss(data, F.cross_entropy))
    assert len(twin.grad_norms) == len(read(model.train(), BatchLoss(data, F.cross_entropy)).blocks)
    assert all(norm > 0 and math.isfinite(norm) for norm in twin.grad_norms)


def test_a_network_without_shortcuts_is_its_own_twin():
    model, data = reslab.create_model("resnet8", 3, shortcut="none"), batch()
    twin = cut_twin(model, BatchLoss(data, F.cross_entropy))
    assert twin == TwinRecord(read(model.train(), BatchLoss(data, F.cross_entropy)).loss, ())


def test_words_go_in_as_numbers():
    model, ids, labels = Words(), torch.arange(12).reshape(4, 3), torch.arange(4) % 3
    found = cut_twin(model, BatchLoss(({"ids": ids, "scale": 1.0}, labels), F.cross_entropy))
    x = model.embed(ids).detach().requires_grad_()
    loss = F.cross_entropy(model.head(model.mix(x).mean(1)), labels)
    (grad,) = torch.autograd.grad(loss, x)
    assert_twin(found, loss.item(), [rms(grad)], rel=1e-5)


def test_a_branch_that_starts_at_zero_hands_on_nothing():
    model = reslab.create_model("resnet8", 3, shortcut="projection", zero_init_residual=True)
    assert cut_twin(model, BatchLoss(batch(), F.cross_entropy)).grad_norms == (0.0,) * 3


class Stop(torch.autograd.Function):
    """Hands values on, and no gradient back."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> None:
        return None


def test_no_gradient_arrives_where_a_branch_hands_none_back():
    model = Chain(lambda x, b: x + Stop.apply(b), 2)
    found = cut_twin(model, BatchLoss((torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3), F.cross_entropy))
    assert all(math.isnan(norm) for norm in found.grad_norms)
    assert math.isfinite(found.loss)


class Doubled(torch.autograd.Function):
    """An activation of someone's own, which torch's modes don't see."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * grad


def test_a_block_may_begin_after_an_operation_that_goes_by_unseen():
    model, plain = Chain(lambda x, b: x + b, 3), Chain(lambda x, b: b, 3)
    for chain in (model, plain):
        chain.last = Doubled.apply
    data = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3
    found = cut_twin(model, BatchLoss(data, F.cross_entropy))
    loss = F.cross_entropy(plain(data[0].clone().requires_grad_()), data[1])
    grads = torch.autograd.grad(loss, plain.inputs)
    assert_twin(found, loss.item(), [rms(grad) for grad in grads])


def test_a_compiled_model_is_run_uncompiled():
    model, data = reslab.create_model("resnet8", 3), batch()
    assert cut_twin(torch.compile(model), BatchLoss(data, F.cross_entropy)) == cut_twin(
        model, BatchLoss(data, F.cross_entropy)
    )


def test_a_shortcut_that_cannot_be_cut_is_named():
    class Unseen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():
                return x + self.branch(x)

    with pytest.raises(RequestError, match="addition: its addition is not seen"):
        cut_twin(Unseen(), BatchLoss((torch.randn(5, 4), torch.arange(5) % 3), F.cross_entropy))


def test_checkpointing_is_refused_since_it_would_compute_the_shortcuts_again():
    model = Checkpointed(reslab.create_model("resnet8", 3))
    with pytest.raises(RequestError, match="Switch checkpointing off"):
        cut_twin(model, BatchLoss(batch(), F.cross_entropy))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_precision_and_layout_are_the_models_own(dtype):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = reslab.create_model("resnet8", 3, shortcut="projection").to(memory_format=torch.channels_last)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                return self.inner(x.to(memory_format=torch.channels_last)).float()

    full = reslab.create_model("resnet8", 3, shortcut="projection")
    full.load_state_dict((mixed := Mixed()).inner.state_dict())
    data = batch()
    found, expected = (cut_twin(model, BatchLoss(data, F.cross_entropy)) for model in (mixed, full))
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-4
    assert_twin(found, expected.loss, list(expected.grad_norms), rel=tolerance)
