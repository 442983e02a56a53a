"""Others' names become ours and ours theirs, by the same tables; each layout is known by its keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import images, scramble

from reslab.errors import RequestError
from reslab.models.architecture import Architecture
from reslab.models.catalog import MODELS, create_model
from reslab.weights.layouts import (
    KERAS_V1_RULES,
    KERAS_V2_RULES,
    LAYOUTS,
    NF_RULES,
    OPENMMLAB_RULES,
    XTERNALZ_RULES,
    layout_of,
    timm_v2_rules,
    transformers_rules,
)
from reslab.weights.load import load_weights, open_weights
from reslab.weights.translation import Rule, renamed, translate
from reslab.weights.write import FAMILIES, to_layout

TABLES = {
    "v1": KERAS_V1_RULES,
    "v2": KERAS_V2_RULES,
    "timm": timm_v2_rules(0),
    "timm with pool": timm_v2_rules(1),
    "nf": NF_RULES,
    "transformers": transformers_rules("resnet."),
    "wide": XTERNALZ_RULES,
    "openmmlab": OPENMMLAB_RULES,
}


@pytest.mark.parametrize(
    ("table", "theirs", "ours"),
    [
        ("v1", "conv3_block2_1_conv.weight", "layer2.1.conv1.weight"),
        ("v1", "conv2_block1_0_bn.running_var", "layer1.0.downsample.1.running_var"),
        ("v1", "predictions.bias", "fc.bias"),
        ("v2", "conv5_block3_preact_bn.bias", "layer4.2.bn1.bias"),
        ("v2", "conv5_block3_2_bn.bias", "layer4.2.bn3.bias"),
        ("v2", "post_bn.weight", "norm.weight"),
        ("timm", "stages.3.blocks.12.downsample.conv.weight", "layer4.12.downsample.0.weight"),
        ("timm with pool", "stages.3.blocks.12.downsample.conv.weight", "layer4.12.downsample.1.weight"),
        ("timm", "stem.norm2.num_batches_tracked", "conv1.4.num_batches_tracked"),
        ("nf", "stages.0.1.conv2.gain", "layer1.1.conv2.gain"),
        ("nf", "stages.0.1.attn_last.fc1.bias", "layer1.1.se.fc1.bias"),
        ("transformers", "resnet.encoder.stages.3.layers.2.layer.0.normalization.bias", "layer4.2.bn1.bias"),
        ("transformers", "resnet.embedder.embedder.convolution.weight", "conv1.weight"),
        ("wide", "block2.layer.0.convShortcut.weight", "layer2.0.downsample.0.weight"),
        ("wide", "bn1.running_var", "norm.running_var"),
        ("openmmlab", "backbone.layer2.0.downsample.1.bias", "layer2.0.downsample.1.bias"),
        ("openmmlab", "head.fc.weight", "fc.weight"),
    ],
)
def test_a_name_is_translated_both_ways(table, theirs, ours):
    assert renamed(theirs, TABLES[table], forward=True)[0] == ours
    assert renamed(ours, TABLES[table], forward=False)[0] == theirs


@pytest.mark.parametrize("table", TABLES)
@given(
    stage=st.integers(1, 30), block=st.integers(0, 99), conv=st.integers(1, 3), part=st.sampled_from(["weight", "bias"])
)
def test_every_place_comes_back(table, stage, block, conv, part):
    for ours in (f"layer{stage}.{block}.conv{conv}.{part}", f"layer{stage}.{block}.bn{conv}.{part}", f"fc.{part}"):
        theirs = renamed(ours, TABLES[table], forward=False)[0]
        if theirs is not None:
            assert renamed(theirs, TABLES[table], forward=True)[0] == ours


@pytest.mark.parametrize("name", ["layer0", "stages.0.blocks.0.attn.fc1.weight", "conv1.weight", ""])
def test_a_name_that_no_rule_has_is_unknown(name):
    assert renamed(name, timm_v2_rules(0), forward=True) == (None, None)
    found = translate({"stages.0.blocks.0.norm1.weight": torch.ones(1), name: torch.ones(2)}, by_name("timm_v2"))
    assert list(found.tensors) == ["layer1.0.bn1.weight"]
    assert list(found.unknown) == [name]


def test_two_keys_for_one_place_are_not_taken_for_one():
    state = {
        "resnet.embedder.embedder.convolution.weight": torch.ones(1),
        "embedder.embedder.convolution.weight": torch.ones(2),
    }
    found = translate(state, by_name("transformers"))
    assert (len(found.tensors), list(found.unknown)) == (1, ["embedder.embedder.convolution.weight"])


def by_name(name):
    return next(layout for layout in LAYOUTS if layout.name == name)


def test_every_layout_has_a_name_of_its_own_and_says_why_it_implies_anything():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
    assert not [layout.name for layout in LAYOUTS if bool(layout.implies) != bool(layout.reason)]


# ---- ours to theirs and back


def parts_of(name: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The state_dict of a catalog name at one block a stage."""
    entry = MODELS[name]
    assert isinstance(entry, Architecture)
    small = replace(entry, num_blocks=(1,) * len(entry.widths), num_classes=3)
    with torch.device(device):
        return create_model(small).state_dict()


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("resnet18", "reslab"), ("resnet50d", "reslab"), ("seresnet50", "reslab"), ("preresnet18", "timm_v2"),
        ("preresnet50", "timm_v2"), ("preresnet50d", "timm_v2d"), ("preresnet50_bit", "timm_bit"),
        ("nf_resnet50", "timm_nf"), ("nf_seresnet50", "timm_nf"),
    ],
)  # fmt: skip
def test_to_timm_and_back_is_the_identity(name, layout):
    ours = parts_of(name)
    theirs, notes = to_layout(ours, "timm", MODELS[name])
    assert not notes
    assert layout_of(theirs).name == layout
    found = translate(theirs, layout_of(theirs))
    assert not found.unknown
    assert found.tensors.keys() == ours.keys()
    assert all(torch.equal(value, ours[key]) for key, value in found.tensors.items())


REFUSED = [
    ("torchvision", "preresnet50", "order='pre'"),
    ("torchvision", "resnet50_v1", "stride_on='1x1'"),
    ("torchvision", "seresnet50", "attention='se'"),
    ("torchvision", "resnet50d", "stem='deep' and shortcut='projection_pool'"),
    ("torchvision", "fixup_resnet50", "connection='fixup'"),
    ("timm", "resnet50_v1", "stride_on='1x1'"),
    ("timm", "preresnet50_tf", "stride_in='last'"),
    ("timm", "preresnet20", "shortcut='zero_pad'"),
    ("timm", "mhc_resnet56", "connection='mhc'"),
    ("timm", "highway20", "connection='highway'"),
]


@pytest.mark.parametrize(("layout", "name", "obstacle"), REFUSED)
def test_what_a_library_cant_compute_isnt_written_for_it(layout, name, obstacle):
    with pytest.raises(RequestError, match=rf"{layout} has no network that computes the same: .*{obstacle}.*'reslab'"):
        to_layout({}, layout, MODELS[name])


@pytest.mark.parametrize(
    ("layout", "name", "note"),
    [
        ("torchvision", "resnet20", "3 stages where those have 4, a 3x3 stem without max-pool, shortcut='zero_pad'"),
        ("timm", "resnet18_small", "a 3x3 stem without max-pool"),
        ("torchvision", "plain18", "shortcut='none'"),
        ("torchvision", "resnet50_gn", "norm_layer"),
        ("torchvision", "resnet50", None),
        ("timm", "ecaresnet50t", None),
    ],
)
def test_names_without_a_twin_are_written_with_a_note(layout, name, note):
    made, notes = to_layout({"fc.bias": torch.ones(1)}, layout, MODELS[name])
    assert list(made) == ["fc.bias"]
    assert bool(notes) == bool(note)
    assert not note or note in notes[0]


def test_every_architecture_of_the_catalog_is_written_or_refused_in_words():
    for name, entry in MODELS.items():
        if not isinstance(entry, Architecture):
            continue
        parts = parts_of(name, device="meta")
        for layout in FAMILIES:
            try:
                made, _ = to_layout(parts, layout, entry)
            except RequestError as error:
                assert "computes the same" in str(error)  # noqa: PT017  # the case is one of two
            else:
                assert len(made) == len(parts)


def test_baselines_have_torchvisions_names_and_no_others():
    assert to_layout({}, "torchvision", "vgg16_bn") == ({}, [])
    assert "builds no such network" in to_layout({}, "torchvision", "vgg16_bn_cifar")[1][0]
    with pytest.raises(RequestError, match="vgg16_bn otherwise"):
        to_layout({}, "timm", "vgg16_bn")
    with pytest.raises(RequestError, match=r"Unknown layout 'tim'\. Did you mean 'timm'"):
        to_layout({}, "tim", "vgg16_bn")


# ---- the repositories that everybody starts from


class TheirBlock(torch.nn.Module):
    """The basic block of kuangliu/pytorch-cifar, models/resnet.py and models/preact_resnet.py, by its names."""

    def __init__(self, channels: int, planes: int, stride: int, *, preactivation: bool) -> None:
        super().__init__()
        self.bn1 = torch.nn.BatchNorm2d(channels if preactivation else planes)
        self.conv1 = torch.nn.Conv2d(channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(planes)
        self.conv2 = torch.nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = torch.nn.Sequential()
        if stride != 1 or channels != planes:
            conv = torch.nn.Conv2d(channels, planes, 1, stride=stride, bias=False)
            self.shortcut = torch.nn.Sequential(conv, *[] if preactivation else [torch.nn.BatchNorm2d(planes)])

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class TheirNetwork(torch.nn.Module):
    """ResNet18 of https://github.com/kuangliu/pytorch-cifar/blob/master/models/resnet.py with one block a stage."""

    def __init__(self, *, preactivation: bool = False) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        if not preactivation:
            self.bn1 = torch.nn.BatchNorm2d(64)
        channels = 64
        for index, (planes, stride) in enumerate([(64, 1), (128, 2), (256, 2), (512, 2)], start=1):
            block = TheirBlock(channels, planes, stride, preactivation=preactivation)
            self.add_module(f"layer{index}", torch.nn.Sequential(block))
            channels = planes
        self.linear = torch.nn.Linear(512, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(torch.nn.functional.avg_pool2d(x, 4).flatten(1))


def test_kuanglius_network_is_our_small_one(tmp_path):
    theirs = scramble(TheirNetwork().double())
    torch.save({"net": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "acc": 93.0}, tmp_path / "ckpt.pth")
    ours, report = open_weights(tmp_path / "ckpt.pth")
    assert (report.layout, report.entry, report.prefix) == ("kuangliu", "net", "module.")
    assert ours.architecture.stem == "small"
    assert ours.architecture.num_blocks == (1, 1, 1, 1)
    load_weights(ours.double().eval(), tmp_path / "ckpt.pth")
    with torch.no_grad():
        torch.testing.assert_close(ours(images(32)), theirs(images(32)), rtol=0, atol=1e-10)


def test_kuanglius_preactivation_network_is_refused_with_the_reason(tmp_path):
    torch.save(TheirNetwork(preactivation=True).state_dict(), tmp_path / "preact.pth")
    with pytest.raises(RequestError, match=r"PreActResNet, and it has neither norm nor activation between the last"):
        open_weights(tmp_path / "preact.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_akamasters_networks_pad_both_sides(tmp_path, prefix):
    ours = create_model("resnet20", shortcut="zero_pad_both").state_dict()
    theirs = {prefix + key.replace("fc.", "linear."): value for key, value in ours.items()}
    torch.save({"state_dict": theirs, "best_prec1": 91.73}, tmp_path / "model.th")
    network, report = open_weights(tmp_path / "model.th")
    assert (report.layout, report.model) == ("akamaster", "resnet20 with shortcut='zero_pad_both'")
    assert network.architecture.shortcut == "zero_pad_both"
    assert all(torch.equal(value, ours[key]) for key, value in network.state_dict().items())


def test_akamasters_option_b_is_a_projection(tmp_path):
    ours = create_model("resnet20", shortcut="projection").state_dict()
    names = {key: key.replace("fc.", "linear.").replace("downsample", "shortcut") for key in ours}
    safetensors.torch.save_file({names[key]: value for key, value in ours.items()}, tmp_path / "b.safetensors")
    network, report = open_weights(tmp_path / "b.safetensors")
    assert (report.layout, network.architecture.shortcut) == ("kuangliu", "projection")


@pytest.mark.parametrize(
    ("layout", "name", "table"),
    [
        ("transformers", "resnet50", "transformers"),
        ("xternalz", "wide_resnet16_4", "wide"),
        ("openmmlab", "resnet18", "openmmlab"),
    ],
)
def test_other_repositories_are_known_by_their_names(tmp_path, layout, name, table):
    ours = create_model(name, 7).state_dict()
    rules = (*TABLES[table], Rule("classifier.1.{p}", "fc.{p}"))
    theirs = {renamed(key, rules, forward=False)[0]: value for key, value in ours.items()}
    torch.save({"state_dict": theirs, "meta": {}}, tmp_path / "theirs.pth")
    network, report = open_weights(tmp_path / "theirs.pth")
    assert (report.layout, report.model, report.counts) == (layout, name, {"loaded": len(ours), "ignored": 1})
    assert all(torch.equal(value, ours[key]) for key, value in network.state_dict().items())


def test_a_transformers_backbone_has_no_head(tmp_path):
    ours = create_model("resnet18", 7).state_dict()
    names = {key: renamed(key, transformers_rules(""), forward=False)[0] for key in ours}
    torch.save({name: ours[key] for key, name in names.items() if name}, tmp_path / "pytorch_model.bin")
    _, report = open_weights(tmp_path / "pytorch_model.bin", num_classes=4, adapt_head=True)
    assert (report.layout, report.counts["kept"]) == ("transformers", 2)


class XternalzBlock(torch.nn.Module):
    """https://github.com/xternalz/WideResNet-pytorch/blob/master/wideresnet.py, BasicBlock."""

    def __init__(self, in_planes, out_planes, stride):
        super().__init__()
        self.bn1 = torch.nn.BatchNorm2d(in_planes)
        self.conv1 = torch.nn.Conv2d(in_planes, out_planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(out_planes)
        self.conv2 = torch.nn.Conv2d(out_planes, out_planes, 3, padding=1, bias=False)
        if in_planes != out_planes:
            self.convShortcut = torch.nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False)

    def forward(self, x):
        out = torch.relu(self.bn1(x))
        shortcut = self.convShortcut(out) if hasattr(self, "convShortcut") else x
        return shortcut + self.conv2(torch.relu(self.bn2(self.conv1(out))))


class Xternalz(torch.nn.Module):
    """The same file, WideResNet of depth 10 and width 2."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
        for index, (before, after, stride) in enumerate([(16, 32, 1), (32, 64, 2), (64, 128, 2)], start=1):
            block = torch.nn.Module()
            block.layer = torch.nn.Sequential(XternalzBlock(before, after, stride))
            self.add_module(f"block{index}", block)
        self.bn1 = torch.nn.BatchNorm2d(128)
        self.fc = torch.nn.Linear(128, 10)

    def forward(self, x):
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block.layer(x)
        return self.fc(torch.nn.functional.avg_pool2d(torch.relu(self.bn1(x)), 8).flatten(1))


def test_xternalz_wide_network_is_equal(tmp_path):
    theirs = scramble(Xternalz().double())
    torch.save(theirs.state_dict(), tmp_path / "wrn.pth")
    ours, report = open_weights(tmp_path / "wrn.pth")
    load_weights(ours.double().eval(), tmp_path / "wrn.pth")
    assert report.layout == "xternalz"
    with torch.no_grad():
        torch.testing.assert_close(ours(images(32)), theirs(images(32)), rtol=0, atol=1e-10)


def test_chenyaofos_networks_have_our_names(tmp_path):
    state = create_model("resnet56", shortcut="projection", num_classes=100).state_dict()
    safetensors.torch.save_file(state, tmp_path / "cifar100_resnet56.safetensors")
    network, report = open_weights(tmp_path / "cifar100_resnet56.safetensors")
    assert (report.model, network.fc.out_features) == ("resnet56 with shortcut='projection'", 100)
