"""JSON lines that survive a kill, and files that are written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from reslab.records.diagnosis import ReadingRecord
from reslab.records.nested import read_nested
from reslab.records.strict_json import encode
from reslab.records.training import BlockGradientRecord, EpochRecord, StepRecord

Record = TypeVar("Record", StepRecord, EpochRecord, BlockGradientRecord)


class RecordWriter:
    """Appends records to a JSON-lines file, one line each, flushed at once: what was written survives a kill.

    A torn last line, left by a kill in the middle of a write, is cut off when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, *records: StepRecord | EpochRecord | BlockGradientRecord | ReadingRecord) -> None:
        """Appends each record as a line."""
        self._file.write("".join(encode(asdict(record)) + "\n" for record in records))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a file in order of step; an absent file has none.

    A torn last line is dropped. A run that was killed and resumed has repeated the steps since its checkpoint: of two
    records for the same thing the later counts.

    Raises:
        RequestError: if a line before the last is damaged; it names the file and the line.
    """
    return read_nested(path, kind, key=_identity)


def _identity(record: StepRecord | EpochRecord | BlockGradientRecord) -> tuple[int, int]:
    if isinstance(record, EpochRecord):
        return (record.epoch, 0)
    return (record.step, record.index if isinstance(record, BlockGradientRecord) else 0)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder."""
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
    """Makes renames in a folder durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
