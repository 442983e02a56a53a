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
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from reslab.errors import RequestError
from reslab.weights.files import EMA_WRAPPERS, PREFIXES, WRAPPERS, kind_of, read_tensors, read_weights

STATE = {"conv1.weight": torch.ones(4, 3, 3, 3), "bn1.running_mean": torch.arange(4.0), "fc.bias": torch.tensor([2.0])}


def is_state(found, state=STATE) -> bool:
    return list(found) == list(state) and all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".pth.tar", ".bin", ".safetensors", ""])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_the_content_counts_and_not_the_suffix(tmp_path, suffix, legacy):
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    assert read_weights(path).kind == "torch"
    assert is_state(read_tensors(path))
    safetensors.torch.save_file(STATE, path)
    assert read_weights(path).kind == "safetensors"
    assert {key: value.shape for key, value in read_tensors(path).items()} == {k: v.shape for k, v in STATE.items()}


def test_a_string_is_a_path_and_tensors_lie_on_the_cpu(tmp_path):
    torch.save(nn.ParameterDict({"a": nn.Parameter(torch.ones(2))}).state_dict(), tmp_path / "a.pt")
    found = read_tensors(str(tmp_path / "a.pt"))
    assert found["a"].device.type == "cpu"
    assert not found["a"].requires_grad


def test_a_run_folder_stands_for_its_weights(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "weights.safetensors")
    assert read_weights(tmp_path).path == tmp_path / "weights.safetensors"


# ---- what is around the tensors


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "my_weights"])
def test_a_checkpoints_other_entries_are_ignored_and_listed(tmp_path, wrapper):
    optimiser = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    content = {"epoch": 3, "best_acc1": torch.tensor(76.1), "optimizer": optimiser.state_dict(), "arch": "resnet18"}
    torch.save({**content, wrapper: STATE}, tmp_path / "a.pth")
    found = read_weights(tmp_path / "a.pth")
    if wrapper == "my_weights":  # a bare tensor beside it makes the other entries the weights
        assert found.entry == ""
        torch.save({"epoch": 3, "optimizer": optimiser.state_dict(), wrapper: STATE}, tmp_path / "a.pth")
        found = read_weights(tmp_path / "a.pth")
    assert (found.entry, is_state(found.tensors)) == (wrapper, True)
    assert found.ignored["epoch"] == "3"
    assert found.ignored["optimizer"] == "dict of 2"


def test_arguments_in_a_namespace_are_no_obstacle(tmp_path):
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}, tmp_path / "timm.pth.tar")
    assert read_weights(tmp_path / "timm.pth.tar").ignored == {"args": "Namespace"}


def test_a_non_tensor_among_tensors_is_ignored(tmp_path):
    torch.save(OrderedDict(**{"fc.bias": STATE["fc.bias"]}, epoch=3, name="x", **{"none": None}), tmp_path / "a.pt")
    found = read_weights(tmp_path / "a.pt")
    assert list(found.tensors) == ["fc.bias"]
    assert found.ignored == {"epoch": "3", "name": "'x'", "none": "None"}


@pytest.mark.parametrize("name", EMA_WRAPPERS)
@pytest.mark.parametrize("outer", [(), ("checkpoint",)])
def test_plain_weights_come_first_and_the_average_if_asked_for(tmp_path, name, outer):
    average = {f"module.{key}": value + 1 for key, value in STATE.items()} | {"n_averaged": torch.tensor(7)}
    content = {"model": STATE, name: average}
    for key in outer:
        content = {key: content}
    torch.save(content, tmp_path / "a.pt")
    assert is_state(read_tensors(tmp_path / "a.pt"))
    found = read_weights(tmp_path / "a.pt", ema=True)
    assert found.entry == ".".join([*outer, name])
    assert is_state(found.tensors, {key: value + 1 for key, value in STATE.items()})
    assert found.ignored["n_averaged"] == "how many weights were averaged"


def test_an_average_alone_is_taken(tmp_path):
    torch.save({"model_ema": STATE, "epoch": 1}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").entry == "model_ema"


def test_an_average_that_is_not_there_is_missed(tmp_path):
    torch.save({"model": STATE, "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=r"a.pt has no moving average .*model.*epoch"):
        read_weights(tmp_path / "a.pt", ema=True)
    safetensors.torch.save_file(STATE, tmp_path / "a.safetensors")
    with pytest.raises(RequestError, match="one set of weights"):
        read_weights(tmp_path / "a.safetensors", ema=True)


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
    path = tmp_path_factory.mktemp("wrapped") / "a.pt"
    torch.save(content, path)
    found = read_weights(path)
    assert is_state(found.tensors)
    assert (found.prefix, found.entry) == (prefix, ".".join(wrappers))
    assert set(found.ignored) == (set(extra) if wrappers else set())


def test_a_prefix_that_not_all_keys_have_stays(tmp_path):
    torch.save({"module.fc.bias": torch.ones(1), "fc.weight": torch.ones(1)}, tmp_path / "a.pt")
    assert list(read_tensors(tmp_path / "a.pt")) == ["module.fc.bias", "fc.weight"]


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


def saved(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


def flipped(path: Path) -> Path:
    """One bit of a tensor's values."""
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(4.0).numpy().tobytes()) + 6] ^= 1
    return write(path, bytes(content))


def image(path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(path)
    return path


def safe(path: Path, state=None) -> Path:
    safetensors.torch.save_file(STATE if state is None else state, path)
    return path


def numpy_file(path: Path) -> Path:
    np.save(path, np.ones(3))
    return path


def numpy_archive(path: Path) -> Path:
    np.savez(path, a=np.ones(3))
    return path


class Custom:
    pass


OLD = {"_use_new_zipfile_serialization": False}
REFUSED = {
    "absent": (lambda p: p / "no.pt", "No such weights file"),
    "folder": (lambda p: p, r"is a folder. Name the weights file in it"),
    "empty": (lambda p: write(p / "a.pt", ""), "is empty"),
    "zeros": (lambda p: write(p / "a.pt", bytes(999)), "is filled with zeros"),
    "html": (lambda p: write(p / "a.pt", "\n<!DOCTYPE html><html>"), "is an HTML page"),
    "lfs": (lambda p: write(p / "a.pt", "version https://git-lfs.github.com/spec/v1\noid"), r"a Git LFS pointer"),
    "png": (lambda p: image(p / "a.png"), "is a PNG image"),
    "jpeg": (lambda p: image(p / "a.jpg"), "is a JPEG image"),
    "gzip": (lambda p: write(p / "a.pt", b"\x1f\x8b\x08\x00xx"), "gzip archive; unpack it"),
    "text": (lambda p: write(p / "a.pt", "hello\nthere"), "a text that begins with 'hello'"),
    "json": (lambda p: write(p / "a.safetensors.index.json", '{"weight_map": {}}'), "a JSON text.*several files"),
    "bytes": (lambda p: write(p / "a.pt", b"\xde\xad\xbe\xef" * 9), "no known kind.*de ad be ef"),
    "tar": (lambda p: write(p / "a.tar", b"a".ljust(257, b"\0") + b"ustar\0"), "a tar archive"),
    "npy": (lambda p: numpy_file(p / "a.npy"), "a NumPy array"),
    "npz": (lambda p: numpy_archive(p / "a.npz"), "NumPy archive"),
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
    "no safetensors": (lambda p: safe(p / "a.safetensors", {}), "holds no tensors"),
    "half a zip": (lambda p: half(saved(p / "a.pt", STATE)), "cut off: it is a zip archive without its end"),
    "half an old file": (lambda p: half(saved(p / "a.pt", STATE, **OLD)), r"no whole torch file .*cut off or damaged"),
    "half a safetensors": (lambda p: half(safe(p / "a.st", {"w": torch.ones(999)})), "no whole safetensors .*cut off"),
    "damaged zip": (lambda p: flipped(saved(p / "a.pt", STATE)), "damaged.*checksum"),
    "nan": (
        lambda p: safe(p / "a.st", {"fine": torch.ones(2), "w": torch.tensor([1.0, float("nan"), float("inf")])}),
        "2 values that are not finite, in 1 of 2 tensors, the first 'w'",
    ),
    "sparse": (lambda p: saved(p / "a.pt", {"w": torch.ones(2, 2).to_sparse()}), "w is sparse"),
    "meta": (lambda p: saved(p / "a.pt", {"w": torch.ones(2, device="meta")}), "w is without values"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_weights_file_is_refused_in_words(tmp_path, reslab, case):
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
    for legacy in (False, True):
        torch.save({"state_dict": STATE, "epoch": 3}, tmp_path / "good.pt", _use_new_zipfile_serialization=not legacy)
        good = (tmp_path / "good.pt").read_bytes()
        for place in range(0, len(good), 97 if not legacy else 23):
            for content in (good[:place], good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :]):
                path = write(tmp_path / "bad.pt", content)
                with contextlib.suppress(RequestError):
                    read_weights(path)


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


def test_a_folder_names_the_weights_in_it(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "best.safetensors")
    with pytest.raises(RequestError, match=r"such as best.safetensors"):
        kind_of(tmp_path)
