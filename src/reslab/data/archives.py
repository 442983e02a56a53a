"""Data sets in the file layouts that torchvision downloads: MNIST's idx files and CIFAR's batches.

CIFAR's batches are pickles. They are read by an unpickler that can build NumPy arrays and nothing else, so that a
tampered file can't run code.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reslab.data.splits import ArraySplit
from reslab.errors import RequestError

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
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of dicts, lists, numbers, text and NumPy arrays; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The four NumPy names that an array needs, or an error."""
        if (module, name) in SAFE_GLOBALS:
            return SAFE_GLOBALS[module, name]
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes the bytes of an array under protocol 2
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not needed for an array")


def read_idx(path: Path) -> np.ndarray:
    """One idx file, plain or gzipped, as uint8 array.

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
        raise RequestError(f"{path} is no idx file of bytes. Download it again.")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    data = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * content[3])
    if data.size != int(np.prod(shape)):
        raise RequestError(f"{path} has {data.size} of {int(np.prod(shape))} bytes. Download it again.")
    return data.reshape(shape)


def read_mnist(folder: Path) -> dict[str, ArraySplit]:
    """``folder`` is torchvision's ``MNIST/raw`` or ``FashionMNIST/raw``."""
    splits = {}
    for split, word in IDX_FILES.items():
        images = torch.from_numpy(read_idx(folder / f"{word}-images-idx3-ubyte").copy())
        labels = torch.from_numpy(read_idx(folder / f"{word}-labels-idx1-ubyte").copy())
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            shapes = f"images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}"
            raise RequestError(f"{folder} has {shapes} for {split}; expected (N, H, W) and (N,). Download it again.")
        splits[split] = ArraySplit(images.unsqueeze(1), labels.long())  # (N, H, W) -> (N, 1, H, W)
    return splits


def read_pickled(path: Path, *keys: str) -> dict[str, Any]:
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
        raise RequestError(f"{path} lacks {', '.join(map(repr, missing))}: no CIFAR batch. Download it again.")
    return value


def read_batch(path: Path, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 (N, 3072), and labels, int64 (N,), of one CIFAR batch."""
    batch = read_pickled(path, "data", label_key)
    try:
        pixels, labels = np.asarray(batch["data"], dtype=np.uint8), np.asarray(batch[label_key], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"{path} holds no array of pixels or labels: {error}. Download it again.") from None
    if pixels.shape != (len(labels), 3 * 32 * 32) or labels.ndim != 1:
        raise RequestError(f"{path} has pixels {pixels.shape} and labels {labels.shape}. Download it again.")
    return pixels, labels


def read_cifar(root: Path, name: str) -> tuple[list[str], dict[str, ArraySplit]]:
    """Class names and splits of ``cifar10`` or ``cifar100`` from the folder that holds torchvision's."""
    folder_name, batches, label_key, meta, names_key = CIFAR_LAYOUT[name]
    folder = root / folder_name
    splits = {}
    for split, files in batches.items():
        parts = [read_batch(folder / file, label_key) for file in files]
        images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        splits[split] = ArraySplit(images.view(-1, 3, 32, 32), labels)  # (N, 3072) -> (N, C, H, W)
    return list(read_pickled(folder / meta, names_key)[names_key]), splits
