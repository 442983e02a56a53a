"""Data sets in files: MNIST's idx files and CIFAR's batches as torchvision downloads them, and parquet.

CIFAR's batches are pickles. They are read by an unpickler that can build NumPy arrays and nothing else, so that a
tampered file can't run code.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reslab.data.splits import ArraySplit, EncodedSplit
from reslab.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

IDX_FILES = {"train": "train", "test": "t10k"}
CIFAR_LAYOUT: dict[str, tuple[str, dict[str, list[str]], str, str, str]] = {
    # name: folder, batches by split, label key, file of class names, key of class names
    "cifar10": (
        "cifar-10-batches-py",
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
        "labels", "batches.meta", "label_names",
    ),
    "cifar100": ("cifar-100-python", {"train": ["train"], "test": ["test"]}, "fine_labels", "meta", "fine_label_names"),
}  # fmt: skip
SAFE_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # how Python 3 writes the bytes of an array under protocol 2
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val",
               "test": "test"}  # fmt: skip


# ---- MNIST


def read_idx(path: Path) -> np.ndarray:
    """Read one idx file, plain or gzipped, as uint8 array.

    Reference:
        The format's description on the MNIST page of Y. LeCun: two zero bytes, type 8 (unsigned byte), rank, sizes.
    """
    if path.exists():
        content = path.read_bytes()
    elif path.with_name(path.name + ".gz").exists():
        path = path.with_name(path.name + ".gz")
        try:
            content = gzip.decompress(path.read_bytes())
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise RequestError(f"Can't unpack {path}: {error}. Download it again.") from None
    else:
        raise RequestError(f"{path} is missing. Expected torchvision's layout, MNIST/raw/*-ubyte[.gz]; try --download.")
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise RequestError(f"{path} is not a valid idx file of bytes. Download it again.")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    data = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * content[3])
    if data.size != int(np.prod(shape)):
        raise RequestError(f"{path} has {data.size} of {int(np.prod(shape))} bytes. Download it again.")
    return data.reshape(shape)


def read_mnist(folder: Path) -> dict[str, ArraySplit]:
    """Read the splits of torchvision's ``MNIST/raw`` or ``FashionMNIST/raw``."""
    splits = {}
    for split, word in IDX_FILES.items():
        images = torch.from_numpy(read_idx(folder / f"{word}-images-idx3-ubyte").copy())
        labels = torch.from_numpy(read_idx(folder / f"{word}-labels-idx1-ubyte").copy())
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            shapes = f"images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}"
            raise RequestError(f"{folder} has {shapes} for {split}; expected (N, H, W) and (N,). Download it again.")
        splits[split] = ArraySplit(images.unsqueeze(1), labels.long())  # (N, H, W) -> (N, 1, H, W)
    return splits


# ---- CIFAR


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of dicts, lists, numbers, text and NumPy arrays; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the names that an array needs, or raise."""
        if (module, name) in SAFE_GLOBALS:
            return SAFE_GLOBALS[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not needed for an array")


def read_cifar(root: Path, name: str) -> tuple[list[str], dict[str, ArraySplit]]:
    """Read class names and splits of ``cifar10`` or ``cifar100`` from the folder that holds torchvision's."""
    folder_name, batches, label_key, meta, names_key = CIFAR_LAYOUT[name]
    folder = root / folder_name
    splits = {}
    for split, files in batches.items():
        parts = [_read_batch(folder / file, label_key) for file in files]
        images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        splits[split] = ArraySplit(images.view(-1, 3, 32, 32), labels)  # (N, 3072) -> (N, C, H, W)
    return list(_read_pickled(folder / meta, names_key)[names_key]), splits


def _read_batch(path: Path, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 (N, 3072), and labels, int64 (N,), of one CIFAR batch."""
    batch = _read_pickled(path, "data", label_key)
    try:
        pixels, labels = np.asarray(batch["data"], dtype=np.uint8), np.asarray(batch[label_key], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"{path} has no valid array of pixels or labels: {error}. Download it again.") from None
    if pixels.shape != (len(labels), 3 * 32 * 32) or labels.ndim != 1:
        raise RequestError(f"{path} has pixels {pixels.shape} and labels {labels.shape}. Download it again.")
    return pixels, labels


def _read_pickled(path: Path, *keys: str) -> dict[str, Any]:
    """One CIFAR batch as a dict with at least ``keys``, without running code from it."""
    if not path.exists():
        raise RequestError(f"{path} is missing. Expected the files that torchvision extracts; try --download.")
    try:
        value = ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise RequestError(f"Can't read {path}: {error}. Download it again.") from None
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds a {type(value).__name__} instead of a CIFAR batch. Download it again.")
    if missing := [key for key in keys if key not in value]:
        lacks = ", ".join(map(repr, missing))
        raise RequestError(f"{path} is not a valid CIFAR batch: it lacks {lacks}. Download it again.")
    return value


# ---- parquet in the Hugging Face layout: train-*.parquet, test-*.parquet, images as bytes


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """Sort parquet files by split (``train``, ``val``, ``test``), from their names; one unnamed split is ``train``."""
    files: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for path in sorted(folder.rglob("*.parquet")):
        places = [path.name, *([] if path.parent == folder else [path.parent.name])]  # the file's name counts first
        words = re.split(r"[-_.]", "-".join(places).lower())
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
        (files.setdefault(split, []) if split else unnamed).append(path)
    if "train" not in files and unnamed:
        files["train"] = unnamed
    if files and "train" not in files:
        raise RequestError(f"{folder} has parquet files for {', '.join(sorted(files))} but none named train-*.parquet.")
    return files


def read_parquet(folder: Path, *, channels: int) -> tuple[list[str], dict[str, EncodedSplit]]:
    """Read class names and splits of a parquet folder. The encoded images are held in memory.

    Class names come from the schema's Hugging Face metadata; without it, integer labels are named by their number and
    text labels are sorted.

    Raises:
        RequestError: for a file that is not parquet, without an image or a label column, or with a row that lacks them.
    """
    tables = {split: _read_tables(paths, split=split) for split, paths in parquet_files(folder).items()}
    columns = tuple(_find_column(tables["train"], names, folder) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    classes = _class_names(tables["train"], columns[1])
    return classes, {
        split: _read_rows(table, columns, classes, name=f"{folder.name}/{split}", channels=channels)
        for split, table in tables.items()
    }


def _read_tables(paths: list[Path], *, split: str) -> pa.Table:
    """The files of one split as one table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path))
        except (pa.ArrowException, OSError) as error:
            raise RequestError(f"Can't read {path} as parquet: {first_line(error)}") from None
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise RequestError(
            f"The {split} files in {paths[0].parent} have different columns: {first_line(error)}"
        ) from None
    if not table.num_rows:
        raise RequestError(f"The {split} files in {paths[0].parent} have no rows.")
    return table


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _find_column(table: pa.Table, candidates: tuple[str, ...], folder: Path) -> str:
    for name in candidates:
        if name in table.column_names:
            return name
    raise RequestError(
        f"The parquet files in {folder} have the columns {', '.join(table.column_names)};"
        f" expected one called {' or '.join(candidates)}. Rename the column."
    )


def _class_names(table: pa.Table, label_column: str) -> list[str]:
    """Names in the order of their numbers."""
    try:
        metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get(label_column, {}).get("names")
    except (ValueError, AttributeError):  # some other tool's idea of that entry
        names = None
    if names:
        return [str(name) for name in names]
    values = [value for value in table[label_column].to_pylist() if value is not None]
    if values and all(isinstance(value, str) for value in values):
        return sorted(set(values))
    if values and all(isinstance(value, int) for value in values):
        return [str(number) for number in range(max(values) + 1)]
    raise RequestError(
        f"The column {label_column!r} is of type {table.schema.field(label_column).type};"
        " expected whole numbers or text."
    )


def _read_rows(
    table: pa.Table, columns: tuple[str, ...], classes: list[str], *, name: str, channels: int
) -> EncodedSplit:
    """One table as a split; a row is called by its file name in the image column, or by its number."""
    for column in columns:
        if column not in table.column_names:
            raise RequestError(f"{name} lacks the column {column!r} that the training files have.")
    items, names, labels = [], [], []
    for row, (image, value) in enumerate(zip(*(table[column].to_pylist() for column in columns), strict=True)):
        path = f" ({image['path']})" if isinstance(image, dict) and image.get("path") else ""
        names.append(label := f"{name} row {row}{path}")
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise RequestError(
                f"{label} has no image bytes but {type(content).__name__}. Expected the encoded file's bytes."
            )
        items.append(content)
        labels.append(_number(value, classes, label))
    return EncodedSplit(items, names, torch.tensor(labels, dtype=torch.int64), channels)


def _number(value: Any, classes: list[str], name: str) -> int:
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    if isinstance(value, int) and 0 <= value < len(classes):
        return value
    raise RequestError(f"{name} has the label {value!r}; expected one of the {len(classes)} classes.")
