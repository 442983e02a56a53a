"""Records on disk: strict JSON, JSON lines that survive a kill, and files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from reslab.errors import RequestError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

Record = TypeVar("Record")

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
FLAT = "scores"
"""The field of a record whose entries stand beside the other fields on disk, so that a table has a column for each."""
SPLITS = ("train_", "val_", "test_")
"""How the keys of these entries begin."""
RENAMED = {"images_per_s": "items_per_s"}
"""Keys that older versions wrote, and what they are called now."""


def encode(value: Any, *, indent: int | None = None) -> str:
    """Write strict JSON; NaN and the infinities become strings, because JSON has no word for them.

    Example:
        >>> encode({"loss": float("nan")})
        '{"loss": "NaN"}'
    """
    return json.dumps(_name_non_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def decode(text: str) -> Any:
    """Read what ``encode`` wrote.

    Example:
        >>> decode('{"loss": "-Infinity"}')
        {'loss': -inf}
    """
    return json.loads(
        text, object_hook=lambda d: {k: NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in d.items()}
    )


def _name_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _name_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_name_non_finite(item) for item in value]
    return value


def to_plain(record: DataclassInstance) -> dict[str, Any]:
    """Turn a record into plain types, its ``scores`` among its other keys; ``from_plain`` reads it back.

    Example:
        >>> from reslab.records import Evaluation
        >>> to_plain(Evaluation(epoch=3, scores={"train_loss": 0.5, "train_error": 0.1}))
        {'epoch': 3, 'train_loss': 0.5, 'train_error': 0.1}
    """
    plain: dict[str, Any] = asdict(record)
    plain |= plain.pop(FLAT, {})
    return plain


def from_plain(kind: type[Record], raw: Any) -> Record:
    """Read a record, or a dict or tuple of them, out of what JSON made of it.

    Keys that the record doesn't have are left out; names of non-finite numbers are numbers again.

    Raises:
        ValueError: if a field is missing or of another type.

    Example:
        >>> from_plain(tuple[tuple[str, float], ...], [["conv1", "NaN"]])
        (('conv1', nan),)
    """
    if isinstance(raw, dict) and is_dataclass(kind) and FLAT in {field.name for field in fields(kind)}:
        raw = {RENAMED.get(key, key): value for key, value in raw.items()}
        scores = {key: value for key, value in raw.items() if key.startswith(SPLITS) and value is not None}
        raw = {FLAT: scores} | {key: value for key, value in raw.items() if key not in scores}
    return cast("Record", _adapter(cast("Any", kind)).validate_python(raw))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Build pydantic's reader of a type once: it takes up to 0.4 s, which commands that read no records don't pay."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_json(path: Path, kind: type[Record], *, mend: str) -> Record:
    """Read a file that holds one record.

    Args:
        path: of the file.
        kind: of the record.
        mend: what to do about a damaged file, in a sentence.

    Raises:
        RequestError: if it is damaged.
    """
    try:
        return from_plain(kind, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is damaged ({first_problem(error)}). {mend}") from None


def read_lines(path: Path, kind: type[Record], *, key: Callable[[Record], Any]) -> list[Record]:
    """Read all records of a JSON-lines file in order of their key; an absent file has none.

    A torn last line is dropped. A run that was killed and resumed has repeated the steps since its checkpoint: of two
    records with the same key the later counts.

    Raises:
        RequestError: if a line before the last is damaged; it names the file and the line.
    """
    if not path.exists():
        return []
    records: dict[Any, Record] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn or empty
        try:
            record = from_plain(kind, json.loads(line))
        except (ValueError, TypeError) as error:
            raise RequestError(
                f"{path}, line {number}, is damaged ({first_problem(error)}). Delete that line to read the rest."
            ) from None
        records[key(record)] = record
    return [records[place] for place in sorted(records)]


def first_problem(error: Exception) -> str:
    """Say the first thing that is wrong in one line; pydantic's own text has several."""
    if not hasattr(error, "errors"):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


class RecordWriter:
    """Append records to a JSON-lines file, one line each, flushed at once: what was written survives a kill.

    A torn last line, left by a kill in the middle of a write, is cut off when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, *records: DataclassInstance) -> None:
        """Append each record as a line."""
        self._file.write("".join(encode(to_plain(record)) + "\n" for record in records))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
