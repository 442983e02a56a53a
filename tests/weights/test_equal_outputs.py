"""Weights that others' libraries wrote give the same numbers in the network that reslab recognises in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision
from their_networks import images, scramble, their_logits

from reslab.models.architecture import Architecture
from reslab.models.catalog import create_model
from reslab.weights import open_weights
from reslab.weights._files import read_weights
from reslab.weights.convert import to_layout
from reslab.weights.load import load_weights

PEERS = {
    # library and name: ours
    ("torchvision", "resnet18"): "resnet18",
    ("torchvision", "resnet50"): "resnet50",
    ("torchvision", "resnext50_32x4d"): "resnext50_32x4d",
    ("torchvision", "mobilenet_v3_small"): "mobilenet_v3_small",
    ("timm", "resnet18"): "resnet18",
    ("timm", "resnet18d"): "resnet18d",
    ("timm", "resnet50c"): "resnet50c",
    ("timm", "resnet50d"): "resnet50d",
    ("timm", "seresnet50"): "seresnet50",
    ("timm", "ecaresnet50t"): "ecaresnet50t",
    ("timm", "resnet50_gn"): "resnet50_gn",
    ("timm", "resnetv2_18"): "preresnet18",
    ("timm", "resnetv2_50"): "preresnet50",
    ("timm", "resnetv2_50d"): "preresnet50d",
    ("timm", "resnetv2_50x1_bit"): "preresnet50_bit",
    ("timm", "nf_resnet50"): "nf_resnet50",
    ("timm", "nf_seresnet50"): "nf_seresnet50",
    ("timm", "nf_ecaresnet50"): "nf_resnet50 with attention='eca'",
    ("timm", "resnet26t"): "resnet18d with block='bottleneck' and stem='deep_tiered'",
}
WRITTEN = [(*peer, ours) for peer, ours in PEERS.items() if peer[0] == "timm" and "with" not in ours]
WRITTEN = [*WRITTEN[2:], ("torchvision", "wide_resnet50_2", "wide_resnet50_2")]


def build(library: str, name: str, timm) -> torch.nn.Module:
    options = {"weights": None} if library == "torchvision" else {}
    make = getattr(torchvision.models, name) if library == "torchvision" else lambda **o: timm.create_model(name, **o)
    return make(num_classes=7, **options).double()


def opened(path: Path, state: dict[str, torch.Tensor]):
    """The network that is recognised in a checkpoint, in float64, where nothing is rounded; and the report."""
    torch.save({"state_dict": state, "epoch": 1}, path)
    network, report = open_weights(path)
    load_weights(network.double().eval(), path)
    assert {row.action for row in report.rows if row.key and row.name} <= {"loaded", "adapted"}
    return network, report


@pytest.mark.parametrize(("library", "name"), PEERS)
def test_peers_are_recognised_and_equal(tmp_path, timm, library, name):
    theirs = scramble(build(library, name, timm))
    ours, report = opened(tmp_path / "theirs.pth", theirs.state_dict())
    assert report.model == PEERS[library, name]
    with torch.no_grad():
        expected = theirs(images())
        torch.testing.assert_close(ours(images()), expected, rtol=0, atol=1e-10)
    assert expected.std() > 1e-3


@pytest.mark.parametrize(("library", "theirs", "ours"), WRITTEN)
def test_peers_load_what_is_written_for_them(timm, library, theirs, ours):
    network = scramble(create_model(ours, 7).double())
    written, notes = to_layout(network.state_dict(), library, network.architecture)
    other = build(library, theirs, timm).eval()
    other.load_state_dict(written, strict=True)
    assert not notes
    with torch.no_grad():
        torch.testing.assert_close(other(images()), network(images()), rtol=0, atol=1e-10)


def test_peers_that_compute_something_else_are_refused(timm, tmp_path):
    for name, reason in {
        "resnetv2_50d_gn": "32 channels into 32 groups",
        "skresnet50": "no layer1.0.conv1.weight",
        "resnetrs50": r"unexpected keys? \(maxpool.0.weight",
        "nf_regnet_b0": "no network of ours has a place for",
    }.items():
        torch.save(timm.create_model(name, num_classes=7).state_dict(), tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=reason):
            open_weights(tmp_path / f"{name}.pth")


# ---- the repositories that everybody starts from


def renamed(state, *pairs):
    """The tensors under names in which each first text is replaced by the second."""
    result = {}
    for name, value in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        result[name] = value
    return result


SMALL = Architecture(block="basic", num_blocks=(1, 1, 1, 1), stem="small", num_classes=10)
REPOSITORIES = {
    # layout: our network, the name that it is given, how they call its parts, and how they compute
    "akamaster": (
        create_model("resnet8", shortcut="zero_pad_both"), "resnet8 with shortcut='zero_pad_both'",
        [("fc.", "linear.")], {"block": "layer{}.{}", "head": "linear"},
    ),
    "kuangliu": (
        create_model(SMALL), "resnet18_small with num_blocks=(1, 1, 1, 1)",
        [("fc.", "linear."), ("downsample", "shortcut")], {"block": "layer{}.{}", "head": "linear"},
    ),
    "xternalz": (
        create_model("wide_resnet16_4", 10), "wide_resnet16_4",
        [*((f"layer{s}.", f"block{s}.layer.") for s in (1, 2, 3)), ("downsample.0", "convShortcut"), ("norm.", "bn1.")],
        {"block": "block{}.layer.{}", "head": "fc", "preactivation": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layout", REPOSITORIES)
def test_repositories_are_recognised_and_equal(tmp_path, layout, prefix):
    network, title, names, how = REPOSITORIES[layout]
    state = renamed(scramble(network).double().state_dict(), *names)
    ours, report = opened(tmp_path / "ckpt.pth", {prefix + name: value for name, value in state.items()})
    assert (report.layout, report.model, report.prefix) == (layout, title, prefix)
    assert ours.architecture == network.architecture
    with torch.no_grad():
        torch.testing.assert_close(ours(images(32)), their_logits(state, images(32), **how), rtol=0, atol=1e-10)


def test_a_preactivation_network_without_last_norm_is_refused(tmp_path):
    state = create_model("preresnet18_small", 10).state_dict()
    theirs = renamed({k: v for k, v in state.items() if not k.startswith("norm.")}, ("fc.", "linear."))
    torch.save(theirs, tmp_path / "preact.pth")
    with pytest.raises(ValueError, match=r"PreActResNet, and it has neither norm nor activation between the last"):
        open_weights(tmp_path / "preact.pth")


@pytest.mark.parametrize("depth", [20, 56])
def test_trained_weights_are_recognised_and_equal(depth):
    if "RESLAB_DATA" not in os.environ:
        pytest.skip("needs real data: set RESLAB_DATA to a folder with pretrained-cifar10/")
    path = Path(os.environ["RESLAB_DATA"]) / "pretrained-cifar10" / f"resnet{depth}.safetensors"
    if not path.is_file():
        pytest.skip(f"needs real data: there is no {path}")
    network, report = open_weights(path)
    assert (report.layout, report.model) == ("akamaster", f"resnet{depth} with shortcut='zero_pad_both'")
    assert network.fc.out_features == 10
    assert "half before and half after" in report.assumptions[0]
    state = {name: value.double() for name, value in read_weights(path).tensors.items()}
    expected = their_logits(state, images(32), **REPOSITORIES["akamaster"][3])
    with torch.no_grad():
        torch.testing.assert_close(network.double().eval()(images(32)), expected, rtol=0, atol=1e-10)
