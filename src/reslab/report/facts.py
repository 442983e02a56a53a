"""What the page says about runs besides their numbers: how each ended, and what was run, on what, how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reslab.records import RunFolder, RunRecord
from reslab.report.words import in_words, moment, name_of

MAX_COLUMNS = 6
"""Beyond so many runs, what differs between them is listed, not tabulated."""
NOT_DONE = {
    "running": "{name} is not finished ({done}): its numbers are those of now.",
    "interrupted": "{name} was interrupted ({done}). Go on with it by --resume.",
    "failed": "{name} failed ({done}). Its numbers end there.",
}


@dataclass(frozen=True)
class Notice:
    """What a reader must know before any number: a run that is not done.

    Args:
        level: ``running``, ``interrupted`` or ``failed``.
        text: a sentence.
        items: names and values that explain it.
    """

    level: str
    text: str
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Fact:
    """One line about all runs.

    Args:
        name: what it is.
        values: one for each run, or a single one where all agree.
    """

    name: str
    values: list[str]


def notices(runs: Sequence[RunFolder], records: Sequence[RunRecord]) -> list[Notice]:
    """One for each run that is not done."""
    return [_notice(run, record) for run, record in zip(runs, records, strict=True) if record.status in NOT_DONE]


def _notice(run: RunFolder, record: RunRecord) -> Notice:
    epochs = len(run.read_epochs())
    text = NOT_DONE[record.status].format(name=run.name, done=f"{epochs} epoch{'s' * (epochs != 1)} finished")
    reasons = [(name_of(key), in_words(value)) for key, value in (record.failure or {}).items()]
    return Notice(record.status, text, reasons)


def sections(records: Sequence[RunRecord]) -> dict[str, list[Fact]]:
    """What was run, on what, how; by heading."""
    parts: dict[str, list[dict[str, Any]]] = {
        "Protocol": [{**record.protocol, "seed": str(record.seed)} for record in records],
        "Data": [record.data for record in records],
        "Network": [record.model for record in records],
        "Machine": [{**record.machine, "started": moment(record.started)} for record in records],
        "Versions": [record.versions for record in records],
    }
    return {heading: _facts(values) for heading, values in parts.items()}


def _facts(values: list[dict[str, Any]]) -> list[Fact]:
    keys = dict.fromkeys(key for value in values for key in value)
    return [Fact(name_of(key), _agreed([in_words(value.get(key)) for value in values])) for key in keys]


def _agreed(words: list[str]) -> list[str]:
    """One for all where all are the same, or where a table of them would be too wide."""
    different = list(dict.fromkeys(words))
    if len(different) == 1:
        return different
    return words if len(words) <= MAX_COLUMNS else [in_words(different)]


def deviations(runs: Sequence[RunFolder], records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Each deviation once, under the names of the runs that have it; under no name where all have it."""
    bearers: dict[str, list[str]] = {}
    for run, record in zip(runs, records, strict=True):
        for deviation in record.deviations:
            bearers.setdefault(deviation, []).append(run.name)
    grouped: dict[str, list[str]] = {}
    for deviation, names in bearers.items():
        grouped.setdefault("" if len(names) == len(runs) else ", ".join(names), []).append(deviation)
    return list(grouped.items())
