"""A trained network on disk: written whole or not at all, read as it was written, and damage is noticed and named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from their_networks import save

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.records.files import write_atomic
from reslab.weights import BundleCard, bundle, open_weights, read_bundle, write_bundle
from reslab.weights.bundle import digest, find_card, load_state
from reslab.weights.load import load_weights

PREPROCESS = {"height": 8, "width": 8, "channels": 1, "mean": [0.3], "std": [0.4], "resize": None}
CARD = BundleCard(
    model={"name": "plain8", "num_classes": 3, "in_channels": 1, "norm": "group"},
    task={"name": "classify"},
    classes=["a", "b", "c"],
    preprocess=PREPROCESS,
    provenance={"epoch": 7, "selected": "best", "score": {"name": "error", "value": float("inf")}},
)


def network(name="plain8", **changes):
    return create_model(name, **({"num_classes": 3, "in_channels": 1, "norm": "group"} | changes))


@pytest.fixture
def states():
    return network().state_dict(), network().state_dict()


@pytest.fixture
def folder(tmp_path, states):
    write_bundle(tmp_path / "runs" / "p", CARD, states[0], last=states[1])
    return tmp_path / "runs" / "p"


@pytest.fixture
def old_run(tmp_path, states):
    """What a run of stage 5 has left."""
    root = tmp_path / "old"
    root.mkdir()
    save(root / "weights.safetensors", states[0])
    save(root / "weights-last.safetensors", states[1])
    choices = {"shortcut": "auto", "norm": "group", "drop_path": 0.0, "zero_init_residual": False, "weights": ""}
    card = {"task": "classify", "model": {"name": "plain8", **choices}, "num_classes": 3, "classes": CARD.classes}
    card |= {"preprocess": PREPROCESS, "selected": "best", "epoch": 7}
    (root / "weights.json").write_text(json.dumps(card))
    return root


def is_state(found, state) -> bool:
    return found.keys() == state.keys() and all(torch.equal(value, state[key]) for key, value in found.items())


def change_card(folder, part, **changes):
    raw = json.loads((folder / "config.json").read_text())
    (raw[part] if part else raw).update(changes)
    (folder / "config.json").write_text(json.dumps(raw))


# ---- there and back


def test_a_bundle_comes_back(folder, states):
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "model-last.safetensors"}
    card, weights = read_bundle(folder)
    assert is_state(weights, states[0])
    assert card.digests == {name: digest(folder / name) for name in ("model.safetensors", "model-last.safetensors")}
    score = {"name": "error", "value": "Infinity"}
    assert card == replace(CARD, digests=card.digests, provenance=CARD.provenance | {"score": score})


def test_an_older_run_is_read(old_run, states):
    card, weights = read_bundle(old_run)
    assert is_state(weights, states[0])
    assert card == replace(CARD, provenance={"selected": "best", "epoch": 7})


@pytest.mark.parametrize("made", ["folder", "old_run"])
def test_folder_files_and_names_lead_to_the_same_weights(request, tmp_path, states, made):
    root = request.getfixturevalue(made)
    chosen, last = sorted(root.glob("*.safetensors"), key=lambda path: "last" in path.name)
    other = save(tmp_path / "other.safetensors", {"a": torch.ones(1)})
    for path in (root, str(root), chosen, last):
        card, found = read_bundle(path)
        assert card == read_bundle(root)[0]
        assert is_state(found, states[path == last])
        assert is_state(read_bundle(path, weights="best")[1], states[0])
        assert is_state(read_bundle(path, weights="last")[1], states[1])
        assert list(read_bundle(path, weights=str(other))[1]) == ["a"]
    # the card says what keys can't, to everything that reads weights
    assert open_weights(root)[1].model == "plain8 with norm='group'"
    with pytest.raises(RequestError, match=r"weights are for shortcut='none'.*card says so"):
        load_weights(network("resnet8"), root)


def test_weights_of_the_models_own_names_are_loaded(folder, states):
    model = network()
    load_state(model, read_bundle(folder)[1], where=str(folder))
    assert is_state(model.state_dict(), states[0])
    wider = network(num_classes=5)
    with pytest.raises(RequestError, match=r"p doesn't fit the network: 2 keys of another shape \(fc.weight \(3, 64\)"):
        load_state(wider, states[0], where=str(folder))
    with pytest.raises(RequestError, match=r"1 missing key \(fc.bias\); 1 unexpected key \(fc.bia\)"):
        load_state(model, {key.replace("fc.bias", "fc.bia"): states[0][key] for key in states[0]}, where=str(folder))


def test_the_card_is_written_last_and_files_whole_or_not_at_all(folder, states, monkeypatch):
    def fail(path, content):
        if path.name == "config.json":
            raise OSError("disk full")
        write_atomic(path, content)

    monkeypatch.setattr(bundle, "write_atomic", fail)
    fresh = folder.parent / "new"
    with pytest.raises(OSError, match="disk full"):
        write_bundle(fresh, CARD, states[0])
    assert [path.name for path in fresh.iterdir()] == ["model.safetensors"]
    with pytest.raises(RequestError, match=r"new contains no trained network: it has no config.json.*--resume"):
        read_bundle(fresh)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(folder, CARD, states[1])  # over another: the card of before doesn't pass for the new one's
    with pytest.raises(RequestError, match="SHA-256"):
        read_bundle(folder)


# ---- what is refused


def test_a_flipped_bit_is_noticed(folder, states):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    for path in (folder, folder / "model.safetensors"):
        with pytest.raises(
            RequestError, match=r"model.safetensors is damaged, .*SHA-256 begins with \w{8}, and config"
        ):
            read_bundle(path)
    assert is_state(read_bundle(folder, weights="last")[1], states[1])


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("model", {"num_classes": 2_000_000}, r"config.json: num_classes must be at most 1e\+06, got 2000000"),
        ("model", {"num_classes": "3"}, "num_classes takes a whole number, got '3'"),
        ("model", {"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ("model", {"widths": [64, 10**9]}, "widths must be at most 65536, got 1000000000"),
        ("model", {"name": None}, "not a card of reslab: it has no 'model' with a 'name'"),
        ("preprocess", {"height": 20_000}, "height must be at most 16384, got 20000"),
        ("preprocess", {"channels": 2000}, "channels must be at most 1024, got 2000"),
        ("preprocess", {"std": [0.0]}, "std must be at least 1e-30, got 0.0"),
        ("preprocess", {"std": [float("nan")]}, "std must be at most .* got nan"),
        ("preprocess", {"std": ["NaN"]}, "std takes a number, got 'NaN'"),
        ("preprocess", {"mean": [0.1, 0.2]}, "mean has 2 values, but channels is 1"),
        ("", {"classes": [1, 2, 3]}, "classes takes text, got 1"),
        ("", {"task": "classify"}, "task takes names with values, got 'classify'"),
        ("", {"format_version": 2}, "has format_version 2, expected 1. Update reslab"),
    ],
)
def test_a_card_out_of_range_is_refused(folder, part, changes, message):
    change_card(folder, part, **changes)
    (folder / "model.safetensors").write_bytes(b"")  # nothing of it is read before
    with pytest.raises(RequestError, match=message):
        read_bundle(folder)
    assert find_card(folder) is None


def test_a_wrong_card_is_not_even_written(tmp_path, states):
    with pytest.raises(RequestError, match=r"std must be at least .* got 0.0"):
        write_bundle(tmp_path / "b", replace(CARD, preprocess={**PREPROCESS, "std": [0.0]}), states[0])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("text", ["{ torn", "[" * 100_000, "[1]", "{}", '{"architectures": ["ResNet"]}', "\xff"])
def test_a_damaged_card_is_named(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(RequestError, match=r"config.json is (damaged|not a card of reslab)"):
        read_bundle(folder)


def test_what_is_absent_is_named(tmp_path, folder):
    alone = save(tmp_path / "alone.safetensors", {"a": torch.ones(1)})
    for path, weights, message in (
        (tmp_path / "gone", "", "No such run, bundle or weights file: .*gone"),
        (tmp_path, "", "contains no trained network"),
        (alone, "", r"alone.safetensors has no card: there is no alone.json beside it. `reslab convert"),
        (folder, "wurst", "No such weights file: wurst. Expected 'best', 'last', or the path"),
    ):
        with pytest.raises(RequestError, match=message):
            read_bundle(path, weights=weights)
    (folder / "model-last.safetensors").unlink()
    with pytest.raises(RequestError, match=r"No such weights file: .*model-last.safetensors"):
        read_bundle(folder, weights="last")
    assert safetensors.torch.load_file(alone)
