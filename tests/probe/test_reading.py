"""One reading of a network: what is in it, what of the network it leaves alone, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tests.probe.subjects import Checkpointed, Words, assert_untouched, batch, state_of
from torch import Tensor, nn

import reslab
from reslab.errors import RequestError
from reslab.probe._reading import read
from reslab.probe.batch import BatchLoss


def test_names_are_those_of_the_blocks_in_order():
    model = reslab.create_model("resnet20", 3)
    reading = read(model.train(), BatchLoss(batch(), F.cross_entropy))
    assert [block.name for block in reading.blocks] == [name for name, _ in model.blocks()]
    assert [layer.name for layer in reading.layers] == ["conv1", "fc"]


def test_two_additions_of_one_block_are_told_apart():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    names = [block.name for block in read(model, BatchLoss(batch(side=32), F.cross_entropy)).blocks]
    stem = "encoder.layers.encoder_layer_"
    assert names == [f"{stem}{i}.{part}" for i in (0, 1) for part in ("self_attention", "mlp")]


def test_a_network_without_modules_is_read_too():
    weights = nn.ParameterList([nn.Parameter(torch.eye(4)) for _ in range(3)])

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = weights

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = x + torch.relu(x @ weight)
            return x

    reading = read(Functional(), BatchLoss((torch.randn(5, 4), torch.zeros(5).long()), F.cross_entropy))
    assert [block.name for block in reading.blocks] == ["addition#1", "addition#2", "addition#3"]


def test_a_plain_network_is_read_layer_by_layer():
    model = reslab.create_model("plain20", 3)
    reading = read(model.train(), BatchLoss(batch(), F.cross_entropy))
    assert reading.blocks == ()
    assert len(reading.layers) == 20
    assert reading.layers[0].name == "conv1"


def test_gradients_are_those_of_autograd():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    reading = read(model, BatchLoss((x, y), F.cross_entropy))
    hidden = torch.tanh(model[0](x))
    loss = F.cross_entropy(model[2](hidden), y)
    (at_hidden,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    rms = (at_hidden * 6).norm(dim=1).square().mean().sqrt()
    assert math.isnan(reading.layers[0].grad_norm)
    assert reading.layers[1].grad_norm == pytest.approx(rms.item(), rel=1e-12)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert [p.grad_norm for p in reading.parameters] == pytest.approx([g.norm().item() for g in grads], rel=1e-12)
    assert reading.loss == pytest.approx(loss.item())


def test_values_of_the_stream_are_those_before_they_are_written_over():
    model = torchvision.models.resnet18(num_classes=3).train()  # out += identity, ReLU in place
    kept = {}
    model.layer1[0].bn2.register_forward_hook(lambda m, i, out: kept.update(branch=out.detach().clone()))
    reading = read(model, BatchLoss(batch(side=64), F.cross_entropy))
    variance = kept["branch"].var(dim=(0, 2, 3), correction=0).mean().item()
    assert reading.blocks[0].branch.variance == pytest.approx(variance, rel=0.02)
    assert reading.blocks[0].stream.variance > reading.blocks[0].branch.variance


@pytest.mark.parametrize(("bias", "share"), [(-100.0, 1.0), (0.0, 0.0)])
def test_dead_units_are_counted(bias, share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    images, labels = batch(8)
    model(images)
    nn.init.constant_(model[0].bias, bias)
    (activation,) = read(model, BatchLoss((images, labels), F.cross_entropy)).activations
    assert (activation.name, activation.kind, activation.num_channels) == ("1", "Relu", 8)
    assert activation.share == share


@pytest.mark.parametrize(("gain", "low", "high"), [(100.0, 0.9, 1.0), (0.01, 0.0, 0.0)])
def test_saturation_is_a_share_of_values(gain, low, high):
    model = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3))
    with torch.no_grad():
        model[0].weight.mul_(gain)
    (activation,) = read(model, BatchLoss((torch.randn(64, 4), torch.zeros(64).long()), F.cross_entropy)).activations
    assert activation.kind == "Tanh"
    assert low <= activation.share <= high


@pytest.mark.parametrize(
    ("head", "twice"),
    [(nn.Softmax(dim=1), True), (nn.Sigmoid(), True), (nn.LogSoftmax(dim=1), True), (nn.Identity(), False)],
)
def test_a_softmax_before_cross_entropy_is_seen(head, twice):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3), head)
    assert read(model, BatchLoss(batch(), F.cross_entropy)).softmax_twice is twice


def test_words_go_in_as_numbers():
    inputs = {"ids": torch.randint(20, (4, 6)), "scale": 0.5}
    reading = read(Words(), BatchLoss((inputs, torch.zeros(4).long()), F.cross_entropy))
    assert [block.kind for block in reading.blocks] == ["identity"]
    assert reading.inputs == ()


def test_a_frozen_parameter_and_one_without_a_gradient_are_told_apart():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    model.unused = nn.Linear(2, 2)
    model[1].bias.requires_grad_(False)
    model.forward = lambda x: model[1](model[0](x))
    found = {
        p.name: (p.is_trainable, p.grad_norm is None)
        for p in read(model, BatchLoss(batch(), F.cross_entropy)).parameters
    }
    assert found["1.weight"] == (True, False)
    assert found["1.bias"] == (False, True)
    assert found["unused.weight"] == (True, True)


def test_numbers_that_are_not_finite_are_counted_apart():
    images, labels = batch()
    images[0, 0, 0, 0], images[1, 0, 0, 0] = math.nan, math.inf
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    (record,) = read(model, BatchLoss((images, labels), F.cross_entropy)).inputs
    assert record.num_non_finite == 2
    assert math.isfinite(record.std)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda outputs, labels: outputs.sum(dim=1), r"a tensor of shape \(4,\); expected a scalar"),
        (lambda outputs, labels: 3.0, "no tensor; expected a scalar tensor"),
        (lambda outputs, labels: outputs.detach().sum(), "no graph to go back through"),
    ],
)
def test_what_is_no_loss_is_refused(loss_fn, message):
    with pytest.raises(RequestError, match=message):
        read(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), BatchLoss(batch(), loss_fn))


def test_a_model_that_writes_over_its_input_leaves_the_batch_alone():
    class Centres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(768, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.sub_(x.mean()).flatten(1))

    images, labels = batch()
    before = images.clone()
    read(Centres(), BatchLoss((images, labels), F.cross_entropy))
    assert torch.equal(images, before)


class Joins(nn.Module):
    """Its skip is a join, as in a U-Net; one part is an operation of its own."""

    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([x, self.Same.apply(self.first(x))], dim=1))


def test_what_cannot_be_split_is_named():
    reading = read(Joins(), BatchLoss((torch.randn(5, 4), torch.zeros(5).long()), F.cross_entropy))
    assert reading.unsplit == ("1 joins by torch.cat", "the custom operation Same")
    assert read(nn.Linear(4, 3), BatchLoss((torch.randn(5, 4), torch.zeros(5).long()), F.cross_entropy)).unsplit == ()


def test_reentrant_checkpointing_is_named():
    reading = read(
        Checkpointed(nn.Linear(4, 3), use_reentrant=True),
        BatchLoss((torch.randn(5, 4), torch.zeros(5).long()), F.cross_entropy),
    )
    assert reading.unsplit == ("1 parts under reentrant checkpointing",)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((2, 5), torch.zeros(2).long(), r"forward pass raised RuntimeError: .*mat1 .* float32 \(2, 5\)"),
        ((2, 4), torch.zeros(3).long(), r"loss_fn raised ValueError: .* float32 \(2, 3\), int64 \(3,\)"),
        ((2, 4), torch.full((2,), 7), r"loss_fn raised IndexError: Target 7"),
    ],
)
def test_what_the_users_code_raises_is_one_error_and_the_model_is_as_it_was(shape, labels, message):
    model = nn.Linear(4, 3)
    before = state_of(model)
    with pytest.raises(RequestError, match=message) as raised:
        reslab.diagnose(model, (torch.ones(shape), labels), F.cross_entropy)
    assert raised.value.__cause__ is not None
    assert_untouched(model, before)
