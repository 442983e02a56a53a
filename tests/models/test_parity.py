"""The same weights give the same numbers in torchvision, in a reference written from the paper, and on CIFAR-10."""

import io
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from reslab.models.catalog import create_model
from reslab.models.families import CIFAR_DEPTHS


def logits_and_gradients(net, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    net.zero_grad()
    logits = net(images)
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), {name: parameter.grad for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_initial_values_are_spread_like_torchvisions(name):
    torch.manual_seed(0)
    theirs, ours = getattr(torchvision.models, name)(weights=None).state_dict(), create_model(name).state_dict()
    for key, value in ours.items():
        other = theirs[key]
        if value.dim() == 4:
            sampling_error = 5 / math.sqrt(value.numel())  # of a ratio of two standard deviations, five sigma
            assert (value.std() / other.std()).item() == pytest.approx(1, abs=sampling_error), key
            assert (value.mean() / value.std()).abs().item() < sampling_error, key
            kurtosis = (value - value.mean()).pow(4).mean() / value.var() ** 2  # 3 is the normal distribution's
            assert kurtosis.item() == pytest.approx(3, abs=5 * math.sqrt(24 / value.numel()) + 0.01), key
            assert not torch.equal(value, other), key
        elif key.startswith("fc"):
            bound = 1 / math.sqrt(ours["fc.weight"].shape[1])
            assert value.abs().max() <= bound, key
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(value.numel())), key
        else:
            assert torch.equal(value, other), key


def paper_network(weights: dict[str, Tensor], images: Tensor, *, num_blocks: int, layout: str = "last") -> Tensor:
    """The CIFAR network with option A in train mode, from the text of He et al. 2015, sec. 3.3 and 4.2, and Fig. 2.

    "The first layer is 3x3 convolutions. Then we use a stack of 6n layers with 3x3 convolutions on the feature maps of
    sizes {32, 16, 8} respectively, with 2n layers for each feature map size. The numbers of filters are {16, 32, 64}.
    The subsampling is performed by convolutions with a stride of 2. The network ends with a global average pooling, a
    10-way fully-connected layer." Batch norm follows each convolution; the second ReLU follows the addition.
    """

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        scale, shift = (weights[f"{norm}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    x = conv_norm(images, "conv1", "bn1").clamp(min=0)
    for stage, width in enumerate((16, 32, 64), start=1):
        for index in range(num_blocks):
            block, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            y = conv_norm(x, f"{block}.conv1", f"{block}.bn1", stride).clamp(min=0)
            y = conv_norm(y, f"{block}.conv2", f"{block}.bn2")
            old = x[:, :, ::stride, ::stride]
            first = (width - old.shape[1]) // 2 if layout == "both" else 0
            past = torch.zeros_like(y)
            past[:, first : first + old.shape[1]] = old
            x = (y + past).clamp(min=0)
    return x.mean(dim=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.parametrize(("shortcut", "layout"), [("zero_pad", "last"), ("zero_pad_both", "both")])
@pytest.mark.parametrize("depth", [8, 20, 56])
def test_the_paper_gives_the_same_logits_and_gradients(depth, shortcut, layout):
    torch.manual_seed(0)
    net = create_model(f"resnet{depth}", shortcut=shortcut).double()
    for parameter in net.parameters():  # norms away from 1 and 0, so that they count
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    weights = {name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()}
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 9, 0, 4])
    expected = paper_network(weights, images, num_blocks=(depth - 2) // 6, layout=layout)
    F.cross_entropy(expected, labels).backward()
    logits, gradients = logits_and_gradients(net.train(), images, labels)
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-9, atol=1e-9)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, weights[name].grad, rtol=1e-7, atol=1e-9, msg=name)


def test_the_layout_of_option_a_matters():
    torch.manual_seed(0)
    net = create_model("resnet8").double()
    weights, images = dict(net.named_parameters()), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    last, both = (paper_network(weights, images, num_blocks=1, layout=layout) for layout in ("last", "both"))
    assert not torch.allclose(last, both, rtol=1e-3, atol=1e-3)


def data_folder() -> Path:
    if "RESLAB_DATA" not in os.environ:
        pytest.skip("needs real data: set RESLAB_DATA to a folder with cifar10/ and pretrained-cifar10/")
    root = Path(os.environ["RESLAB_DATA"])
    for folder in ("cifar10", "pretrained-cifar10"):
        if not (root / folder).is_dir():
            pytest.skip(f"needs real data: RESLAB_DATA={root} has no {folder}/")
    return root


@pytest.fixture(scope="module")
def cifar10_test() -> tuple[Tensor, Tensor]:
    """All 10,000 test images as bytes (N, 3, 32, 32), and their labels."""
    root = data_folder()
    from PIL import Image
    from pyarrow import parquet

    files = sorted((root / "cifar10").glob("test-*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    return images, torch.tensor([row["label"] for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "error_percent"), [(20, 8.27), (56, 6.61)])
def test_weights_trained_by_others_have_their_published_error(cifar10_test, depth, error_percent):
    from safetensors.torch import load_file

    weights = load_file(data_folder() / "pretrained-cifar10" / f"resnet{depth}.safetensors")
    net = create_model(f"resnet{depth}", shortcut="zero_pad_both").eval().to(memory_format=torch.channels_last)
    net.load_state_dict({key.replace("linear.", "fc."): value for key, value in weights.items()}, strict=True)
    assert sum(parameter.numel() for parameter in net.parameters()) == CIFAR_DEPTHS[depth]
    images, labels = cifar10_test
    assert len(images) == 10_000
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    wrong = 0
    with torch.no_grad():
        for chunk, answers in zip(images.split(250), labels.split(250), strict=True):
            inputs = ((chunk / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
            wrong += int((net(inputs).argmax(dim=1) != answers).sum())
    assert wrong / 100 == pytest.approx(error_percent, abs=0.02)
