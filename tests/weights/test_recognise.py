"""Networks are recognised from names and shapes alone; what these can't tell is assumed, and said."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reslab.errors import RequestError
from reslab.models.architecture import Architecture
from reslab.models.catalog import MODELS, create_model
from reslab.weights.files import WeightsFile
from reslab.weights.identify import identify, identify_as
from reslab.weights.load import fit
from reslab.weights.names import Recognition, differences, name_of
from reslab.weights.recognise import recognise
from reslab.weights.shapes import signature

SAME_KEYS = {
    # these have the keys and shapes of another network of the catalog, which is taken, and the choice is said
    **{f"plain{depth}": f"resnet{depth}" for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}_v1": f"resnet{depth}" for depth in (50, 101, 152)},
    **{f"{name}_cifar": name for name in ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")},
}
LARGE = {"resnet1202", "resnet1001", "preresnet1001"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in MODELS])
def test_the_catalog_is_recognised(name):
    with torch.device("meta"):
        state = create_model(name, 7, in_channels=4).state_dict()
    found = recognise(state)
    assert (found.name, found.changes) == (SAME_KEYS.get(name, name), {})
    assert (found.num_classes, found.in_channels) == (7, 4)
    assert bool(found.assumptions) or name not in SAME_KEYS
    if found.architecture:
        assert set(signature(found.architecture)) == set(state)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
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
    ],
)
def test_a_changed_network_is_named_by_its_change(name, changes):
    with torch.device("meta"):
        found = recognise(create_model(name, **changes).state_dict())
    assert (found.name, found.changes) == (name, changes)


def test_a_depth_that_goes_by_number():
    with torch.device("meta"):
        assert recognise(create_model("resnet26").state_dict()).name == "resnet26"
        assert recognise(create_model("preresnet14").state_dict()).name == "preresnet14"


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
    found = recognise(create_model(odd).state_dict())
    assert (found.name, found.architecture, found.title) == ("", odd, "a network without a name")
    assert found.call.startswith("create_model(Architecture(block='basic', num_blocks=(1, 3)")
    assert found.build().architecture == odd


def test_assumptions_are_said():
    with torch.device("meta"):
        states = {
            name: create_model(name).state_dict() for name in ("resnet20", "resnet18", "resnet50", "preresnet50_bit")
        }
    said = {name: " ".join(recognise(state).assumptions) for name, state in states.items()}
    assert said["resnet18"] == ""
    assert "no projections, so shortcut='zero_pad'" in said["resnet20"]
    assert "'zero_pad_both' (option A) and 'none' (a plain network) have the same keys" in said["resnet20"]
    assert "stride_on='3x3'" in said["resnet50"]
    assert "group norms, of 32 groups" in said["preresnet50_bit"]
    assert "it is preresnet50_bit, which the catalog has: one with stem='imagenet'" in said["preresnet50_bit"]


def test_what_the_layout_implies_is_not_assumed():
    with torch.device("meta"):
        found = recognise(create_model("resnet20").state_dict(), {"shortcut": "zero_pad_both"})
    assert (found.changes, found.assumptions) == ({"shortcut": "zero_pad_both"}, ())
    assert found.call == "create_model('resnet20', num_classes=10, shortcut='zero_pad_both')"


def test_weights_without_a_head():
    state = create_model("resnet20").state_dict()
    found = recognise({key: value for key, value in state.items() if not key.startswith("fc.")})
    assert (found.name, found.num_classes) == ("resnet20", 0)
    assert found.call == "create_model('resnet20')"
    assert found.build(4).fc.out_features == 4
    with pytest.raises(RequestError, match=r"resnet20 without its head. Say how many classes .*--num-classes K"):
        found.build()


def without(state, *patterns):
    return {key: value for key, value in state.items() if not any(pattern in key for pattern in patterns)}


def strange(kind: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        state = create_model("resnet20").state_dict()
    match kind:
        case "no block":
            return without(state, "layer2.1.")
        case "no stage":
            return without(state, "layer2.")
        case "no stem":
            return {key: value for key, value in state.items() if key != "conv1.weight"}
        case "no norm":
            return without(state, "layer3.2.bn2")
        case "more":
            return {**state, "layer1.0.extra.weight": torch.ones(1)}
        case "stem of 5":
            return {**state, "conv1.weight": torch.ones(16, 3, 5, 5)}
        case "other shape":
            return {**state, "layer2.1.conv1.weight": torch.ones(32, 31, 3, 3)}
        case _:
            return {"a": torch.ones(1), "b": torch.ones(2), "c": torch.ones(3), "d": torch.ones(4)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no block", "no block layer2.1, but later ones"),
        ("no stage", "no block layer2.0, but later ones"),
        ("no stem", "no conv1.weight"),
        ("no norm", r"3-3-3 basic blocks, but of none of ours: it lacks layer3.2.bn2.bias, .* and 1 more"),
        ("more", "it has besides layer1.0.extra.weight"),
        ("stem of 5", "kernel of its stem has side 5"),
        ("other shape", r"of another shape are layer2.1.conv1.weight \(32, 31, 3, 3\) instead of \(32, 32, 3, 3\)"),
        ("nothing", r"no layout that reslab knows \(a, b, c and 1 more\)"),
    ],
)
def test_what_is_no_network_of_ours_is_refused_with_the_keys_that_stand_in_the_way(kind, message):
    with pytest.raises(RequestError, match=message):
        recognise(strange(kind))


def test_names_and_differences():
    resnet20, plain20 = MODELS["resnet20"], MODELS["plain20"]
    assert isinstance(resnet20, Architecture)
    assert isinstance(plain20, Architecture)
    assert differences(plain20, resnet20) == {"shortcut": "none"}
    assert name_of(plain20) == ("plain20", {})
    assert (
        Recognition("resnet50", {}, None, 1000, 1).call == "create_model('resnet50', num_classes=1000, in_channels=1)"
    )


def metas() -> dict[str, dict[str, torch.Tensor]]:
    names = ("resnet20", "resnet50d", "preresnet50", "nf_resnet20", "seresnet20", "fixup_resnet20")
    with torch.device("meta"):
        return {name: dict(create_model(name).state_dict()) for name in names}


META = metas()


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
        identify_as(file, name)
    with contextlib.suppress(RequestError), torch.device("meta"):
        fit(create_model("resnet8"), file, num_classes="adapt")
