"""What the page says about runs besides their numbers: how each ended, and what was run, on what, how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reslab.records import RunFolder, RunRecord
from reslab.report.words import in_words, moment, name_of

MAX_COLUMNS = 6
"""Beyond so many runs, what differs between them is listed, not tabulated."""


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


def notices(runs: Sequence[RunFolder]) -> list[Notice]:
    """One for each run that is not done."""
    found = [(run, run.read_run()) for run in runs]
    return [_notice(run, record) for run, record in found if record.status != "done"]


def _notice(run: RunFolder, record: RunRecord) -> Notice:
    epochs = len(run.read_epochs())
    done = f"{epochs} epoch{'s' * (epochs != 1)} finished"
    sentences = {
        "running": f"{run.name} is not finished ({done}): its numbers are those of now.",
        "interrupted": f"{run.name} was interrupted ({done}). Go on with it by --resume.",
        "failed": f"{run.name} failed ({done}). Its numbers end there.",
    }
    items = [(name_of(key), in_words(value)) for key, value in (record.failure or {}).items()]
    return Notice(record.status, sentences[record.status], items)


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
    """Each list of deviations once, with the runs that it belongs to."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for run, record in zip(runs, records, strict=True):
        grouped.setdefault(tuple(record.deviations), []).append(run.name)
    return [
        ("All runs" if len(names) == len(runs) > 1 else ", ".join(names), list(items))
        for items, names in grouped.items()
    ]
