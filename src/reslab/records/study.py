"""What a study leaves behind: its question, how it was asked, the numbers of all its runs, and what they say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from reslab.errors import RequestError
from reslab.records.files import encode, read_json

SCHEMA_VERSION = 1

Unit = Literal["percent", "points", "count", "seconds", "mib", "number", "distance"]
"""``percent`` and ``points`` are kept as shares; ``distance`` is a number that is told in powers of ten."""


@dataclass(frozen=True)
class MeasureRecord:
    """A column of numbers.

    Args:
        key: in ``StudyRow.values``.
        heading: of the column.
        unit: of its numbers.
        charted: whether the study's page draws it.
        is_brief: whether it stands in the terminal's table too; the page and table.md have all.
    """

    key: str
    heading: str
    unit: Unit
    charted: bool = False
    is_brief: bool = True


@dataclass(frozen=True)
class StudyRow:
    """What the runs of one setting came to.

    Args:
        name: of the setting.
        factors: what it stands for, by column, such as ``depth`` and ``kind``.
        values: by measure, one number for each run that came to an end, in the order of the seeds.
        failed: seed to why its run came to an early end.
        waiting: runs that haven't ended.
    """

    name: str
    factors: dict[str, int | float | str]
    values: dict[str, tuple[float, ...]]
    failed: dict[str, str]
    waiting: int

    @property
    def num_ended(self) -> int:
        """Runs that came to their end."""
        return max((len(numbers) for numbers in self.values.values()), default=0)

    def mean(self, key: str) -> float:
        """Over the seeds; NaN where nothing was measured."""
        return mean_of(self.values.get(key, ()))

    def deviation(self, key: str) -> float:
        """Of the sample; 0 for a single run, NaN for none."""
        return deviation_of(self.values.get(key, ()))


@dataclass(frozen=True)
class StudyRecord:
    """study.json.

    Args:
        name: of study and preset.
        title: what it is about, in a line.
        question: that it answers.
        protocol: how, in sentences.
        command: that runs it.
        seeds: of each setting.
        measures: columns of the table.
        rows: of the table.
        conclusion: computed from the rows.
        machine: of the first run: processor, cores, device.
        versions: of reslab, Python and torch, the same.
        schema_version: of this record; a newer one than this reslab knows is refused.
    """

    name: str
    title: str
    question: str
    protocol: tuple[str, ...]
    command: str
    seeds: tuple[int, ...]
    measures: tuple[MeasureRecord, ...]
    rows: tuple[StudyRow, ...]
    conclusion: str
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    def row(self, name: str) -> StudyRow:
        """By its name.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """Text of the file."""
        return encode(self.to_plain(), indent=2) + "\n"


def read_study(path: Path) -> StudyRecord:
    """Reads study.json.

    Raises:
        RequestError: if it is absent or damaged.
    """
    if not path.exists():
        raise RequestError(f"{path} does not exist. `reslab study NAME --out FOLDER` writes it.")
    record = read_json(path, StudyRecord, mend="Delete it; the study writes it again.")
    if record.schema_version > SCHEMA_VERSION:
        raise RequestError(f"{path} is of a newer reslab (schema {record.schema_version}). Read it with that one.")
    return record


def mean_of(numbers: Sequence[float]) -> float:
    """NaN for none."""
    return statistics.mean(numbers) if numbers else math.nan


def deviation_of(numbers: Sequence[float]) -> float:
    """Of the sample; 0 for a single one, NaN for none, and where one of them is not finite."""
    if not numbers or not all(map(math.isfinite, numbers)):
        return math.nan
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0
