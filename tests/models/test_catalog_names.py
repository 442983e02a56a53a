"""Names: what create_model, list_models and twin_of accept, and what they say to the rest."""

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

import reslab.models
from reslab.errors import RequestError
from reslab.models.catalog import MODELS, create_model, depth_of, find_entry, list_models, twin_of
from reslab.models.families import cifar, cifar_bottleneck, imagenet, wide


def test_public_names_are_lazy():
    code = "import sys, reslab.models.architecture as a; a.change(a.Architecture(block='basic', num_blocks=(1,) * 4))"
    code += "; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert dir(reslab.models) == sorted(reslab.models.__all__)
    assert all(getattr(reslab.models, name) is not None for name in reslab.models.__all__)
    with pytest.raises(AttributeError, match="it has Architecture"):
        _ = reslab.models.make_model


def message_of(name, **options) -> str:
    with pytest.raises(RequestError) as caught:
        create_model(name, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("typed", "meant"), [("resnet18_smal", "resnet18_small"), ("ResNet56", "resnet56"), ("plane56", "plain56")]
)
def test_unknown_names_get_their_closest_match(typed, meant):
    message = message_of(typed)
    assert message.startswith(f"Unknown model {typed!r}.")
    assert repr(meant) in message
    assert "reslab models" in message


@pytest.mark.parametrize(
    "name",
    ["", "vgg", "resnet", "resnet-20", "resnet20 ", "resnet20x", "xresnet20", "resnet2²", "resnet050", "resnet0"],
)
def test_other_names_are_refused(name):
    assert repr(name) in message_of(name)


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [
        ("resnet21", "resnet20", "resnet26"),
        ("plain57", "plain56", "plain62"),
        ("resnet19", "resnet14", "resnet20"),
        ("resnet1203", "resnet1202", "resnet1208"),
        ("resnet2", "resnet8", "resnet14"),
        ("resnet51", "resnet44", "resnet56"),  # not resnet50, which is an ImageNet network
        ("resnet151", "resnet146", "resnet158"),
    ],
)
def test_a_depth_that_is_not_6n_plus_2_names_its_neighbours(name, below, above):
    message = message_of(name)
    assert "6n+2" in message
    assert f"'{below}' and '{above}'" in message
    for offer in (below, above):
        assert find_entry(offer).widths == (16, 32, 64)


@pytest.mark.parametrize("name", ["resnet21", "plain21", "plain51"])
def test_the_nearest_in_the_catalog_are_of_the_same_kind(name):
    prefix = name.rstrip("0123456789")
    offered = message_of(name).split("in the catalog ")[1].split(".")[0].split(" and ")
    assert len(offered) == 2
    assert all(offer.strip("'") in MODELS and offer.strip("'").startswith(prefix) for offer in offered)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        *(
            ("plain56", {"shortcut": kind}, [repr(kind), "'resnet56'"])
            for kind in ("zero_pad", "projection", "identity")
        ),
        *((name, {"shortcut": "projektion"}, ["'projektion'", "projection_all"]) for name in ("resnet20", "resnet50")),
        *((name, {"shortcut": "identity"}, ["equal dimensions"]) for name in ("resnet20", "resnet18", "resnet50")),
        *(("resnet20", {"num_classes": number}, [str(number)]) for number in (0, -1)),
        ("resnet20", {"in_channels": 0}, ["in_channels"]),
        *(("resnet20", {"dropout": rate}, [str(rate)]) for rate in (-0.1, 1.0, 2, float("nan"))),
        *((name, {"zero_init_residual": True}, ["silence"]) for name in ("plain20", "plain18")),
    ],
)
def test_impossible_choices_are_refused(name, options, words):
    message = message_of(name, **options)
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("family", "depth", "message"),
    [
        *((cifar, depth, f"Depth {depth} is not 6n") for depth in (2, 7, 0, -4, 21)),
        *((cifar_bottleneck, depth, f"Depth {depth} is not 9n") for depth in (2, 165)),
        *((partial(wide, factor=4), depth, f"Depth {depth} is not 6n") for depth in (4, 20, 29)),
        (imagenet, 20, "18, 34, 50, 101, 152, 200; got 20"),
    ],
)
def test_families_refuse_other_depths(family, depth, message):
    with pytest.raises(RequestError, match=message):
        family(depth)


def test_an_unknown_plain_name_is_unknown_before_its_shortcut_is_wrong():
    assert message_of("plain21", shortcut="zero_pad").startswith("Unknown model 'plain21'")


def test_a_plain_network_may_be_told_that_it_has_none():
    assert create_model("plain20", shortcut="none").architecture.shortcut == "none"


def test_list_models_follows_shell_patterns_in_the_catalogs_order():
    assert list_models() == list(MODELS)
    assert list_models("plain?6") == ["plain56"]
    assert list_models("*n50*") == ["plain50", "plain50_small"]
    assert list_models("*_small") == [name for name in MODELS if name.endswith("_small")]
    assert list_models("xresnet*") == []
    assert list_models("RESNET*") == []


@pytest.mark.parametrize("name", [*list_models("resnet*"), *list_models("plain*")])
def test_twin_of_is_its_own_inverse(name):
    assert twin_of(name) != name
    assert twin_of(twin_of(name)) == name
    assert depth_of(twin_of(name)) == depth_of(name)


@pytest.mark.parametrize("name", list_models("plain*"))
def test_every_plain_network_has_its_residual_twin_in_the_catalog(name):
    assert twin_of(name) in MODELS


@pytest.mark.parametrize(("name", "num_blocks"), [("resnet38", 6), ("plain26", 4), ("resnet8", 1), ("plain38", 6)])
def test_any_cifar_depth_goes_by_number(name, num_blocks):
    assert name not in MODELS
    net = create_model(name)
    assert net.architecture.num_blocks == (num_blocks,) * 3
    assert net.architecture.shortcut == ("none" if name.startswith("plain") else "zero_pad")
    assert net.fc.out_features == 10


@pytest.mark.parametrize(("name", "classes"), [("resnet20", 10), ("resnet18", 1000), ("resnet18_small", 1000)])
def test_classes_default_to_the_families(name, classes):
    with torch.device("meta"):
        assert create_model(name).fc.out_features == classes
        assert create_model(name, num_classes=3).fc.out_features == 3
        assert create_model(name, 4).fc.out_features == 4


def test_a_builder_is_as_good_as_a_name():
    seen = {}

    def build(*, num_classes, in_channels):
        seen.update(num_classes=num_classes, in_channels=in_channels)
        return nn.Linear(in_channels, num_classes)

    net = create_model(build, 4, in_channels=2)
    assert isinstance(net, nn.Linear)
    assert seen == {"num_classes": 4, "in_channels": 2}


@pytest.mark.parametrize("options", [{"shortcut": "projection"}, {"zero_init_residual": True}, {"dropout": 0.5}])
def test_a_builder_takes_no_options_of_ours(options):
    def build(*, num_classes=10, in_channels=3):
        return nn.Linear(in_channels, num_classes)

    message = message_of(build, **options)
    assert message.startswith(f"Unknown choice of build {next(iter(options))!r}")


def test_building_leaves_the_catalog_alone():
    before = copy.copy(MODELS)
    create_model("resnet20", shortcut="projection", dropout=0.1)
    assert before == MODELS
    assert create_model("resnet20").architecture.shortcut == "zero_pad"
