"""Networks are recognised from names and shapes alone; what these can't tell is assumed, and said."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reslab.errors import RequestError
from reslab.models.architecture import Architecture, change
from reslab.models.catalog import MODELS, create_model
from reslab.weights._files import WeightsFile, shapes_of
from reslab.weights._recognise import Recognition, identify
from reslab.weights._recognise import recognise as recognise_shapes
from reslab.weights.load import load_file

SAME_KEYS = {
    # these have the keys and shapes of another network of the catalog, which is taken, and the choice is said
    **{f"plain{depth}": f"resnet{depth}" for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}_v1": f"resnet{depth}" for depth in (50, 101, 152)},
    **{f"{name}_cifar": name for name in ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")},
}
LARGE = {"resnet1202", "resnet1001", "preresnet1001"}


def meta_state(network, *arguments, **changes) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(create_model(network, *arguments, **changes).state_dict())


def recognise(state, **implied) -> Recognition:
    return recognise_shapes(shapes_of(state), implied)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in MODELS])
def test_the_catalog_is_recognised(name):
    state = meta_state(name, 7, in_channels=4)
    found = recognise(state)
    assert found.nearest == (SAME_KEYS.get(name, name), {})
    assert (found.num_classes, found.in_channels) == (7, 4)
    assert bool(found.assumptions) or name not in SAME_KEYS
    assert meta_state(found.network).keys() == state.keys()


CHANGED = [
    ("resnet20", {"shortcut": "projection"}),
    ("resnet20", {"shortcut": "projection_all"}),
    ("resnet56", {"norm": "group"}),
    ("resnet20", {"connection": "rezero"}),
    ("resnet20", {"connection": "layer_scale"}),
    ("resnet20", {"connection": "exclusive_gate"}),
    ("resnet56", {"ndim": 1}),
    ("resnet20", {"ndim": 3}),
    ("resnet50", {"stem": "deep_tiered"}),
    ("preresnet20", {"attention": "se"}),
    ("resnet20", {"conv_bias": "all"}),
    ("resnet26", {}),  # depths that the catalog doesn't list
    ("preresnet14", {}),
]


@pytest.mark.parametrize(("name", "changes"), CHANGED)
def test_a_changed_network_is_named_by_its_change(name, changes):
    assert recognise(meta_state(name, **changes)).nearest == (name, changes)


def test_a_network_without_a_name_is_built_from_its_architecture():
    odd = Architecture(
        block="basic",
        num_blocks=(1, 3),
        widths=(24, 40),
        stem="small",
        stem_width=12,
        shortcut="projection_pool",
        num_classes=5,
    )
    found = recognise(meta_state(odd))
    assert (found.nearest, found.network, found.title) == (("", {}), odd, "a network without a name")
    assert found.call.startswith("create_model(Architecture(block='basic', num_blocks=(1, 3)")
    assert found.build().architecture == odd


def test_assumptions_are_said():
    names = ("resnet20", "resnet18", "resnet50", "preresnet50_bit")
    said = {name: " ".join(recognise(meta_state(name)).assumptions) for name in names}
    assert said["resnet18"] == ""
    assert "no projections, so shortcut='zero_pad'" in said["resnet20"]
    assert "'zero_pad_both' (option A) and 'none' (a plain network) have the same keys" in said["resnet20"]
    assert "stride_on='3x3'" in said["resnet50"]
    assert "group norms, of 32 groups" in said["preresnet50_bit"]
    assert "it is preresnet50_bit, which the catalog has: one with stem='imagenet'" in said["preresnet50_bit"]


def test_what_the_layout_implies_is_not_assumed():
    found = recognise(meta_state("resnet20"), shortcut="zero_pad_both")
    assert (found.nearest[1], found.assumptions) == ({"shortcut": "zero_pad_both"}, ())
    assert found.call == "create_model('resnet20', num_classes=10, shortcut='zero_pad_both')"


def test_weights_without_a_head():
    found = recognise({key: value for key, value in meta_state("resnet20").items() if not key.startswith("fc.")})
    assert (found.nearest, found.num_classes, found.call) == (("resnet20", {}), 0, "create_model('resnet20')")
    assert found.build(4).fc.out_features == 4
    with pytest.raises(RequestError, match=r"resnet20 without its head. Say how many classes .*--num-classes K"):
        found.build()


STRANGE = {
    # what resnet20 lacks, what it has instead, and the message
    "no block": ("layer2.1.", {}, "no block layer2.1, but later ones"),
    "no stage": ("layer2.", {}, "no block layer2.0, but later ones"),
    "no stem": ("conv1.weight", {}, "no conv1.weight"),
    "no norm": ("layer3.2.bn2", {}, r"3-3-3 basic blocks, but .*: 4 missing keys \(layer3.2.bn2.weight, .* and 1 more"),
    "more": ("-", {"layer1.0.extra.weight": (1,)}, r"1 unexpected key \(layer1.0.extra.weight"),
    "stem of 5": ("-", {"conv1.weight": (16, 3, 5, 5)}, "kernel of its stem has side 5"),
    "other shape": (
        "-", {"layer2.1.conv1.weight": (32, 31, 3, 3)}, r"layer2.1.conv1.weight \(32, 31, 3, 3\) instead of \(32, 32,"
    ),
    "nothing": ("", {"a": (1,), "b": (2,), "c": (3,), "d": (4,)}, r"no layout that reslab knows \(a, b, c and 1 more"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
def test_other_networks_are_refused_with_the_keys_in_the_way(kind):
    lacking, instead, message = STRANGE[kind]
    shapes = {k: shape for k, shape in shapes_of(meta_state("resnet20")).items() if not k.startswith(lacking)}
    with pytest.raises(RequestError, match=message):
        recognise_shapes({**shapes, **instead}, {})


def test_names_and_calls():
    assert Recognition(MODELS["plain20"], 10, 3).nearest == ("plain20", {})
    assert Recognition(MODELS["resnet50"], 1000, 1).call == "create_model('resnet50', num_classes=1000, in_channels=1)"
    changed = Recognition(change(MODELS["resnet20"], shortcut="zero_pad_both"), 10, 3)
    assert changed.title == "resnet20 with shortcut='zero_pad_both'"


META = {
    name: meta_state(name)
    for name in ("resnet20", "resnet50d", "preresnet50", "nf_resnet20", "seresnet20", "fixup_resnet20")
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_keys_and_shapes_never_end_in_another_error(data):
    """Keys taken away, renamed or given another shape: a network of ours, or a sentence."""
    name = data.draw(st.sampled_from(sorted(META)))
    state = dict(META[name])
    for _ in range(data.draw(st.integers(1, 4))):
        key = data.draw(st.sampled_from(sorted(state)))
        match data.draw(st.sampled_from(["drop", "rename", "reshape", "add"])):
            case "drop":
                del state[key]
            case "rename":
                new = data.draw(st.sampled_from([f"{key}.x", "layer9.0.conv1.weight", "conv1.weight", "norm.weight"]))
                state[new] = state.pop(key)
            case "reshape":
                shape = data.draw(st.lists(st.integers(0, 70), max_size=5))
                state[key] = torch.empty(shape, device="meta")
            case _:
                new = data.draw(st.sampled_from(["layer1.0.junction.scale", "fc.weight", "layer1.7.conv1.weight"]))
                state[new] = state[key]
    file = WeightsFile(Path("a.pt"), "torch", state)
    with contextlib.suppress(RequestError):
        identify(file).build()
    with contextlib.suppress(RequestError):
        identify(file, name)
    with contextlib.suppress(RequestError), torch.device("meta"):
        load_file(create_model("resnet8"), file, adapt_head=True, adapt_channels=True)
