"""Weights files of any kind as tensors by name: the content says what kind a file is, and no code in it ever runs."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from reslab.errors import RequestError
from reslab.weights._keras import read_keras

Shapes = Mapping[str, tuple[int, ...]]

OWN_FILES = ("model.safetensors", "weights.safetensors")  # in the folder of a bundle or run, now and before
# Entries of a checkpoint that hold its weights, in order of preference, and those that hold their moving average.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "network", "weights", "params", "module")
EMA_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema", "params_ema")
# What wrappers put before every key: DataParallel and DDP, torch.compile, Lightning modules.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")

OTHER_KINDS = (
    # how a file begins, and what it then is
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself; `git lfs pull` fetches that"),
    (rb"\x89PNG", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8", "a GIF image"),
    (rb"%PDF", "a PDF document"),
    (rb"\x1f\x8b", "a gzip archive; unpack it first"),
    (rb"BZh", "a bzip2 archive; unpack it first"),
    (rb"\xfd7zXZ", "an xz archive; unpack it first"),
    (rb"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (rb".{257}ustar", "a tar archive; unpack it first"),
    (rb"\x93NUMPY", "a NumPy array; an array has no names that say where it belongs"),
    (rb"\x08\x00\x00\x00", "probably an ONNX file, which holds a graph rather than a state_dict"),
    (rb"\s*\{", "a JSON text. Weights that are split over several files are not read; join them first"),
    (
        rb"(\xef\xbb\xbf)?\s*(?i:<!doctype html|<html|<\?xml|<head|<!--)",
        "an HTML page, as a server or proxy sends in place of a file. Open the address in a browser to see why",
    ),
)
TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number with which torch's files before 1.6 begin
# Allowed besides what torch allows: timm's and torchvision's checkpoints keep their arguments in one. It is a bag of
# attributes, and making one runs nothing.
HARMLESS: list[Any] = [argparse.Namespace]
RESAVE = (
    "If you trust its origin, save the bare weights there:"
    " safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    " or torch.save(model.state_dict(), 'weights.pt')"
)
AGAIN = "it is cut off or damaged. Fetch or copy it again"


@dataclass(frozen=True)
class WeightsFile:
    """The contents of a weights file."""

    path: Path
    kind: str  # safetensors, torch or keras, by its content
    tensors: dict[str, Tensor]  # by name, without ``prefix``
    prefix: str = ""  # what stood before every name, such as "module."
    entry: str = ""  # where in a checkpoint they were, such as "state_dict"; empty where they lay bare
    ignored: dict[str, str] = field(default_factory=dict)  # the checkpoint's other entries, and what each is


def read_weights(path: str | Path, *, ema: bool = False) -> WeightsFile:
    """Read safetensors, torch's files (only by ``weights_only=True``) and Keras HDF5, whatever the suffix.

    Args:
        path: of the file, or of the folder of a bundle or run.
        ema: take the moving average of the weights, where a checkpoint has both; by default the plain weights.

    Raises:
        RequestError: if there is no such file, it is not a weights file, is cut off, holds pickled objects besides
            tensors, holds no tensors, or holds values that are not finite.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "checkpoint.pt"
        >>> torch.save({"state_dict": {"module.fc.bias": torch.zeros(3)}, "epoch": 9}, file)
        >>> found = read_weights(file)
        >>> list(found.tensors), found.prefix, found.entry, found.ignored
        (['fc.bias'], 'module.', 'state_dict', {'epoch': '9'})
    """
    path = Path(path)
    path = next((path / name for name in OWN_FILES if (path / name).is_file()), path)
    kind = _kind_of(path)
    if ema and kind != "torch":
        raise RequestError(f"{path} is a {kind} file: it holds one set of weights, and no moving average besides.")
    if kind == "torch":
        found = _unwrap(path, _read_torch(path), ema=ema)
    elif kind == "keras":
        tensors, ignored = read_keras(path)
        found = WeightsFile(path, kind, tensors, ignored=ignored)
    else:
        found = WeightsFile(path, kind, *strip_prefixes(read_safetensors(path)))
    if not found.tensors:
        raise RequestError(f"{path} holds no tensors: it is an empty {kind} file.")
    _check_values(path, found.tensors)
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file by name, on the CPU; a RequestError if it is absent or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # The file's own order is by type of number; this one has layer1.9 before layer1.10.
            return {name: file.get_tensor(name) for name in sorted(file.keys(), key=_text_and_numbers)}
    except FileNotFoundError:
        raise RequestError(f"No such weights file: {path}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{path} is not a valid safetensors file ({error}): {AGAIN}.") from None


def _text_and_numbers(name: str) -> list[str | int]:
    return [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))]


def strip_prefixes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Take off the wrappers' names that stand before every key; return also what was taken off."""
    taken = ""
    while tensors and (found := [p for p in PREFIXES if all(key.startswith(taken + p) for key in tensors)]):
        taken += found[0]
    return {key.removeprefix(taken): value for key, value in tensors.items()}, taken


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def mismatches(found: Shapes, expected: Shapes) -> list[str]:
    """Say how names and shapes differ from the expected ones, a phrase for each kind of difference."""
    reshaped = [name for name, shape in expected.items() if found.get(name, shape) != shape]
    problems = {
        "missing key{}": [name for name in expected if name not in found],
        "unexpected key{}": [name for name in found if name not in expected],
        "key{} of another shape": [f"{name} {found[name]} instead of {expected[name]}" for name in reshaped],
    }
    return [
        f"{len(names)} {what.format('s' if len(names) > 1 else '')} ({first_few(names)})"
        for what, names in problems.items()
        if names
    ]


def first_few(names: Iterable[str]) -> str:
    """Name the first three and count the rest: ``a, b, c and 4 more``."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---- what kind of file it is


def _kind_of(path: Path) -> str:
    if path.is_dir():
        suffixes = {".safetensors", ".pt", ".pth", ".th", ".ckpt", ".tar", ".bin", ".h5", ".keras"}
        names = sorted(file.name for file in path.iterdir() if file.suffix in suffixes)[:3]
        examples = f", such as {', '.join(names)}" if names else ""
        raise RequestError(f"{path} is a folder. Name the weights file in it{examples}.")
    if not path.is_file():
        raise RequestError(f"No such weights file: {path}.")
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        state = "filled with zeros" if head else "empty"
        raise RequestError(f"{path} is {state}: the download or copy was interrupted. Fetch or copy it again.")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if re.match(rb".{6}\0\0\{", head, re.S):  # length of the header as eight bytes, then JSON
        return "safetensors"
    if head[:1] == b"\x80" and TORCH_MAGIC in head[:40]:
        return "torch"
    found = _kind_of_archive(path) if head.startswith(b"PK\x03\x04") else _describe(head)
    if found in ("keras", "torch"):
        return found
    raise RequestError(
        f"{path} is {found}. Expected weights as safetensors, a torch file (.pt, .pth) or Keras HDF5 (.h5)."
    )


def _kind_of_archive(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        raise RequestError(f"{path} is cut off: it is a zip archive without its end. Fetch or copy it again.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()  # torch itself doesn't compare the checksums
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise RequestError(f"{path} is a damaged zip archive ({error}). Fetch or copy it again.") from None
    if damaged:
        raise RequestError(f"{path} is damaged: the checksum of {damaged} in it is wrong. Fetch or copy it again.")
    if "model.weights.h5" in names:
        return "keras"
    if any(name.endswith("/constants.pkl") for name in names):
        return f"a TorchScript program, and reading one means running it. {RESAVE}"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz)"
    return f"a zip archive of other things ({', '.join(names[:3])})"


def _describe(head: bytes) -> str:
    for start, what in OTHER_KINDS:
        if re.match(start, head, re.S):
            return what
    if head[:1] == b"\x80":
        return f"a bare pickle, and unpickling can run any code. {RESAVE}"
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if "\ufffd" not in text[:-3] and text.isprintable() | ("\n" in text):
        return f"a text that begins with {text.splitlines()[0][:40]!r}"
    return f"a file of no known kind, which begins with the bytes {head[:8].hex(' ')}"


# ---- torch's files


def _read_torch(path: Path) -> Any:
    """Read what ``torch.save`` wrote by torch's reader that builds tensors and plain containers only."""
    try:
        # An open file, because torch takes a path's suffix for the kind of the file.
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about old protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        if refused := _refused_classes(path, str(error)):
            raise RequestError(
                f"{path} holds pickled objects besides tensors ({', '.join(refused)}); unpickling can run any code, so"
                f" reslab reads none. {RESAVE}."
            ) from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "torch.load" not in line]
        what = lines[-1].rstrip(".") if lines else type(error).__name__
        raise RequestError(f"{path} is not a valid torch file ({what}): {AGAIN}.") from None


def _refused_classes(path: Path, message: str) -> list[str]:
    try:
        with torch.serialization.safe_globals(HARMLESS), path.open("rb") as file:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # torch's format before 1.6, or damaged: the message has the first name
        names = []
    named = re.findall(r"(?:unsupported global: GLOBAL|unsupported GLOBAL|Unsupported class) ([\w.]+)", message, re.I)
    return sorted({*names, *named})


def _unwrap(path: Path, content: Any, *, ema: bool) -> WeightsFile:
    """Find the weights in a checkpoint: bare, among other entries, or in an entry of an entry."""
    if not isinstance(content, Mapping):
        raise RequestError(f"{path} holds a {type(content).__name__}, not tensors by name. {RESAVE}.")
    entries: list[str] = []
    ignored: dict[str, str] = {}
    while (name := _wrapper_in(content, ema=ema)) is not None:
        ignored |= {str(key): _describe_value(value) for key, value in content.items() if key != name}
        ema = ema and name not in EMA_WRAPPERS
        entries.append(name)
        content = content[name]
    named = {
        key: value.detach() for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    ignored |= {str(key): _describe_value(value) for key, value in content.items() if key not in named}
    if named.pop("n_averaged", None) is not None:  # torch's AveragedModel counts there
        ignored["n_averaged"] = "how many weights were averaged"
    if ema or not named:
        what = "moving average of the weights" if ema else "tensors by name"
        there = [*entries, *(f"{key} ({value})" for key, value in ignored.items())]
        more = ", ..." if len(there) > 6 else ""
        raise RequestError(f"{path} holds no {what}. Its entries are {', '.join(there[:6]) or 'none'}{more}.")
    tensors, prefix = strip_prefixes(named)
    return WeightsFile(path, "torch", tensors, prefix, ".".join(entries), ignored)


def _wrapper_in(content: Mapping[Any, Any], *, ema: bool) -> str | None:
    """Choose the entry of a checkpoint to look into; None where the tensors lie bare.

    The plain weights come first unless ``ema`` asks for the average. An entry of another name is taken where it is the
    only one with tensors in it.
    """
    holders: list[str] = [key for key, value in content.items() if isinstance(key, str) and _holds_tensors(value)]
    for name in (*EMA_WRAPPERS, *WRAPPERS) if ema else WRAPPERS:
        if name in holders:
            return name
    if any(isinstance(value, Tensor) for value in content.values()):
        return None
    others = [key for key in holders if not re.search("optim|sched|scaler|loss", key, re.I)]
    return others[0] if len(others) == 1 else None


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(key, str) and (isinstance(part, Tensor) or _holds_tensors(part)) for key, part in value.items()
    )


def _describe_value(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, str | int | float | None):
        return repr(value)[:40]
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, Mapping | list | tuple) else "")


def _check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = "quantised" if value.is_quantized else "without values" if value.is_meta else "sparse"
            raise RequestError(f"{path}: {name} is {kind}. Expected dense tensors of plain numbers; save those.")
    counts = {name: int((~torch.isfinite(value)).sum()) for name, value in tensors.items() if value.is_floating_point()}
    bad = {name: count for name, count in counts.items() if count}
    if bad:
        raise RequestError(
            f"{path} holds {sum(bad.values())} values that are not finite, in {len(bad)} of {len(tensors)} tensors, the"
            f" first {next(iter(bad))!r}: that training diverged, or the file is damaged. Take an earlier checkpoint."
        )
