"""Others' names become ours and ours theirs, by the same tables; each layout is known by its keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from reslab.errors import RequestError
from reslab.models.architecture import Architecture
from reslab.models.catalog import MODELS, create_model
from reslab.weights import open_weights
from reslab.weights._layouts import LAYOUTS, TABLES, layout_of, rename
from reslab.weights.convert import to_layout

NAMED = [name for name, layout in LAYOUTS.items() if layout.names]


def theirs_by_ours(layout: str) -> dict[str, str]:
    return {ours: theirs for theirs, ours in LAYOUTS[layout].names.items()}


@pytest.mark.parametrize(
    ("layout", "theirs", "ours"),
    [
        ("keras_v1", "conv3_block2_1_conv.weight", "layer2.1.conv1.weight"),
        ("keras_v1", "conv2_block1_0_bn.running_var", "layer1.0.downsample.1.running_var"),
        ("keras_v1", "predictions.bias", "fc.bias"),
        ("keras_v2", "conv5_block3_preact_bn.bias", "layer4.2.bn1.bias"),
        ("keras_v2", "conv5_block3_2_bn.bias", "layer4.2.bn3.bias"),
        ("keras_v2", "post_bn.weight", "norm.weight"),
        ("timm_v2", "stages.3.blocks.12.downsample.conv.weight", "layer4.12.downsample.0.weight"),
        ("timm_v2d", "stages.3.blocks.12.downsample.conv.weight", "layer4.12.downsample.1.weight"),
        ("timm_v2", "stem.norm2.num_batches_tracked", "conv1.4.num_batches_tracked"),
        ("timm_nf", "stages.0.1.conv2.gain", "layer1.1.conv2.gain"),
        ("timm_nf", "stages.0.1.attn_last.fc1.bias", "layer1.1.se.fc1.bias"),
        ("transformers", "resnet.encoder.stages.3.layers.2.layer.0.normalization.bias", "layer4.2.bn1.bias"),
        ("transformers", "resnet.embedder.embedder.convolution.weight", "conv1.weight"),
        ("xternalz", "block2.layer.0.convShortcut.weight", "layer2.0.downsample.0.weight"),
        ("xternalz", "bn1.running_var", "norm.running_var"),
        ("openmmlab", "backbone.layer2.0.downsample.1.bias", "layer2.0.downsample.1.bias"),
        ("openmmlab", "head.fc.weight", "fc.weight"),
    ],
)
def test_a_name_is_translated_both_ways(layout, theirs, ours):
    assert rename(theirs, LAYOUTS[layout].names) == ours
    assert rename(ours, theirs_by_ours(layout)) == theirs


@pytest.mark.parametrize("layout", NAMED)
@given(
    stage=st.integers(1, 30), block=st.integers(0, 99), conv=st.integers(1, 3), part=st.sampled_from(["weight", "bias"])
)
def test_every_place_comes_back(layout, stage, block, conv, part):
    for ours in (f"layer{stage}.{block}.conv{conv}.{part}", f"layer{stage}.{block}.bn{conv}.{part}", f"fc.{part}"):
        theirs = rename(ours, theirs_by_ours(layout))
        if theirs is not None:
            assert rename(theirs, LAYOUTS[layout].names) == ours


@pytest.mark.parametrize("name", ["layer0", "stages.0.blocks.0.attn.fc1.weight", "conv1.weight", ""])
def test_a_name_that_no_entry_has_is_unknown(name):
    found = LAYOUTS["timm_v2"].read({"stages.0.blocks.0.norm1.weight": torch.ones(1), name: torch.ones(2)})
    assert (list(found.entries), list(found.unknown)) == (["layer1.0.bn1.weight"], [name])


def test_two_keys_for_one_place_are_not_taken_for_one():
    names = ["resnet.embedder.embedder.convolution.weight", "embedder.embedder.convolution.weight"]
    found = LAYOUTS["transformers"].read({name: torch.ones(1) for name in names})
    assert (len(found.entries), list(found.unknown)) == (1, names[1:])


def test_the_tables_are_complete():
    for layout in LAYOUTS.values():
        assert bool(layout.implies) == bool(layout.reason)
        assert not (layout.refusal and layout.names)
    architecture = Architecture(block="basic", num_blocks=(1,), widths=(16,))
    for family in TABLES["family"]:
        assert family["layout"] in LAYOUTS
        assert all(hasattr(architecture, choice) for choice in TABLES["usual"] | family["choices"])


# ---- ours to theirs and back


def parts_of(name: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The state_dict of a catalog name at one block per stage."""
    entry = MODELS[name]
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
    found = layout_of(theirs).read(theirs)
    assert not found.unknown
    assert found.tensors.keys() == ours.keys()
    assert all(torch.equal(value, ours[key]) for key, value in found.tensors.items())


@pytest.mark.parametrize(
    ("library", "name", "obstacle"),
    [
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
    ],
)
def test_what_a_library_cant_compute_isnt_written_for_it(library, name, obstacle):
    with pytest.raises(RequestError, match=rf"{library} has no network that computes the same: .*{obstacle}.*'reslab'"):
        to_layout({}, library, MODELS[name])


@pytest.mark.parametrize(
    ("library", "name", "note"),
    [
        ("torchvision", "resnet20", "3 stages where those have 4, a 3x3 stem without max-pool, shortcut='zero_pad'"),
        ("timm", "resnet18_small", "a 3x3 stem without max-pool"),
        ("torchvision", "plain18", "shortcut='none'"),
        ("torchvision", "resnet50_gn", "norm_layer"),
        ("torchvision", "vgg16_bn_cifar", "itself builds no such network"),
        ("torchvision", "vgg16_bn", None),
        ("torchvision", "resnet50", None),
        ("timm", "ecaresnet50t", None),
    ],
)
def test_names_without_a_twin_are_written_with_a_note(library, name, note):
    network = MODELS[name] if isinstance(MODELS[name], Architecture) else name
    made, notes = to_layout({"fc.bias": torch.ones(1)}, library, network)
    assert list(made) == ["fc.bias"]
    assert [note in text for text in notes] == ([True] if note else [])


def test_timm_and_unknown_libraries_are_refused_for_baselines():
    with pytest.raises(RequestError, match="timm has other names for the parts of vgg16_bn"):
        to_layout({}, "timm", "vgg16_bn")
    with pytest.raises(RequestError, match=r"Unknown layout 'tim'\. Did you mean 'timm'"):
        to_layout({}, "tim", "vgg16_bn")


def test_every_architecture_is_written_or_refused_in_words():
    for name, entry in MODELS.items():
        if not isinstance(entry, Architecture):
            continue
        parts = parts_of(name, device="meta")
        for library in ("torchvision", "timm"):
            try:
                made, _ = to_layout(parts, library, entry)
            except RequestError as error:
                assert "computes the same" in str(error)  # noqa: PT017  # the case is one of two
            else:
                assert len(made) == len(parts)


# ---- repositories whose networks compute what ours do; the CIFAR ones are in test_equal_outputs.py


@pytest.mark.parametrize(("layout", "name"), [("transformers", "resnet50"), ("openmmlab", "resnet18")])
def test_other_repositories_are_known_by_their_names(tmp_path, layout, name):
    ours = create_model(name, 7).state_dict()
    theirs = {rename(key, theirs_by_ours(layout)): value for key, value in ours.items()}
    torch.save({"state_dict": theirs, "meta": {}}, tmp_path / "theirs.pth")
    network, report = open_weights(tmp_path / "theirs.pth")
    assert (report.layout, report.model, report.counts) == (layout, name, {"loaded": len(ours), "ignored": 1})
    assert all(torch.equal(value, ours[key]) for key, value in network.state_dict().items())


def test_a_transformers_backbone_has_no_head(tmp_path):
    ours = create_model("resnet18", 7).state_dict()
    names = {key: rename(key, theirs_by_ours("transformers")) for key in ours if not key.startswith("fc.")}
    torch.save({name.removeprefix("resnet."): ours[key] for key, name in names.items()}, tmp_path / "pytorch_model.bin")
    _, report = open_weights(tmp_path / "pytorch_model.bin", num_classes=4, adapt_head=True)
    assert (report.layout, report.counts["kept"]) == ("transformers", 2)


@pytest.mark.parametrize(
    ("layout", "name", "renamed"),
    [
        ("kuangliu", "resnet20", [("fc.", "linear."), ("downsample", "shortcut")]),  # akamaster's option B
        ("reslab", "resnet56", []),  # chenyaofo's
    ],
)
def test_option_b_of_the_cifar_repositories(tmp_path, layout, name, renamed):
    state = create_model(name, shortcut="projection", num_classes=100).state_dict()
    for old, new in renamed:
        state = {key.replace(old, new): value for key, value in state.items()}
    safetensors.torch.save_file(state, tmp_path / "b.safetensors")
    network, report = open_weights(tmp_path / "b.safetensors")
    assert (report.layout, report.model) == (layout, f"{name} with shortcut='projection'")
    assert network.fc.out_features == 100
