"""A lesion is what taking the branch out by hand gives: its last layer silenced, or the block replaced."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tests.probe.subjects import Words, batch
from torch import Tensor, nn

import reslab
from reslab.errors import RequestError
from reslab.probe._cut import lesions
from reslab.probe._reading import read
from reslab.probe.batch import BatchLoss
from reslab.untouched import untouched

DATA = batch(side=32)


@torch.no_grad()
def settle(model: nn.Module) -> nn.Module:
    """Weights and stored statistics such that each layer's part in the loss can be told from no part."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name or parameter.ndim == 1:
            parameter.uniform_(0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(DATA[0])
    return model


def loss_by_hand(model: nn.Module, mode: str, data: tuple[Tensor, Tensor]) -> float:
    """Of a model that may be used up."""
    with torch.no_grad(), torch.random.fork_rng():
        return F.cross_entropy(model.train(mode == "train")(data[0]), data[1]).item()


class Zeros(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_lesion_of_resnet18_is_a_last_norm_that_gives_zeros(mode):
    model = settle(torchvision.models.resnet18(num_classes=3))
    found = lesions(model, BatchLoss(DATA, F.cross_entropy), mode=mode)
    assert found.loss == pytest.approx(loss_by_hand(copy.deepcopy(model), mode, DATA), rel=1e-6)
    assert [lesion.name for lesion in found.lesions] == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    for lesion in found.lesions:
        silenced = copy.deepcopy(model)
        silenced.get_submodule(lesion.name).bn2 = Zeros()
        assert lesion.loss == pytest.approx(loss_by_hand(silenced, mode, DATA), rel=1e-6)
        assert lesion.increase == lesion.loss - found.loss
    assert len({found.loss, *(lesion.loss for lesion in found.lesions)}) == 9
    assert found.not_cut == {}


def silence(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy of which some parameters are 0."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if name in names:
            nn.init.zeros_(parameter)
    return model


CASES = {
    # name of the network: how it is made, and the last parameters of a block's branch, by the block's name
    "mobilenet_v2": (
        lambda: torchvision.models.mobilenet_v2(num_classes=3),
        lambda block: [f"{block}.conv.3.weight", f"{block}.conv.3.bias"],
    ),
    "regnet_y_400mf": (
        lambda: torchvision.models.regnet_y_400mf(num_classes=3),
        lambda block: [f"{block}.f.c.1.weight", f"{block}.f.c.1.bias"],
    ),
    "convnext": (
        lambda: torchvision.models.ConvNeXt(
            [
                torchvision.models.convnext.CNBlockConfig(8, 16, 2),
                torchvision.models.convnext.CNBlockConfig(16, None, 2),
            ],
            stochastic_depth_prob=0.5,
            num_classes=3,
        ),
        lambda block: [f"{block}.layer_scale"],
    ),
    "vit": (
        lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.1, num_classes=3),
        lambda block: (
            [f"{block}.out_proj.weight", f"{block}.out_proj.bias"]
            if block.endswith("attention")
            else [f"{block}.3.weight", f"{block}.3.bias"]
        ),
    ),
    "preresnet20": (
        lambda: reslab.create_model("preresnet20", 3),
        lambda block: [f"{block}.conv2.weight"],
    ),
    "resnet8": (
        lambda: reslab.create_model("resnet8", 3, shortcut="projection"),
        lambda block: [f"{block}.bn2.weight", f"{block}.bn2.bias"],
    ),
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", CASES)
def test_a_lesion_is_a_branch_that_is_silenced(case, mode):
    make, last = CASES[case]
    torch.manual_seed(0)
    model = settle(make())
    if case == "vit":
        nn.init.normal_(model.heads.head.weight)
    torch.manual_seed(1)  # of the masks, in train mode
    found = lesions(model, BatchLoss(DATA, F.cross_entropy), mode=mode)
    assert found.loss == pytest.approx(loss_by_hand(copy.deepcopy(model), mode, DATA), rel=1e-5)
    assert len(found.lesions) >= 3
    for lesion in found.lesions[:: math.ceil(len(found.lesions) / 5)]:
        by_hand = loss_by_hand(silence(model, last(lesion.name)), mode, DATA)
        assert lesion.loss == pytest.approx(by_hand, rel=1e-5), lesion.name
    distinct = {round(lesion.loss, 6) for lesion in found.lesions}
    assert len(distinct) >= len(found.lesions) // 2, "the lesions can be told apart, but for dropped branches"


def test_blocks_are_those_of_the_diagnosis():
    model = settle(torchvision.models.regnet_y_400mf(num_classes=3))
    with untouched(model):
        blocks = read(model, BatchLoss(DATA, F.cross_entropy)).blocks
    found = lesions(model, BatchLoss(DATA, F.cross_entropy)).lesions
    assert [(lesion.index, lesion.name) for lesion in found] == [(block.index, block.name) for block in blocks]


class Counting(nn.Module):
    """Has a buffer that each pass writes to, and the result depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.branches = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        for branch in self.branches:
            x = x + torch.tanh(branch(x))
        return x * self.count


def test_each_pass_begins_with_the_same_buffers():
    model, data = Counting(), (torch.randn(5, 4), torch.arange(5) % 3)
    found = lesions(model, BatchLoss(data, F.cross_entropy))
    for index, lesion in enumerate(found.lesions):
        without = copy.deepcopy(model)
        del without.branches[index]
        assert lesion.loss == pytest.approx(F.cross_entropy(without(data[0]), data[1]).item(), rel=1e-6)


def test_words_go_in_as_numbers():
    model, ids, labels = Words(), torch.arange(12).reshape(4, 3), torch.arange(4) % 3
    (lesion,) = lesions(model, BatchLoss(({"ids": ids, "scale": 2.0}, labels), F.cross_entropy)).lesions
    by_hand = F.cross_entropy(model.head(model.embed(ids).mean(1)), labels)
    assert lesion.loss == pytest.approx(by_hand.item(), rel=1e-6)


def test_a_branch_that_is_zero_is_not_missed():
    model = reslab.create_model("resnet8", 3, shortcut="projection", zero_init_residual=True)
    found = lesions(model, BatchLoss(DATA, F.cross_entropy), mode="train")
    assert [lesion.increase for lesion in found.lesions] == [0.0] * 3


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_checkpointed_networks_are_studied_too(mode):
    model, saving = (reslab.create_model("resnet8", 3, checkpoint_blocks=flag) for flag in (False, True))
    saving.load_state_dict(settle(model).state_dict())
    assert lesions(saving, BatchLoss(DATA, F.cross_entropy), mode=mode) == lesions(
        model, BatchLoss(DATA, F.cross_entropy), mode=mode
    )


@pytest.mark.parametrize("name", ["plain20", "vgg20_cifar"])
def test_a_network_without_shortcuts_has_no_lesions(name):
    model = reslab.create_model(name, 3)
    found = lesions(model, BatchLoss(DATA, F.cross_entropy), mode="train")
    assert (found.lesions, found.not_cut) == ((), {})
    assert found.loss == pytest.approx(loss_by_hand(model, "train", DATA), rel=1e-6)


class Partly(nn.Module):
    """The second block's addition goes by unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.tanh(self.one(x))
        branch = torch.tanh(self.two(x))
        with torch._C.DisableTorchFunction():
            return x + branch


def test_a_block_that_cannot_be_cut_is_named_and_the_others_are_studied():
    found = lesions(Partly(), BatchLoss((torch.randn(5, 4), torch.arange(5) % 3), F.cross_entropy))
    assert [lesion.index for lesion in found.lesions] == [0]
    assert len(found.not_cut) == 1
    assert "is not seen" in found.not_cut.popitem()[1]


def test_a_loss_that_is_not_finite_is_reported_as_it_is():
    class Logs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x + self.branch(x).square() + 1)

    data = torch.full((2, 3), -1.0), torch.tensor([0, 1])
    (lesion,) = lesions(Logs(), BatchLoss(data, lambda out, _: out.sum())).lesions
    assert lesion.loss == -math.inf


def test_a_model_that_keeps_something_from_its_last_pass_is_refused():
    class Remembering(Counting):
        def forward(self, x: Tensor) -> Tensor:
            self.passes = getattr(self, "passes", 0) + 1
            return self.passes * super().forward(x)

    with pytest.raises(RequestError, match=r"gave a loss of .* and then"):
        lesions(Remembering(), BatchLoss((torch.randn(5, 4), torch.arange(5) % 3), F.cross_entropy))
