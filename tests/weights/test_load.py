"""Every key or none: what is loaded, what is made to fit, what is refused, and what is said about it."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
import torchvision
from their_networks import images, save, scramble
from torch import nn

import reslab
from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.weights import open_weights
from reslab.weights.load import load_weights
from reslab.weights.report import KeyResult, LoadReport


def fresh(name="resnet8", seed=9, **changes):
    torch.manual_seed(seed)
    return create_model(name, **changes)


def state_of(name="resnet8", **changes):
    return fresh(name, seed=1, **changes).state_dict()


def copy_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model, before) -> bool:
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def refuses(model, path, match, **options):
    """The load ends in a RequestError and changes nothing."""
    before = copy_of(model)
    with pytest.raises(RequestError, match=match):
        load_weights(model, path, **options)
    assert unchanged(model, before)


@pytest.fixture
def file(tmp_path):
    """resnet8, its own names."""
    return save(tmp_path / "resnet8.safetensors", scramble(fresh(seed=1)).state_dict())


def test_every_key_is_loaded_and_listed(file):
    assert reslab.load_weights is load_weights
    model, expected = fresh(), safetensors.torch.load_file(file)
    report = load_weights(model, str(file))
    assert unchanged(model, expected)
    assert [(row.key, row.action) for row in report.rows] == [(key, "loaded") for key in model.state_dict()]
    assert report.counts == {"loaded": len(expected)}
    assert json.loads(json.dumps(report.to_dict()))["counts"] == {"loaded": len(expected)}
    assert str(report).splitlines()[0] == f"{file} (safetensors, layout reslab) -> resnet8: {len(expected)} loaded"
    assert "  layer1.0.* -> layer1.0.*" in str(report)


def test_any_network_with_the_same_names(tmp_path):
    theirs = scramble(torchvision.models.resnet18(weights=None))
    torch.save({"model": theirs.state_dict(), "epoch": 1}, tmp_path / "checkpoint.pth")
    other = torchvision.models.resnet18(weights=None).eval()
    report = load_weights(other, tmp_path / "checkpoint.pth")
    assert torch.equal(other(images(32, dtype=torch.float32)), theirs(images(32, dtype=torch.float32)))
    assert (report.model, report.rows[-1]) == ("ResNet", KeyResult("epoch", "", "ignored", "1"))
    small = nn.Sequential(nn.Linear(3, 2))
    load_weights(small, save(tmp_path / "a.safetensors", {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2)}))
    assert small(torch.ones(1, 3)).tolist() == [[4.0, 4.0]]


class Lightning(nn.Module):
    """A network in a module, as Lightning has it."""

    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("stored", ["", "module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel, torch.compile, Lightning])
def test_prefixes_of_file_and_network_need_not_agree(tmp_path, stored, wrap):
    state = state_of()
    path = save(tmp_path / "a.safetensors", {stored + key: value for key, value in state.items()})
    model = wrap(fresh())
    report = load_weights(model, path)
    values = list(model.state_dict().values())
    assert all(torch.equal(value, other) for value, other in zip(values, state.values(), strict=True))
    assert {row.key for row in report.rows} == {stored + key for key in state}


class Own(nn.Module):
    """A module whose own names begin like a wrapper's, but not all of them; its first tensor is no convolution."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4, 2))
        self.model = nn.Linear(2, 2)


def test_names_that_fit_as_they_are_are_left_alone(tmp_path):
    state = copy_of(Own())
    assert load_weights(Own(), save(tmp_path / "own.safetensors", state)).counts == {"loaded": 3}
    part = {key: value for key, value in state.items() if key.startswith("model.")}
    path = save(tmp_path / "part.safetensors", part)
    refuses(Own(), path, r"2 of the network's 3 keys fit; 1 missing key \(position\)")
    path = save(tmp_path / "longer.safetensors", state | {"position": torch.zeros(1, 2, 2)})
    refuses(Own(), path, r"position \(1, 2, 2\) instead of \(1, 4, 2\)")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_another_width_are_made_the_networks(tmp_path, dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state_of().items()}
    model = fresh()
    report = load_weights(model, save(tmp_path / "half.safetensors", state))
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, state["conv1.weight"].float())
    assert f"{dtype} made float32".removeprefix("torch.") in {row.note for row in report.rows}


def test_counts_of_batches_that_old_files_lack_are_filled(tmp_path):
    state = {key: value for key, value in state_of().items() if "num_batches" not in key}
    model = fresh()
    model.bn1.num_batches_tracked += 5
    report = load_weights(model, save(tmp_path / "old.safetensors", state))
    assert report.counts == {"loaded": len(state), "filled": 7}
    assert model.bn1.num_batches_tracked == 0
    assert "*.num_batches_tracked" in str(report)


# ---- other images


@pytest.mark.parametrize("changes", [{}, {"stem": "deep"}])
def test_a_grey_image_gives_what_three_equal_channels_gave(tmp_path, changes):
    theirs = scramble(fresh(seed=1, **changes)).double()
    ours = fresh(in_channels=1, **changes)
    report = load_weights(ours.double().eval(), save(tmp_path / "rgb.safetensors", theirs.state_dict()))
    grey = images(32, channels=1)
    torch.testing.assert_close(ours(grey), theirs(grey.expand(-1, 3, -1, -1)), rtol=1e-10, atol=1e-10)
    assert [row.note for row in report.rows if row.action == "adapted"] == ["3 channels summed to 1"]


@pytest.mark.parametrize(("before", "after"), [(3, 4), (3, 5), (3, 2), (1, 3), (3, 12)])
def test_repeated_channels_keep_the_scale(tmp_path, before, after):
    theirs, ours = fresh(seed=1, in_channels=before), fresh(in_channels=after)
    load_weights(ours, save(tmp_path / "a.safetensors", theirs.state_dict()))
    old, new = theirs.conv1.weight, ours.conv1.weight
    torch.testing.assert_close(new[:, 0], old[:, 0] * before / after)
    torch.testing.assert_close(new[:, -1], old[:, (after - 1) % before] * before / after)
    if after % before == 0:  # equal channels then give what they gave
        torch.testing.assert_close(new.sum(dim=1), old.sum(dim=1))


def test_a_standardised_stem_is_adapted_with_a_warning(tmp_path):
    report = load_weights(fresh("nf_resnet20", in_channels=1), save(tmp_path / "a.st", state_of("nf_resnet20")))
    assert any("standardises the result, so activations are not the same" in row.note for row in report.rows)


def test_strict_channels_refuse(file):
    refuses(
        fresh(in_channels=1), file, r"conv1.weight \(16, 3, 3, 3\) instead of \(16, 1, 3, 3\)", in_channels="strict"
    )


# ---- other classes


def test_a_head_for_other_classes_is_refused_until_asked_for(file):
    model = fresh(num_classes=7)
    refuses(model, file, r"fits except for the head: .*fc.weight \(10, 64\) instead of \(7, 64\).*--adapt-head")
    before = copy_of(model)
    report = load_weights(model, file, num_classes="adapt")
    assert torch.equal(model.fc.weight, before["fc.weight"])
    assert torch.equal(model.conv1.weight, safetensors.torch.load_file(file)["conv1.weight"])
    assert [(row.name, row.note) for row in report.rows if row.action == "kept"] == [
        ("fc.weight", "(10, 64) in the file, (7, 64) here"),
        ("fc.bias", "(10,) in the file, (7,) here"),
    ]


@pytest.mark.parametrize("lacking", [("fc.weight", "fc.bias"), ("fc.bias",)])
def test_a_head_that_lacks_a_part_is_no_head(tmp_path, lacking):
    state = {key: value for key, value in state_of().items() if key not in lacking}
    path, model = save(tmp_path / "headless.safetensors", state), fresh()
    refuses(model, path, r"fits except for the head: \d missing keys? \(fc")
    before = copy_of(model)
    assert load_weights(model, path, num_classes="adapt").counts["kept"] == 2
    assert torch.equal(model.fc.weight, before["fc.weight"])


def test_a_network_is_opened_without_its_head(tmp_path):
    path = save(tmp_path / "a.st", {key: value for key, value in state_of().items() if not key.startswith("fc.")})
    with pytest.raises(RequestError, match="Say how many classes"):
        open_weights(path)
    with pytest.raises(RequestError, match="fits except for the head"):
        open_weights(path, num_classes=4)
    assert open_weights(path, num_classes=4, adapt_head=True)[0].fc.out_features == 4


def test_a_head_that_is_a_convolution(tmp_path):
    state, model = state_of(), fresh()
    path = save(tmp_path / "conv.safetensors", state | {"fc.weight": state["fc.weight"][:, :, None, None]})
    report = load_weights(model, path)
    assert torch.equal(model.fc.weight, state["fc.weight"])
    assert [row.note for row in report.rows if row.action == "adapted"] == ["(10, 64, 1, 1) made (10, 64)"]


def test_a_network_without_a_head(file):
    model = fresh()
    model.reset_classifier(0)
    refuses(model, file, r"2 unexpected keys \(fc.bias, fc.weight\)")
    report = load_weights(model, file, num_classes="adapt")
    assert [row.key for row in report.rows if row.action == "ignored"] == ["fc.bias", "fc.weight"]


def test_the_same_classes_are_loaded_though_others_were_allowed(file):
    model = fresh()
    assert "kept" not in load_weights(model, file, num_classes="adapt").counts
    assert torch.equal(model.fc.weight, safetensors.torch.load_file(file)["fc.weight"])


def test_wrong_words_for_fitting(file):
    with pytest.raises(RequestError, match="num_classes is 'strict' or 'adapt', got 'loose'"):
        load_weights(fresh(), file, num_classes="loose")


# ---- the wrong network


def akamaster(tmp_path):
    state = state_of(shortcut="zero_pad_both")
    return save(tmp_path / "aka.safetensors", {key.replace("fc.", "linear."): value for key, value in state.items()})


@pytest.mark.parametrize(
    ("stored", "changes", "name", "message"),
    [
        (
            "resnet14",
            {},
            "resnet8",
            r"44 of the network's 44 keys fit; 30 unexpected keys .*holds resnet14: reslab.crea",
        ),
        ("resnet8", {}, "resnet14", r"30 missing keys \(layer1.1.conv1.weight.*The file holds resnet8"),
        ("wide_resnet16_4", {}, "resnet20", r"of another shape.*The file holds wide_resnet16_4"),
        ("resnet8", {"shortcut": "projection"}, "resnet8", r"downsample.*shortcut='projection'\) builds"),
    ],
)
def test_the_wrong_network_is_refused_and_the_right_one_named(tmp_path, stored, changes, name, message):
    refuses(fresh(name), save(tmp_path / "a.safetensors", state_of(stored, **changes)), message)


def test_a_file_of_no_network_of_ours_says_so(tmp_path):
    path = save(tmp_path / "a.safetensors", torchvision.models.squeezenet1_0(weights=None).state_dict())
    refuses(fresh(), path, r"0 of the network's 44 keys fit.*not of a network of ours.*no layout that reslab knows")


def test_option_a_in_a_network_with_projections(tmp_path):
    right = r"create_model\('resnet8', num_classes=10, shortcut='zero_pad_both'\)"
    refuses(fresh(shortcut="projection"), akamaster(tmp_path), rf"has projections \(option B\), the file.*{right}")


@pytest.mark.parametrize("name", ["resnet8", "plain8"])
def test_weights_that_fit_but_belong_to_another_function(tmp_path, name):
    path = akamaster(tmp_path)
    refuses(fresh(name), path, r"every key fits, but .*zero_pad_both'.*half before and half after.*Build the")
    load_weights(fresh(shortcut="zero_pad_both"), path)


# ---- cards


def test_a_card_says_what_keys_cant(tmp_path):
    path = save(tmp_path / "a.safetensors", state_of("plain8"))
    assert open_weights(path)[1].model == "resnet8"
    card = {"model": {"name": "plain8", "shortcut": "auto", "dropout": 0.0}, "num_classes": 10}
    path.with_suffix(".json").write_text(json.dumps(card))
    network, report = open_weights(path)
    assert (report.model, report.assumptions, network.architecture.shortcut) == ("plain8", [], "none")
    refuses(fresh("resnet8"), path, r"weights are for shortcut='none'.*\(the file's card says so\)")


def test_a_card_is_believed_where_keys_alone_say_nothing(tmp_path):
    network = fresh("resnet8", order="relu_only", connection="depth_scale")
    path = save(tmp_path / "a.safetensors", network.state_dict())
    card = {"model": {"name": "resnet8", "order": "relu_only", "connection": "depth_scale"}, "num_classes": 10}
    path.with_suffix(".json").write_text(json.dumps(card))
    found, report = open_weights(path)
    assert found.architecture == network.architecture
    assert report.model == "resnet8 with order='relu_only' and connection='depth_scale'"


@pytest.mark.parametrize(
    "text", ["{ torn", "[1]", "{}", '{"model": {"name": "resnet999"}}', '{"model": {"name": "resnet56"}}']
)
def test_a_card_of_something_else_is_no_card(file, text):
    file.with_suffix(".json").write_text(text)
    assert open_weights(file)[1].model == "resnet8"
    load_weights(fresh(), file)


# ---- a model that is named


def test_a_model_that_is_named_is_taken(tmp_path):
    path = save(tmp_path / "plain.safetensors", state_of("plain8", num_classes=4, in_channels=1))
    network, report = open_weights(path, "plain8")
    assert (network.architecture.shortcut, network.fc.out_features, network.conv1.in_channels) == ("none", 4, 1)
    assert report.model == "plain8"
    network, _ = open_weights(path, create_model("resnet8", connection="depth_scale").architecture)
    assert network.architecture.connection == "depth_scale"
    with pytest.raises(RequestError, match="doesn't fit: 44 of the network's 80 keys fit"):
        open_weights(path, "resnet14")
    with pytest.raises(RequestError, match=r"^Unknown model 'resnet9'"):
        open_weights(path, "resnet9")


def test_the_layouts_choices_are_kept_for_a_model_that_is_named(tmp_path):
    network, report = open_weights(akamaster(tmp_path), "resnet8")
    assert network.architecture.shortcut == "zero_pad_both"
    assert report.model == "resnet8 with shortcut='zero_pad_both'"
    assert "half before and half after" in report.assumptions[0]


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11_bn_cifar"])
def test_baselines_are_opened_too(tmp_path, name):
    path = save(tmp_path / "a.safetensors", create_model(name, 5).state_dict())
    for model in (None, name):
        network, report = open_weights(path, model)
        assert (report.model, type(network)) == (name, type(create_model(name)))


# ---- the report


def test_a_report_is_folded_by_part_and_by_reason():
    rows = [
        KeyResult("conv1.weight", "conv1.weight", "loaded"),
        KeyResult("layer1.0.bn1.bias", "layer1.0.bn1.bias", "loaded"),
        KeyResult("layer2.0.bn1.running_var", "layer2.0.bn1.running_var", "adapted", "x"),
        KeyResult("layer1.0.bn1.weight", "layer1.0.bn1.weight", "loaded"),
        KeyResult("layer1.1.bn2.running_var", "layer1.1.bn2.running_var", "adapted", "x"),
        KeyResult("epoch", "", "ignored", "3"),
    ]
    report = LoadReport("a.pt", "torch", "reslab", "net", "state_dict", "module.", rows, ["b"], ["c"])
    assert [(row.key, row.name, row.action, row.note, count) for row, count in report.groups()] == [
        ("conv1.weight", "conv1.weight", "loaded", "", 1),
        ("layer1.0.bn1.*", "layer1.0.bn1.*", "loaded", "", 2),
        ("*.running_var", "*.running_var", "adapted", "x", 2),
        ("epoch", "", "ignored", "3", 1),
    ]
    lines = str(report).splitlines()
    assert lines[0] == (
        "a.pt (torch, layout reslab, entry state_dict, prefix module.) -> net: 3 loaded, 2 adapted, 1 ignored"
    )
    assert lines[-2:] == ["assumed: b", "note: c"]
