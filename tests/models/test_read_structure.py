"""What is told of a network is what runs in it: layers in order, equal blocks folded, totals that add up."""

from __future__ import annotations

import copy
import functools
from dataclasses import asdict

import pytest
import torch
import torchvision
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.layers.connections import Streams
from reslab.models.catalog import create_model, depth_of
from reslab.models.structure import read_structure
from reslab.models.table import catalog_rows, image_shape
from reslab.records.files import decode, encode
from reslab.records.structure import BlockRecord, LayerRecord, StageRecord, StructureRecord

NAMES = [
    "resnet20", "plain56", "resnet164", "preresnet110", "wide_resnet16_4", "resnext29_8x64d", "seresnet20", "highway20",
    "fixup_resnet20", "hyper_resnet56", "resnet50", "preresnet50_tf", "resnet50d", "resnext50_32x4d", "seresnet50",
    "nf_resnet50", "preresnet50_bit", "resnet18_small", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small_cifar",
]  # fmt: skip


@functools.cache
def read(name: str) -> StructureRecord:
    with torch.device("meta"):
        model = create_model(name)
    return read_structure(model, image_shape(name), name=name)


def texts(layers: tuple[LayerRecord, ...]) -> list[str]:
    return [layer.text for layer in layers]


def stage(record: StructureRecord, name: str) -> StageRecord:
    return next(stage for stage in record.stages if stage.name == name)


def only_block(model: nn.Module, shape: tuple[int, ...] = (8, 6, 6)) -> BlockRecord:
    (found,) = read_structure(model, shape).stages
    (block,) = found.blocks
    return block


# ---- the catalog


def assert_adds_up(record: StructureRecord, row: dict) -> None:
    assert sum(stage.num_parameters for stage in record.stages) == record.num_parameters == row["num_parameters"]
    assert sum(stage.macs for stage in record.stages) == record.macs == row["macs"]
    for found in record.stages:
        if found.blocks:
            assert sum(block.count * block.num_parameters for block in found.blocks) == found.num_parameters
            assert sum(block.count * block.macs for block in found.blocks) == found.macs
            assert found.blocks[0].in_shape == found.in_shape
            assert found.blocks[-1].out_shape == found.out_shape
    for before, after in zip(record.stages, record.stages[1:], strict=False):
        assert before.out_shape[0] == after.in_shape[0]
    assert record.stages[0].in_shape == record.in_shape
    assert record.stages[-1].out_shape == (row["num_classes"],)


@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up_to_what_the_catalog_says(name):
    (row,) = catalog_rows(name)
    assert_adds_up(read(name), row)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in catalog_rows() if row["name"] not in NAMES], ids=lambda row: row["name"]
)
def test_parts_of_the_others_add_up_too(row):
    assert_adds_up(read(row["name"]), row)


@pytest.mark.parametrize(
    "name", ["resnet20", "plain56", "resnet1202", "preresnet164", "resnet50", "seresnet50", "vgg11_bn"]
)
def test_depth_is_that_of_the_name(name):
    assert read(name).depth == depth_of(name)


def test_resnet20_is_told_layer_by_layer():
    record = read("resnet20")
    assert [found.name for found in record.stages] == ["stem", "layer1", "layer2", "layer3", "head"]
    assert texts(record.stages[0].layers) == ["3x3 conv, 16", "batch norm", "ReLU"]
    assert texts(record.stages[-1].layers) == ["global avg-pool", "linear, 10"]
    first, others = stage(record, "layer2").blocks
    assert (first.count, first.shortcut, others.count, others.shortcut) == (1, "zero_pad", 2, "identity")
    assert texts(first.branch) == ["3x3 conv, 32, /2", "batch norm", "ReLU", "3x3 conv, 32", "batch norm"]
    assert texts(first.shortcut_layers) == ["zero-pad, /2"]
    assert (texts(first.entry), first.junction, texts(first.after)) == ([], "add", ["ReLU"])
    assert (first.in_shape, first.out_shape) == ((16, 32, 32), (32, 16, 16))
    assert (first.kind, first.name, others.name, others.last) == ("BasicBlock", "layer2.0", "layer2.1", "layer2.2")


def test_resnet50_has_projections_and_resnext_has_groups():
    first, others = stage(read("resnet50"), "layer2").blocks
    assert texts(first.shortcut_layers) == ["1x1 conv, 512, /2", "batch norm"]
    assert (first.kind, first.shortcut, others.shortcut, others.count) == ("Bottleneck", "projection", "identity", 3)
    assert texts(stage(read("resnext50_32x4d"), "layer2").blocks[0].branch)[3] == "3x3 conv, 256, 32 groups, /2"


@pytest.mark.parametrize(("name", "counts"), [("resnet56", [9, 1, 8, 1, 8]), ("resnet1202", [200, 1, 199, 1, 199])])
def test_equal_blocks_are_folded_whatever_the_depth(name, counts):
    assert [block.count for found in read(name).stages for block in found.blocks] == counts


def test_a_plain_network_is_its_twin_without_shortcuts():
    residual, plain = read("resnet56"), read("plain56")
    assert {block.shortcut for found in plain.stages for block in found.blocks} == {"none"}
    for ours, theirs in zip(residual.stages, plain.stages, strict=True):
        for block, twin in zip(ours.blocks, theirs.blocks, strict=True):
            assert (twin.branch, twin.after, twin.count) == (block.branch, block.after, block.count)
            assert (twin.shortcut_layers, twin.junction) == ((), "")


def test_the_order_of_a_pre_activation_block_and_what_its_shortcut_shares():
    first, others = stage(read("preresnet20"), "layer2").blocks
    assert texts(first.entry) == ["batch norm", "ReLU"]  # the shortcut that changes the dimensions reads their result
    assert texts(first.branch) == ["3x3 conv, 32, /2", "batch norm", "ReLU", "3x3 conv, 32"]
    assert texts(others.entry) == []
    assert texts(others.branch)[:3] == ["batch norm", "ReLU", "3x3 conv, 32"]
    assert others.after == ()
    assert texts(read("preresnet20").stages[-1].layers)[:2] == ["batch norm", "ReLU"]


@pytest.mark.parametrize(
    ("changes", "junction"),
    [
        ({"connection": "layer_scale"}, "add, branch x learned scale"),
        ({"connection": "constant_half"}, "add, shortcut x 0.5, branch x 0.5"),
        ({"connection": "exclusive_gate"}, "add, both gated"),
        ({"connection": "shortcut_gate"}, "add, shortcut gated"),
        ({"connection": "shortcut_dropout"}, "add, shortcut dropped out"),
        ({"connection": "hyper"}, "add, 4 streams"),
    ],
)
def test_the_junction_in_words(changes, junction):
    block = stage(read_structure(create_model("resnet8", **changes), (3, 32, 32)), "layer1").blocks[0]
    assert block.junction == junction
    assert texts(block.after) == ["ReLU"]


def test_attention_and_drop_path_end_the_branch_and_do_not_hinder_folding():
    record = read_structure(create_model("seresnet20", drop_path=0.2), (3, 32, 32))
    _, others = stage(record, "layer3").blocks
    assert texts(others.branch)[-2:] == ["squeeze-excite", "drop path"]
    assert others.count == 2
    assert record.depth == 20


# ---- networks of others


def test_torchvisions_networks_are_told_like_ours():
    for name in ("resnet18", "resnet50", "resnext50_32x4d"):
        theirs = read_structure(getattr(torchvision.models, name)(weights=None), (3, 224, 224), name=name)
        assert theirs == read(name)


def test_a_stack_is_cut_where_the_resolution_changes():
    record = read("vgg11_bn")
    names = [found.name for found in record.stages]
    assert names[:2] == ["features.0-3", "features.4-7"]
    assert names[-1] == "head"
    assert {block.kind for found in record.stages for block in found.blocks} == {"layers"}
    assert texts(record.stages[0].blocks[0].branch) == ["3x3 conv, 64", "batch norm", "ReLU", "2x2 max-pool, /2"]


class Residual(nn.Module):
    """A block of somebody who knows nothing of ours."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.side = nn.Sequential(nn.Conv2d(8, 8, 1))
        self.offset = nn.Parameter(torch.zeros(1, 8, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "identity":
                return torch.relu(x + self.body(x))
            case "in place":
                out = self.body(x)
                out += x
                return out
            case "projection":
                return self.body(x) + self.side(x)
            case "plain":
                return self.side(self.body(x))
            case "parameter":
                return self.side(self.body(x) + self.offset)
            case "twice":
                x = x + self.body(x)
                return x + self.side(x)
            case _:
                return torch.cat([self.body(x), self.side(x)], dim=1)


@pytest.mark.parametrize(
    ("kind", "shortcut", "past"),
    [
        ("identity", "identity", []),
        ("in place", "identity", []),
        ("projection", "projection", ["1x1 conv, 8"]),
        ("plain", "none", []),
        ("parameter", "none", []),
        ("twice", "inside", []),
        ("concatenation", "inside", []),
    ],
)
def test_anybodys_addition_is_seen(kind, shortcut, past):
    block = only_block(nn.Sequential(Residual(kind)))
    assert (block.kind, block.shortcut, texts(block.shortcut_layers)) == ("Residual", shortcut, past)
    assert texts(block.branch)[:3] == ["3x3 conv, 8", "ReLU", "3x3 conv, 8"]


def test_a_row_of_ones_own_blocks_is_folded():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.blocks = nn.ModuleList(Residual("identity") for _ in range(5))
            self.last = nn.Linear(8, 4)

        def forward(self, images: Tensor) -> Tensor:
            x = self.first(images)
            for block in self.blocks:
                x = block(x)
            return self.last(x.mean((2, 3)))

    record = read_structure(Net(), (3, 6, 6))
    assert [found.name for found in record.stages] == ["stem", "blocks", "head"]
    assert [block.count for block in record.stages[1].blocks] == [5]
    assert record.name == "Net"
    assert record.depth == 1 + 5 * 2 + 1


def test_a_layer_that_runs_twice_is_told_twice_and_one_that_never_runs_not_at_all():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.unused = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    assert texts(only_block(nn.Sequential(Loop())).branch) == ["1x1 conv, 8", "1x1 conv, 8"]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Conv2d(8, 16, (1, 7), stride=(1, 2)), "1x7 conv, 16, /1x2"),
        (nn.Conv2d(8, 8, 3, groups=8, dilation=2), "3x3 conv, 8, depthwise, dilation 2"),
        (nn.AvgPool2d(2), "2x2 avg-pool, /2"),
        (nn.AdaptiveAvgPool2d((3, 3)), "avg-pool to 3x3"),
        (nn.AdaptiveMaxPool2d(1), "global max-pool"),
        (nn.GroupNorm(4, 8), "group norm"),
        (nn.GroupNorm(1, 8), "layer norm"),
        (nn.InstanceNorm2d(8), "instance norm"),
        (nn.Hardswish(), "Hardswish"),
        (nn.Dropout(0.25), "dropout 0.25"),
        (nn.PixelShuffle(2), "PixelShuffle"),
    ],
)
def test_layers_in_words(layer, text):
    record = read_structure(nn.Sequential(nn.Conv2d(8, 8, 1), layer), (8, 14, 14))
    assert texts(record.stages[0].layers) == ["1x1 conv, 8", text]


def test_other_dimensions():
    sequence = read_structure(create_model("resnet8", ndim=1), (3, 32))
    assert stage(sequence, "layer3").out_shape == (64, 8)
    assert stage(sequence, "layer2").blocks[0].branch[0].text == "3 conv, 32, /2"
    volume = read_structure(create_model("resnet8", ndim=3), (3, 4, 8, 8))
    assert stage(volume, "layer3").out_shape == (64, 1, 2, 2)


# ---- manners


def test_the_network_stays_as_it_is():
    model = create_model("resnet8").train()
    before, calls = copy.deepcopy(model.state_dict()), []
    model.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    read_structure(model, (3, 32, 32))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [len(module._forward_hooks) for module in model.modules()] == [1] + [0] * (len(list(model.modules())) - 1)


def test_records_are_json():
    record = read("resnet8")
    found = decode(encode(asdict(record)))
    assert found["stages"][1]["blocks"][0]["branch"][0] == {"kind": "conv", "text": "3x3 conv, 16"}
    assert found["in_shape"] == [3, 32, 32]


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(RequestError, match=r"Can't run ResNet on shapes alone, with input 4 x 32 x 32"):
        read_structure(create_model("resnet8"), (4, 32, 32))


@pytest.mark.parametrize("changes", [{"checkpoint_blocks": True}, {"connection": Streams(num_streams=2)}])
def test_what_does_not_change_the_shapes_is_told_alike(changes):
    changed, usual = (read_structure(create_model("resnet20", **more), (3, 32, 32)) for more in (changes, {}))
    for ours, theirs in zip(changed.stages, usual.stages, strict=True):
        assert (ours.in_shape, ours.out_shape, ours.layers) == (theirs.in_shape, theirs.out_shape, theirs.layers)
        for block, other in zip(ours.blocks, theirs.blocks, strict=True):
            assert (block.branch, block.after, block.count) == (other.branch, other.after, other.count)
            assert (block.in_shape, block.out_shape) == (other.in_shape, other.out_shape)
