"""A folder of parquet files in the Hugging Face layout: ``train-*.parquet``, ``test-*.parquet``, images as bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from reslab.data.splits import EncodedSplit
from reslab.errors import RequestError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val",
               "test": "test"}  # fmt: skip


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """Files by split (``train``, ``val``, ``test``), from their names; one unnamed split counts as ``train``."""
    files: dict[str, list[Path]] = {}
    paths = sorted(folder.rglob("*.parquet"))
    for path in paths:
        places = [path.name, *([] if path.parent == folder else [path.parent.name])]  # the file's name counts first
        words = re.split(r"[-_.]", "-".join(places).lower())
        if split := next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None):
            files.setdefault(split, []).append(path)
    if paths and "train" not in files:
        rest = [path for path in paths if not any(path in group for group in files.values())]
        if not rest:
            raise RequestError(
                f"{folder} has parquet files for {', '.join(sorted(files))} but none named train-*.parquet."
            )
        files["train"] = rest
    return files


def read_parquet(folder: Path, *, channels: int | None) -> tuple[list[str], dict[str, EncodedSplit]]:
    """Class names and splits of a parquet folder. The encoded images are held in memory.

    Class names come from the schema's Hugging Face metadata; without it, integer labels are named by their number and
    text labels are sorted.

    Raises:
        RequestError: for a file that is no parquet, without an image or a label column, or with a row that lacks them.
    """
    tables = {split: read_tables(paths, split=split) for split, paths in parquet_files(folder).items()}
    first = tables["train"]
    image_column = find_column(first, IMAGE_COLUMNS, folder)
    label_column = find_column(first, LABEL_COLUMNS, folder)
    classes = class_names(first, label_column)
    return classes, {
        split: read_split(table, image_column, label_column, classes, name=f"{folder.name}/{split}", channels=channels)
        for split, table in tables.items()
    }


def read_tables(paths: list[Path], *, split: str) -> pa.Table:
    """The files of one split as one table."""
    try:
        table = pa.concat_tables([read_table(path) for path in paths])
    except pa.ArrowException as error:
        raise RequestError(
            f"The {split} files in {paths[0].parent} have different columns: {first_line(error)}"
        ) from None
    if not table.num_rows:
        raise RequestError(f"The {split} files in {paths[0].parent} have no rows.")
    return table


def read_table(path: Path) -> pa.Table:
    """One file as a table."""
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"Can't read {path} as parquet: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """Of its text."""
    return (str(error) or type(error).__name__).splitlines()[0]


def find_column(table: pa.Table, candidates: tuple[str, ...], folder: Path) -> str:
    """The first candidate that the table has."""
    for name in candidates:
        if name in table.column_names:
            return name
    raise RequestError(
        f"The parquet files in {folder} have the columns {', '.join(table.column_names)};"
        f" expected one called {' or '.join(candidates)}. Rename the column."
    )


def class_names(table: pa.Table, label_column: str) -> list[str]:
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


def read_split(
    table: pa.Table, image_column: str, label_column: str, classes: list[str], *, name: str, channels: int | None
) -> EncodedSplit:
    """One table as a split; a row is called by its file name in the image column, or by its number."""
    for column in (image_column, label_column):
        if column not in table.column_names:
            raise RequestError(f"{name} lacks the column {column!r} that the training files have.")
    images = table[image_column].to_pylist()
    names = [f"{name} row {row}{_path_of(image)}" for row, image in enumerate(images)]
    items = [_bytes_of(image, label) for image, label in zip(images, names, strict=True)]
    labels = [
        _number(value, classes, label) for value, label in zip(table[label_column].to_pylist(), names, strict=True)
    ]
    return EncodedSplit(items, names, torch.tensor(labels, dtype=torch.int64), channels or 3)


def _path_of(image: Any) -> str:
    return f" ({image['path']})" if isinstance(image, dict) and image.get("path") else ""


def _bytes_of(image: Any, name: str) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise RequestError(
            f"{name} holds no image bytes but {type(content).__name__}. Expected the encoded file's bytes."
        )
    return content


def _number(value: Any, classes: list[str], name: str) -> int:
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    if isinstance(value, int) and 0 <= value < len(classes):
        return value
    raise RequestError(f"{name} has the label {value!r}; expected one of the {len(classes)} classes.")
