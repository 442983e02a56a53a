"""The record of a study: its question and protocol, the numbers of all its runs, and the conclusion."""

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
"""``percent`` and ``points`` are kept as fractions; ``distance`` is written as a power of ten."""


@dataclass(frozen=True)
class MeasureRecord:
    """A column of numbers.

    Args:
        key: in ``StudyRow.values``.
        heading: of the column.
        unit: of its numbers.
        charted: whether the study's page draws it.
        is_brief: whether the terminal's table shows it; the page and table.md show all.
    """

    key: str
    heading: str
    unit: Unit
    charted: bool = False
    is_brief: bool = True


@dataclass(frozen=True)
class StudyRow:
    """The results of one setting's runs.

    Args:
        name: of the setting.
        factors: the setting's values by column, such as ``depth`` and ``kind``.
        values: by measure, one number per finished run, in the order of the seeds.
        failed: why a run ended early, by seed.
        waiting: number of runs that haven't ended.
    """

    name: str
    factors: dict[str, int | float | str]
    values: dict[str, tuple[float, ...]]
    failed: dict[str, str]
    waiting: int

    @property
    def num_ended(self) -> int:
        """Number of finished runs."""
        return max((len(numbers) for numbers in self.values.values()), default=0)

    def mean(self, key: str) -> float:
        """Return a measure's mean over the seeds; NaN where nothing was measured."""
        return mean_of(self.values.get(key, ()))

    def deviation(self, key: str) -> float:
        """Return a measure's sample standard deviation over the seeds; 0 for a single run, NaN for none."""
        return deviation_of(self.values.get(key, ()))


@dataclass(frozen=True)
class StudyRecord:
    """study.json: a question, the protocol, the numbers of all runs, and the conclusion.

    Args:
        name: of study and preset.
        title: the subject, in one line.
        question: that the study answers.
        protocol: how it was measured, in sentences.
        command: that runs the study.
        seeds: of each setting.
        measures: columns of the table.
        rows: of the table, one per setting.
        conclusion: computed from the rows.
        machine: processor, cores and device of the first run.
        versions: of reslab, Python and torch in the first run.
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
        """Return the row of a setting; KeyError if there is none of this name."""
        return {row.name: row for row in self.rows}[name]

    def to_plain(self) -> dict[str, Any]:
        """Return the record as plain dicts and lists, for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the text of study.json."""
        return encode(self.to_plain(), indent=2) + "\n"


def read_study(path: Path) -> StudyRecord:
    """Read study.json.

    Raises:
        RequestError: if it is absent or damaged, or of a newer schema.
    """
    if not path.exists():
        raise RequestError(f"{path} does not exist. `reslab study NAME --out FOLDER` writes it.")
    record = read_json(path, StudyRecord, mend="Delete it; the study writes it again.")
    if record.schema_version > SCHEMA_VERSION:
        raise RequestError(
            f"{path} is from a newer reslab (schema {record.schema_version}). Read it with that version."
        )
    return record


def mean_of(numbers: Sequence[float]) -> float:
    """Return the mean; NaN for no numbers."""
    return statistics.mean(numbers) if numbers else math.nan


def deviation_of(numbers: Sequence[float]) -> float:
    """Return the sample standard deviation; 0 for one number, NaN for none or if one is not finite."""
    if not numbers or not all(map(math.isfinite, numbers)):
        return math.nan
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0
