"""Counted operations: against published numbers, an independent formula, and the promise to leave no trace."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.models.count import Operations, count_operations, run_and_count


@torch.no_grad()
def formula(net: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, int]:
    """MACs and activations from the shapes that convolutions and linear layers see: no dispatcher, no registry."""
    found = []

    def read(layer: nn.Module, _: tuple[Tensor], out: Tensor) -> None:
        fan_in = layer.weight[0].numel()  # C / groups * kernel of a convolution, inputs of a linear layer
        found.append((out.numel() * fan_in, out.numel()))

    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            module.register_forward_hook(read)
    net.eval()(torch.zeros(1, *image_shape, device="meta"))
    return sum(macs for macs, _ in found), sum(activations for _, activations in found)


def on_meta(build, *arguments, **options) -> nn.Module:
    with torch.device("meta"):
        return build(*arguments, **options)


@pytest.mark.parametrize(
    ("build", "side", "macs", "activations"),
    [
        # 4.1 G and 11.1 M are in Radosavovic et al. 2020, arXiv:2003.13678, Table 3
        (torchvision.models.resnet50, 224, 4_089_184_256, 11_114_984),
        (torchvision.models.resnet18, 224, 1_814_073_344, None),
        (torchvision.models.shufflenet_v2_x1_0, 224, None, None),
        (lambda: create_model("vgg16_bn"), 224, None, None),
        (lambda: create_model("mobilenet_v2"), 224, None, None),
        (lambda: create_model("mobilenet_v3_small"), 224, None, None),
        (lambda: create_model("vgg16_bn_cifar"), 32, None, None),
        (lambda: create_model("resnet20"), 32, 40_551_040, None),
        (lambda: create_model("plain20"), 32, 40_551_040, None),
        (lambda: create_model("resnet20", shortcut="projection"), 32, 40_813_184, None),
        pytest.param(lambda: create_model("resnet1202"), 32, 2_829_238_912, None, marks=pytest.mark.slow),
    ],
)
def test_convolutional_networks_cost_what_the_formula_says(build, side, macs, activations):
    net = on_meta(build)
    operations = count_operations(net, (3, side, side))
    assert (operations.macs, operations.activations) == formula(net, (3, side, side))
    assert macs in (None, operations.macs)
    assert activations in (None, operations.activations)
    assert operations.num_parameters == sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("VGG16_BN", lambda: create_model("vgg16_bn")),
        ("MobileNet_V2", lambda: create_model("mobilenet_v2")),
        ("MobileNet_V3_Small", lambda: create_model("mobilenet_v3_small")),
        ("ResNeXt50_32X4D", torchvision.models.resnext50_32x4d),
        ("ViT_B_16", torchvision.models.vit_b_16),
        ("Swin_T", torchvision.models.swin_t),
    ],
)
def test_networks_cost_what_torchvision_publishes(name, build):
    published = getattr(torchvision.models, f"{name}_Weights").IMAGENET1K_V1.meta["_ops"]  # in thousand millions
    assert count_operations(on_meta(build), (3, 224, 224)).macs / 1e9 == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize(
    ("layer", "image_shape", "macs", "activations"),
    [
        (nn.Conv1d(4, 8, kernel_size=3, groups=2), (4, 10), 8 * 8 * 2 * 3, 8 * 8),
        (nn.Conv2d(4, 4, kernel_size=3, padding=1, groups=4), (4, 5, 7), 4 * 35 * 9, 4 * 35),
        (nn.Conv2d(3, 8, kernel_size=3, stride=2, dilation=2), (3, 9, 9), 8 * 9 * 27, 8 * 9),
        (nn.Conv3d(2, 4, kernel_size=(1, 3, 3)), (2, 3, 6, 6), 4 * 3 * 16 * 18, 4 * 3 * 16),
        (nn.ConvTranspose2d(3, 6, kernel_size=2, stride=2), (3, 4, 4), 16 * 3 * 6 * 4, 6 * 64),
        (nn.Linear(5, 7), (5,), 35, 7),
        (nn.Linear(5, 7, bias=False), (3, 5), 3 * 35, 3 * 7),
        (nn.Conv2d(3, 8, kernel_size=1).double(), (3, 2, 2), 96, 32),
        (nn.Conv2d(3, 8, kernel_size=1).to(torch.bfloat16), (3, 2, 2), 96, 32),
        (nn.ReLU(), (3, 2, 2), 0, 0),
        (nn.BatchNorm2d(3), (3, 2, 2), 0, 0),
        (nn.LSTM(4, 5), (6, 4), 6 * 4 * 5 * (4 + 5), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_layers_cost_what_paper_and_pencil_say(layer, image_shape, macs, activations, device):
    operations = count_operations(layer, image_shape)
    assert operations.macs == macs
    assert activations in (None, operations.activations)
    assert run_and_count(layer, image_shape, device=device) == operations


class Attention(nn.Module):
    """Four heads of width 2 over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.flatten(2).unflatten(1, (4, 2)).transpose(2, 3)  # (N, 8, H, W) -> (N, 4, 2, HW) -> (N, 4, HW, 2)
        return F.scaled_dot_product_attention(heads, heads, heads)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_attention_costs_its_two_products_on_every_device(device):
    operations = run_and_count(Attention(), (8, 3, 5), device=device)
    assert operations.macs == 2 * 4 * 15 * 15 * 2
    assert operations.activations == 4 * (15 * 15 + 15 * 2)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert run_and_count(encoder, (5, 8), device=device).macs == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8


def test_modules_include_those_inside_them():
    net = on_meta(torchvision.models.resnet18)
    operations = count_operations(net, (3, 64, 64))
    by_module = operations.by_module
    assert next(iter(by_module)) == "conv1"
    assert list(by_module).index("layer1") < list(by_module).index("layer1.0") < list(by_module).index("layer1.0.conv1")
    assert not [name for name in by_module if name.endswith(("relu", "bn1"))]
    top = [by_module[name] for name in ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")]
    assert sum(module.macs for module in top) == operations.macs
    assert sum(module.activations for module in top) == operations.activations
    assert by_module["fc"] == Operations(num_parameters=513_000, macs=512_000, activations=1000)
    blocks = [by_module[f"layer2.{index}"] for index in (0, 1)]
    assert sum(block.num_parameters for block in blocks) == by_module["layer2"].num_parameters
    assert sum(block.macs for block in blocks) == by_module["layer2"].macs


class Odd(nn.Module):
    """A layer that runs twice, one that never runs, a product with a vector, and a function instead of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.alias = self.twice
        self.never = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(self.alias(self.twice(x)), self.never.weight)
        return (x @ torch.ones(4, device=x.device)).sum() + x[0] @ x[0]


def test_what_is_executed_counts():
    assert count_operations(Odd(), (4,)) == Operations(
        num_parameters=40,
        macs=3 * 16 + 4 + 4,
        activations=3 * 4 + 1 + 1,
        by_module={"twice": Operations(num_parameters=20, macs=32, activations=8)},
    )


def test_a_compiled_network_costs_the_same():
    net = nn.Sequential(nn.Conv2d(3, 4, kernel_size=3), nn.ReLU())
    assert count_operations(torch.compile(net), (3, 8, 8)).macs == count_operations(net, (3, 8, 8)).macs


class InInferenceMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def test_inference_mode_hides_nothing():
    assert count_operations(InInferenceMode(), (4,)).by_module["fc"].macs == 12
    with torch.inference_mode():
        assert count_operations(nn.Linear(4, 3), (4,)).macs == 12


class NeedsValues(nn.Module):
    """Decides by a value, draws random numbers, writes into a buffer: fails on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        noise = torch.rand(x.shape) * random.random()
        return self.conv(x + noise) if noise.sum().item() > 0 else x


def everything_about(net: nn.Module) -> list:
    return [
        [(name, value, value.device) for name, value in net.state_dict(keep_vars=True).items()],
        [(name, value.grad) for name, value in net.named_parameters()],
        [(name, module.training, len(module._forward_hooks)) for name, module in net.named_modules()],
        [(len(module._forward_pre_hooks), len(module._forward_hooks_always_called)) for module in net.modules()],
        (torch.get_rng_state().tolist(), random.getstate()),
        (torch.is_grad_enabled(), torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()),
    ]


@pytest.mark.parametrize(
    "build", [NeedsValues, lambda: create_model("resnet20"), lambda: create_model("mobilenet_v3_small", 10)]
)
def test_the_model_is_left_as_it_was(build):
    net, shape = build().train(), (3, 16, 16)
    next(net.children()).eval()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    values = copy.deepcopy(net.state_dict())
    before = everything_about(net)
    assert count_operations(net, shape).macs > 0
    after = everything_about(net)
    for (name, value, device), (_, other, other_device) in zip(before[0], after[0], strict=True):
        assert value is other, name
        assert device == other_device
        assert torch.equal(value, values[name]), name
    assert all(one[1] is other[1] for one, other in zip(before[1], after[1], strict=True))
    assert before[2:] == after[2:]
    with pytest.raises(RequestError):
        count_operations(net, (5, 16, 16))
    assert before[2:] == everything_about(net)[2:]


def test_training_and_eval_cost_the_same():
    net = on_meta(create_model, "resnet20")
    assert count_operations(net.train(), (3, 32, 32)) == count_operations(net.eval(), (3, 32, 32))


@pytest.mark.parametrize("shape", [(), (0, 32, 32), (3, -1, 4), (3, 32.0, 32)])
def test_shapes_that_are_none_are_refused(shape):
    with pytest.raises(RequestError, match="image_shape is that of one image without the batch"):
        count_operations(nn.Identity(), shape)


def test_a_shape_that_doesnt_fit_is_named():
    with pytest.raises(RequestError, match=r"fails on an image of shape \(1, 8, 8\): .*channels"):
        count_operations(nn.Conv2d(3, 8, kernel_size=3), (1, 8, 8))
