"""Weights that others' libraries wrote give the same numbers in the network that reslab recognises in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import images, scramble
from torch import Tensor

from reslab.models.catalog import create_model
from reslab.weights.files import read_tensors
from reslab.weights.load import load_weights, open_weights
from reslab.weights.write import to_layout

TORCHVISION = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnext50_32x4d": "resnext50_32x4d",
    "mobilenet_v3_small": "mobilenet_v3_small",
}
TIMM = {
    # timm's name: ours
    "resnet18": "resnet18",
    "resnet18d": "resnet18d",
    "resnet50c": "resnet50c",
    "resnet50d": "resnet50d",
    "seresnet50": "seresnet50",
    "ecaresnet50t": "ecaresnet50t",
    "resnet50_gn": "resnet50_gn",
    "resnetv2_18": "preresnet18",
    "resnetv2_50": "preresnet50",
    "resnetv2_50d": "preresnet50d",
    "resnetv2_50x1_bit": "preresnet50_bit",
    "nf_resnet50": "nf_resnet50",
    "nf_seresnet50": "nf_seresnet50",
    "nf_ecaresnet50": "nf_resnet50 with attention='eca'",
    "resnet26t": "resnet18d with block='bottleneck' and stem='deep_tiered'",
}


def check_equal(theirs: torch.nn.Module, path: Path) -> str:
    """Saves theirs, opens it as ours, compares logits in float64. Returns what it was recognised as."""
    torch.save({"state_dict": theirs.state_dict(), "epoch": 1}, path)
    ours, report = open_weights(path)
    load_weights(ours.double().eval(), path)  # in float64 nothing is rounded
    with torch.no_grad():
        expected = theirs(images())
        torch.testing.assert_close(ours(images()), expected, rtol=0, atol=1e-10)
    assert expected.std() > 1e-3
    assert {row.action for row in report.rows if row.key and row.name} <= {"loaded", "adapted"}
    return report.model


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(tmp_path, name):
    theirs = scramble(getattr(torchvision.models, name)(weights=None, num_classes=7).double())
    assert check_equal(theirs, tmp_path / "theirs.pth") == TORCHVISION[name]


@pytest.mark.parametrize("name", TIMM)
def test_timm(tmp_path, timm, name):
    theirs = scramble(timm.create_model(name, num_classes=7).double())
    assert check_equal(theirs, tmp_path / "theirs.pth") == TIMM[name]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(theirs, ours) for theirs, ours in TIMM.items() if "with" not in ours and theirs not in ("resnet18", "resnet18d")],
)
def test_timm_loads_what_is_written_for_it(timm, theirs, ours):
    network = scramble(create_model(ours, 7).double())
    written, notes = to_layout(network.state_dict(), "timm", network.architecture)
    other = timm.create_model(theirs, num_classes=7).double().eval()
    other.load_state_dict(written, strict=True)
    assert not notes
    with torch.no_grad():
        torch.testing.assert_close(other(images()), network(images()), rtol=0, atol=1e-10)


def test_torchvision_loads_what_is_written_for_it():
    network = scramble(create_model("wide_resnet50_2", 7).double())
    other = torchvision.models.wide_resnet50_2(weights=None, num_classes=7).double().eval()
    other.load_state_dict(to_layout(network.state_dict(), "torchvision", network.architecture)[0], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(other(images()), network(images()), rtol=0, atol=1e-10)


def test_timms_networks_that_compute_something_else_are_refused(timm, tmp_path):
    for name, reason in {
        "resnetv2_50d_gn": "32 channels into 32 groups",
        "skresnet50": "first block has 0 convolutions",
        "resnetrs50": "it has besides maxpool.0.weight",
        "nf_regnet_b0": "no network of ours has a place for",
    }.items():
        torch.save(timm.create_model(name, num_classes=7).state_dict(), tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=reason):
            open_weights(tmp_path / f"{name}.pth")


# ---- trained weights


def trained(depth: int) -> Path:
    if "RESLAB_DATA" not in os.environ:
        pytest.skip("needs real data: set RESLAB_DATA to a folder with pretrained-cifar10/")
    path = Path(os.environ["RESLAB_DATA"]) / "pretrained-cifar10" / f"resnet{depth}.safetensors"
    if not path.is_file():
        pytest.skip(f"needs real data: there is no {path}")
    return path


def akamasters_logits(weights: dict[str, Tensor], x: Tensor, *, num_blocks: int) -> Tensor:
    """https://github.com/akamaster/pytorch_resnet_cifar10/blob/master/resnet.py in eval mode, option A, spelled out."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, weights[f"{conv}.weight"].double(), stride=stride, padding=1)
        mean, var, scale, shift = (
            weights[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift, eps=1e-5)

    x = F.relu(conv_norm(x, "conv1", "bn1"))
    for stage, planes in enumerate((16, 32, 64), start=1):
        for index in range(num_blocks):
            block, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            out = F.relu(conv_norm(x, f"{block}.conv1", f"{block}.bn1", stride))
            out = conv_norm(out, f"{block}.conv2", f"{block}.bn2")
            if stride != 1:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0)
            x = F.relu(out + x)
    x = F.avg_pool2d(x, x.shape[3]).flatten(1)
    return F.linear(x, weights["linear.weight"].double(), weights["linear.bias"].double())


@pytest.mark.parametrize("depth", [20, 56])
def test_weights_trained_by_others_are_recognised_and_equal(depth):
    path = trained(depth)
    network, report = open_weights(path)
    assert report.layout == "akamaster"
    assert report.model == f"resnet{depth} with shortcut='zero_pad_both'"
    assert network.fc.out_features == 10
    assert "half before and half after" in report.assumptions[0]
    expected = akamasters_logits(read_tensors(path), images(32), num_blocks=(depth - 2) // 6)
    with torch.no_grad():
        torch.testing.assert_close(network.double().eval()(images(32)), expected, rtol=0, atol=1e-10)
