"""Weights files of any kind as tensors by name: what a file is, its content tells, and no code in it ever runs."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from reslab.errors import RequestError
from reslab.weights.keras import read_keras

FileKind = Literal["safetensors", "torch", "keras"]

WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "network", "weights", "params", "module")
"""Entries of a checkpoint that hold its weights, in order of preference."""
EMA_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema", "params_ema")
"""Entries that hold their moving average."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""Names that wrappers put before every key: DataParallel and DDP, torch.compile, Lightning modules."""

OF_A_RUN = "weights.safetensors"

OTHER_KINDS = (
    # how a file begins, and what it then is
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; `git lfs pull` fetches that"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x93NUMPY", "a NumPy array; an array has no names that say where it belongs"),
    (b"\x08\x00\x00\x00", "probably an ONNX file, which holds a graph rather than a state_dict"),
)

TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that torch's files before 1.6 begin with, pickled."""

HARMLESS: list[Any] = [argparse.Namespace]
"""Let through besides what torch allows: checkpoints of timm and of torchvision's references hold their arguments in
one. It is a bag of attributes, and making one runs nothing."""

RESAVE = (
    "Where you trust its origin, save the bare weights there:"
    " safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    " or torch.save(model.state_dict(), 'weights.pt')."
)


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds.

    Args:
        path: of the file.
        kind: of the file, by its content.
        tensors: by name, without ``prefix``.
        prefix: what stood before every name, such as ``"module."``.
        entry: where in a checkpoint they were, such as ``"state_dict"``; empty where they lay bare.
        ignored: the checkpoint's other entries, and what each is.
        metadata: texts that a safetensors file carries.
    """

    path: Path
    kind: FileKind
    tensors: dict[str, Tensor]
    prefix: str = ""
    entry: str = ""
    ignored: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read_tensors(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Every tensor of a weights file by name, on the CPU; see ``read_weights``.

    Raises:
        RequestError: as ``read_weights``.
    """
    return read_weights(path, ema=ema).tensors


def read_weights(path: str | Path, *, ema: bool = False) -> WeightsFile:
    """Reads safetensors, torch's files (only by ``weights_only=True``) and Keras' HDF5, whatever the suffix.

    Args:
        path: of the file, or of a run's folder.
        ema: take the moving average of the weights, where a checkpoint has both; by default the plain weights.

    Raises:
        RequestError: if there is no such file, it is no weights file, is cut off, holds pickled objects besides
            tensors, holds no tensors, or holds values that are not finite.
    """
    path = Path(path)
    if (path / OF_A_RUN).is_file():
        path /= OF_A_RUN
    kind = kind_of(path)
    if kind == "torch":
        found = from_checkpoint(path, read_torch(path), ema=ema)
    elif ema:
        raise RequestError(f"{path} is a {kind} file: it holds one set of weights, and no moving average besides.")
    elif kind == "keras":
        tensors, ignored = read_keras(path)
        found = WeightsFile(path, kind, tensors, ignored=ignored)
    else:
        found = from_safetensors(path)
    if not found.tensors:
        raise RequestError(f"{path} holds no tensors: it is an empty {kind} file.")
    check_values(path, found.tensors)
    return found


def kind_of(path: Path) -> FileKind:
    """The kind of a file by its first bytes and, for a zip archive, by the names in it.

    Raises:
        RequestError: if it is not there, or of no kind that holds weights.
    """
    if path.is_dir():
        raise RequestError(f"{path} is a folder. Name the weights file in it{files_in(path)}.")
    if not path.is_file():
        raise RequestError(f"No such weights file: {path}.")
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        raise RequestError(f"{path} is {'filled with zeros' if head else 'empty'}: the download or copy broke off.")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if head.startswith(b"PK\x03\x04"):
        return kind_of_archive(path)
    if re.match(rb".{6}\0\0\{", head, re.S):  # length of the header as eight bytes, then JSON
        return "safetensors"
    for start, what in OTHER_KINDS:
        if head.startswith(start):
            raise no_weights(path, what)
    if head[:1] == b"\x80":  # a pickle, as torch's files before 1.6 were
        if TORCH_MAGIC in head[:40]:
            return "torch"
        raise no_weights(path, f"a bare pickle, and unpickling can run any code. {RESAVE.rstrip('.')}")
    raise no_weights(path, described(head))


def kind_of_archive(path: Path) -> FileKind:
    """Torch's zip archive, Keras' one, or an error that says what else it is."""
    if not zipfile.is_zipfile(path):
        raise RequestError(f"{path} is cut off: it is a zip archive without its end. Fetch or copy it again.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()  # torch itself doesn't compare the checksums
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise RequestError(f"{path} is a damaged zip archive ({error}). Fetch or copy it again.") from None
    if damaged:
        raise RequestError(f"{path} is damaged: {damaged} in it doesn't have its checksum. Fetch or copy it again.")
    if "model.weights.h5" in names:
        return "keras"
    if any(name.endswith("/constants.pkl") for name in names):
        raise no_weights(path, f"a TorchScript program, and reading one means running it. {RESAVE.rstrip('.')}")
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if all(name.endswith(".npy") for name in names):
        raise no_weights(path, "a NumPy archive (.npz)")
    raise no_weights(path, f"a zip archive of other things ({', '.join(names[:3])})")


def described(head: bytes) -> str:
    """What a file without a known beginning looks like."""
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if re.match(r"<!doctype html|<html|<\?xml|<head|<!--", text, re.I):
        return "an HTML page, as a server or proxy sends in place of a file. Open the address in a browser to see why"
    if text.startswith("{"):
        return "a JSON text. Weights that are split over several files are not read; join them first"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if "\ufffd" not in text[:-3] and text.isprintable() | ("\n" in text):
        return f"a text that begins with {text.splitlines()[0][:40]!r}"
    return f"a file of no known kind, which begins with the bytes {head[:8].hex(' ')}"


def no_weights(path: Path, what: str) -> RequestError:
    """The error for a file of another kind."""
    return RequestError(
        f"{path} is {what}. Expected weights as safetensors, a torch file (.pt, .pth) or Keras' HDF5 (.h5)."
    )


def files_in(folder: Path) -> str:
    """The weights files right in a folder, for a hint."""
    suffixes = {".safetensors", ".pt", ".pth", ".th", ".ckpt", ".tar", ".bin", ".h5", ".keras"}
    names = sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)
    return f", such as {', '.join(names[:3])}" if names else ""


def from_safetensors(path: Path) -> WeightsFile:
    """Reads a safetensors file with its metadata."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = sorted(file.keys(), key=natural)  # the file's own order is by kind of number
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(
            f"{path} is no whole safetensors file ({error}): it is cut off or damaged. Fetch or copy it again."
        ) from None
    stripped, prefix = strip_prefixes(tensors)
    return WeightsFile(path, "safetensors", stripped, prefix=prefix, metadata=metadata)


def natural(name: str) -> list[str | int]:
    """A key for sorting that takes numbers for numbers.

    Example:
        >>> sorted(["layer1.10", "layer1.9", "fc"], key=natural)
        ['fc', 'layer1.9', 'layer1.10']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, by torch's reader that builds tensors and plain containers only.

    Raises:
        RequestError: for anything else, by its name; and for a damaged file.
    """
    try:
        # An open file, because torch takes a path's suffix for the kind of the file.
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about old protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        raise why_refused(path, error) from None


def why_refused(path: Path, error: Exception) -> RequestError:
    """The pickled classes that stand in the way, or what is damaged."""
    if names := refused_globals(path, str(error)):
        return RequestError(
            f"{path} holds pickled objects besides tensors ({', '.join(names)}); unpickling can run any code, so reslab"
            f" reads none. {RESAVE}"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "torch.load" not in line]
    what = lines[-1].rstrip(".") if lines else type(error).__name__
    return RequestError(f"{path} is no whole torch file ({what}): it is cut off or damaged. Fetch or copy it again.")


def refused_globals(path: Path, message: str) -> list[str]:
    """Names of the classes and functions in a pickle that torch's safe reader won't call."""
    try:
        with torch.serialization.safe_globals(HARMLESS), path.open("rb") as file:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # torch's format before 1.6, or damaged: the message has the first name
        names = []
    named = re.findall(r"(?:unsupported global: GLOBAL|unsupported GLOBAL|Unsupported class) ([\w.]+)", message, re.I)
    return sorted({*names, *named})


def from_checkpoint(path: Path, content: Any, *, ema: bool) -> WeightsFile:
    """Finds the weights in what ``torch.load`` gave: bare, among other entries, or in an entry of an entry."""
    if not isinstance(content, Mapping):
        raise RequestError(f"{path} holds a {type(content).__name__}, not tensors by name. {RESAVE}")
    entries: list[str] = []
    ignored: dict[str, str] = {}
    while (name := wrapper_of(content, ema=ema)) is not None:
        ignored |= {str(key): described_value(value) for key, value in content.items() if key != name}
        ema = ema and name not in EMA_WRAPPERS
        entries.append(name)
        content = content[name]
    if ema:
        raise RequestError(f"{path} has no moving average of the weights. Its entries are {listed(entries, ignored)}.")
    named = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    ignored |= {str(key): described_value(value) for key, value in content.items() if key not in named}
    if named.pop("n_averaged", None) is not None:  # torch's AveragedModel counts there
        ignored["n_averaged"] = "how many weights were averaged"
    if not named:
        raise RequestError(f"{path} holds no tensors by name. Its entries are {listed(entries, ignored)}.")
    tensors, prefix = strip_prefixes({key: value.detach() for key, value in named.items()})
    return WeightsFile(path, "torch", tensors, prefix=prefix, entry=".".join(entries), ignored=ignored)


def wrapper_of(content: Mapping[Any, Any], *, ema: bool) -> str | None:
    """The entry of a checkpoint to look into; None where the tensors lie bare.

    The plain weights come first unless ``ema`` asks for the average. An entry of another name is taken where it is the
    only one with tensors in it.
    """
    holders: list[str] = [key for key, value in content.items() if isinstance(key, str) and holds_tensors(value)]
    for name in (*EMA_WRAPPERS, *WRAPPERS) if ema else WRAPPERS:
        if name in holders:
            return name
    if any(isinstance(value, Tensor) for value in content.values()):
        return None
    others: list[str] = [key for key in holders if not re.search("optim|sched|scaler|loss", key, re.I)]
    return others[0] if len(others) == 1 else None


def holds_tensors(value: Any) -> bool:
    """Whether a tensor lies under a name in it, or in a mapping below."""
    if not isinstance(value, Mapping):
        return False
    named = [part for key, part in value.items() if isinstance(key, str)]
    return any(isinstance(part, Tensor) or holds_tensors(part) for part in named)


def described_value(value: Any) -> str:
    """What an entry that is not read is, in a few words."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, str | int | float | None):
        return repr(value)[:40]
    if isinstance(value, Mapping | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def listed(entries: Sequence[str], ignored: Mapping[str, str]) -> str:
    """Names of a checkpoint's entries, the first few."""
    names = [*entries, *(f"{name} ({what})" for name, what in ignored.items())]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "none"


def strip_prefixes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Tensors without the wrappers' names that stand before every key, and what was taken off.

    Example:
        >>> strip_prefixes({"module.model.fc.weight": torch.zeros(1), "module.model.fc.bias": torch.zeros(1)})[1]
        'module.model.'
        >>> strip_prefixes({"module.fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})[1]
        ''
    """
    taken = ""
    if not tensors:
        return {}, taken
    while found := next((p for p in PREFIXES if all(key.startswith(taken + p) for key in tensors)), None):
        taken += found
    return {key.removeprefix(taken): value for key, value in tensors.items()}, taken


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are not dense, and values that are not finite."""
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
