"""Weights files of any kind are read as tensors by name, whatever is around them; anything else is refused in words."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from their_networks import save
from torch import nn

from reslab.errors import RequestError
from reslab.weights._files import EMA_WRAPPERS, PREFIXES, WRAPPERS, read_weights

STATE = {"conv1.weight": torch.ones(4, 3, 3, 3), "bn1.running_mean": torch.arange(4.0), "fc.bias": torch.tensor([2.0])}
OLD = {"_use_new_zipfile_serialization": False}  # torch's format before 1.6


def is_state(found, state=STATE) -> bool:
    return list(found) == list(state) and all(torch.equal(found[key], value) for key, value in state.items())


def saved(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".pth.tar", ".bin", ".safetensors", ""])
@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "before 1.6"])
def test_content_counts_and_not_the_suffix(tmp_path, suffix, options):
    path = saved(tmp_path / f"weights{suffix}", {key: nn.Parameter(value) for key, value in STATE.items()}, **options)
    found = read_weights(str(path))
    assert (found.kind, is_state(found.tensors)) == ("torch", True)
    assert not any(value.requires_grad or value.is_cuda for value in found.tensors.values())
    found = read_weights(save(path, STATE))
    assert (found.kind, found.tensors.keys()) == ("safetensors", STATE.keys())


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_a_folder_stands_for_its_weights(tmp_path, name):
    assert read_weights(save(tmp_path / name, STATE).parent).path == tmp_path / name


# ---- what is around the tensors


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "my_weights"])
def test_other_entries_are_ignored_and_listed(tmp_path, wrapper):
    optimiser = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    content = {"epoch": 3, "optimizer": optimiser.state_dict(), "args": argparse.Namespace(lr=0.1), wrapper: STATE}
    found = read_weights(saved(tmp_path / "a.pth", content))
    assert (found.entry, is_state(found.tensors)) == (wrapper, True)
    assert found.ignored == {"epoch": "3", "optimizer": "dict of 2", "args": "Namespace"}
    found = read_weights(saved(tmp_path / "a.pth", content | {"best_acc1": torch.tensor(76.1)}))
    assert found.entry == ("" if wrapper == "my_weights" else wrapper)  # a bare tensor beside an unknown entry


def test_a_non_tensor_among_tensors_is_ignored(tmp_path):
    content = OrderedDict(**{"fc.bias": STATE["fc.bias"]}, epoch=3, name="x", **{"none": None})
    found = read_weights(saved(tmp_path / "a.pt", content))
    assert list(found.tensors) == ["fc.bias"]
    assert found.ignored == {"epoch": "3", "name": "'x'", "none": "None"}


@pytest.mark.parametrize("name", EMA_WRAPPERS)
@pytest.mark.parametrize("outer", [(), ("checkpoint",)])
def test_the_average_is_taken_on_request_or_if_alone(tmp_path, name, outer):
    average = {f"module.{key}": value + 1 for key, value in STATE.items()} | {"n_averaged": torch.tensor(7)}
    content = {"model": STATE, name: average}
    for key in outer:
        content = {key: content}
    path = saved(tmp_path / "a.pt", content)
    assert is_state(read_weights(path).tensors)
    found = read_weights(path, ema=True)
    assert found.entry == ".".join([*outer, name])
    assert is_state(found.tensors, {key: value + 1 for key, value in STATE.items()})
    assert found.ignored["n_averaged"] == "how many weights were averaged"
    assert read_weights(saved(path, {name: STATE, "epoch": 1})).entry == name


def test_an_average_that_is_not_there_is_missed(tmp_path):
    with pytest.raises(RequestError, match=r"a.pt holds no moving average .*model.*epoch"):
        read_weights(saved(tmp_path / "a.pt", {"model": STATE, "epoch": 1}), ema=True)
    with pytest.raises(RequestError, match="one set of weights"):
        read_weights(save(tmp_path / "a.safetensors", STATE), ema=True)


@settings(max_examples=60, deadline=None)
@given(
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=4),
    wrappers=st.lists(st.sampled_from([*WRAPPERS, "anything"]), max_size=3),
    extra=st.dictionaries(st.sampled_from(["epoch", "lr", "notes"]), st.integers() | st.text(max_size=5), max_size=3),
)
def test_any_prefixes_in_any_wrappers_come_back(tmp_path_factory, prefixes, wrappers, extra):
    prefix = "".join(prefixes)
    content = {prefix + key: value for key, value in STATE.items()}
    for name in reversed(wrappers):
        content = {**extra, name: content}
    found = read_weights(saved(tmp_path_factory.mktemp("wrapped") / "a.pt", content))
    assert is_state(found.tensors)
    assert (found.prefix, found.entry) == (prefix, ".".join(wrappers))
    assert set(found.ignored) == (set(extra) if wrappers else set())


def test_a_prefix_that_not_all_keys_have_stays(tmp_path):
    found = read_weights(saved(tmp_path / "a.pt", {"module.fc.bias": torch.ones(1), "fc.weight": torch.ones(1)}))
    assert (list(found.tensors), found.prefix) == (["module.fc.bias", "fc.weight"], "")


# ---- what is refused


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"\x80\x02}.")
    return path


def half(path: Path) -> Path:
    return write(path, path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> Path:
    """One bit of a tensor's values."""
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(4.0).numpy().tobytes()) + 6] ^= 1
    return write(path, bytes(content))


def by(function, path: Path, *arguments) -> Path:
    function(path, *arguments)
    return path


REFUSED = {
    "absent": (lambda p: p / "no.pt", "No such weights file"),
    "folder": (lambda p: save(p / "best.safetensors", STATE).parent, r"is a folder. Name .* such as best.safetensors"),
    "empty": (lambda p: write(p / "a.pt", ""), "is empty"),
    "zeros": (lambda p: write(p / "a.pt", bytes(999)), "is filled with zeros"),
    "html": (lambda p: write(p / "a.pt", "\n<!DOCTYPE html><html>"), "is an HTML page"),
    "lfs": (lambda p: write(p / "a.pt", "version https://git-lfs.github.com/spec/v1\noid"), r"a Git LFS pointer"),
    "png": (lambda p: by(lambda path: Image.new("RGB", (8, 8)).save(path), p / "a.png"), "is a PNG image"),
    "jpeg": (lambda p: by(lambda path: Image.new("RGB", (8, 8)).save(path), p / "a.jpg"), "is a JPEG image"),
    "gzip": (lambda p: write(p / "a.pt", b"\x1f\x8b\x08\x00xx"), "gzip archive; unpack it"),
    "text": (lambda p: write(p / "a.pt", "hello\nthere"), "a text that begins with 'hello'"),
    "json": (lambda p: write(p / "a.safetensors.index.json", '{"weight_map": {}}'), "a JSON text.*several files"),
    "bytes": (lambda p: write(p / "a.pt", b"\xde\xad\xbe\xef" * 9), "no known kind.*de ad be ef"),
    "tar": (lambda p: write(p / "a.tar", b"a".ljust(257, b"\0") + b"ustar\0"), "a tar archive"),
    "npy": (lambda p: by(np.save, p / "a.npy", np.ones(3)), "a NumPy array"),
    "npz": (lambda p: by(np.savez, p / "a.npz", np.ones(3)), "NumPy archive"),
    "zip": (lambda p: archive(p / "a.zip", "photo.jpg"), r"a zip archive of other things \(photo.jpg\)"),
    "torchscript": (lambda p: archive(p / "a.pt", "a/data.pkl", "a/constants.pkl"), "TorchScript program"),
    "pickle": (lambda p: write(p / "a.pkl", pickle.dumps({"a": np.ones(2)})), "a bare pickle, and unpickling can run"),
    "class": (lambda p: saved(p / "a.pt", {"w": STATE, "x": Fraction(1)}), r"objects.*\(fractions.Fraction\).*save"),
    "old class": (lambda p: saved(p / "a.pt", {"w": STATE, "x": Fraction(1)}, **OLD), r"\(fractions.Fraction\)"),
    "module": (lambda p: saved(p / "a.pt", nn.Linear(2, 2)), r"torch.nn.modules.linear.Linear.*state_dict\(\)"),
    "function": (lambda p: saved(p / "a.pt", {"f": shutil.rmtree}), "shutil.rmtree"),
    "numpy": (lambda p: saved(p / "a.pt", {"w": STATE, "acc": np.float64(1)}), "numpy"),
    "tensor": (lambda p: saved(p / "a.pt", torch.ones(2)), "holds a Tensor, not tensors by name"),
    "list": (lambda p: saved(p / "a.pt", [STATE]), "holds a list, not"),
    "no tensors": (lambda p: saved(p / "a.pt", {"epoch": 3}), r"no tensors by name. Its entries are epoch \(3\)"),
    "two models": (
        lambda p: saved(p / "a.pt", {"student_net": STATE, "teacher_net": STATE}), r"entries are student_.*teacher_"
    ),
    "nothing": (lambda p: saved(p / "a.pt", {}), "Its entries are none"),
    "no safetensors": (lambda p: save(p / "a.safetensors", {}), "holds no tensors"),
    "half a zip": (lambda p: half(saved(p / "a.pt", STATE)), "cut off: it is a zip archive without its end"),
    "half an old file": (lambda p: half(saved(p / "a.pt", STATE, **OLD)), r"not a valid torch file .*cut off or damag"),
    "half a safetensors": (lambda p: half(save(p / "a.st", {"w": torch.ones(999)})), "not a valid safetensors .*cut"),
    "damaged zip": (lambda p: flipped(saved(p / "a.pt", STATE)), "damaged.*checksum"),
    "nan": (
        lambda p: save(p / "a.st", {"fine": torch.ones(2), "w": torch.tensor([1.0, float("nan"), float("inf")])}),
        "2 values that are not finite, in 1 of 2 tensors, the first 'w'",
    ),
    "sparse": (lambda p: saved(p / "a.pt", {"w": torch.ones(2, 2).to_sparse()}), "w is sparse"),
    "meta": (lambda p: saved(p / "a.pt", {"w": torch.ones(2, device="meta")}), "w is without values"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_in_words(tmp_path, reslab, case):
    make, message = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(RequestError, match=message):
        read_weights(path)
    answer = reslab("convert", path, "--out", tmp_path / "new.safetensors")
    assert answer.code == 2
    assert re.search(message, answer.err)
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "new.safetensors").exists()


def test_a_damaged_file_never_ends_in_another_error(tmp_path):
    """Every hundredth byte of a torch file of either format, changed or left off."""
    for options, step in (({}, 97), (OLD, 23)):
        good = saved(tmp_path / "good.pt", {"state_dict": STATE, "epoch": 3}, **options).read_bytes()
        for place in range(0, len(good), step):
            for content in (good[:place], good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :]):
                with contextlib.suppress(RequestError):
                    read_weights(write(tmp_path / "bad.pt", content))


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "before 1.6"])
def test_code_in_a_pickle_never_runs(tmp_path, options):
    path = saved(tmp_path / "a.pt", {"state_dict": STATE, "x": Evil(tmp_path / "ran")}, **options)
    with pytest.raises(RequestError, match="mkdir"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # so it would have run
