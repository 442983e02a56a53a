"""A study: a question, the runs that answer it, and a conclusion computed from their records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.config import RunConfig, load_config, override
from reslab.config.changes import differences
from reslab.errors import RequestError
from reslab.records import RunFolder, RunRecord

PAGE, TABLE, RECORD = "index.html", "table.md", "study.json"
"""What lies in a study's folder beside its runs."""


@dataclass(frozen=True)
class Entry:
    """One setting, trained once for each seed.

    Args:
        name: of its row.
        factors: what it stands for in the table, by column, such as ``depth`` and ``kind``.
        config: of its runs, but for the seed.
        cost: how long a run takes, in any unit that all entries share; the longest are started first.
    """

    name: str
    factors: dict[str, int | str]
    config: RunConfig
    cost: float = 1.0


@dataclass(frozen=True)
class Row:
    """What the runs of one entry came to. Errors are shares, in the order of the seeds that came to an end.

    Args:
        entry: whose.
        num_parameters: None before the first run has started.
        train_errors: clean training errors.
        test_errors: the same for the test split.
        durations_s: of training and evaluation.
        diverged: seed to why its run ended early.
        waiting: runs that haven't ended.
    """

    entry: Entry
    num_parameters: int | None
    train_errors: tuple[float, ...]
    test_errors: tuple[float, ...]
    durations_s: tuple[float, ...]
    diverged: dict[int, str]
    waiting: int


@dataclass(frozen=True)
class Study:
    """A grid of runs.

    Args:
        name: of the study.
        title: what it is about, in a line.
        question: that it answers.
        protocol: how, in sentences.
        entries: in the order of the table.
        seeds: of each entry.
        conclude: rows to what they say, in sentences.
    """

    name: str
    title: str
    question: str
    protocol: tuple[str, ...]
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    conclude: Callable[[Sequence[Row]], str]

    def configs(self) -> dict[str, RunConfig]:
        """All runs by name, the longest first."""
        ordered = sorted(self.entries, key=lambda entry: -entry.cost)
        return {run_name(entry, seed): with_seed(entry.config, seed) for entry in ordered for seed in self.seeds}

    def rows(self, out: Path) -> list[Row]:
        """The table as it stands, from the records alone."""
        return [
            row_of(entry, [(seed, RunFolder(out / run_name(entry, seed))) for seed in self.seeds])
            for entry in self.entries
        ]


def run_name(entry: Entry, seed: int) -> str:
    """Of its folder."""
    return f"{entry.name}-seed{seed}"


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same with another seed."""
    return override(config, {"train.seed": seed}, where="the study")


def row_of(entry: Entry, folders: Sequence[tuple[int, RunFolder]]) -> Row:
    """What has been recorded of an entry's runs."""
    records = [(seed, folder.read_run()) for seed, folder in folders if folder.run.exists()]
    ended = [record for _, record in records if record.status == "done" and record.last is not None]
    failed = {seed: reason_of(record) for seed, record in records if record.status == "failed"}
    errors = [record.last for record in ended if record.last is not None]
    return Row(
        entry,
        num_parameters=records[0][1].model["num_parameters"] if records else None,
        train_errors=tuple(error.train_error for error in errors),
        test_errors=tuple(error.test_error for error in errors if error.test_error is not None),
        durations_s=tuple(record.duration_s for record in ended),
        diverged=failed,
        waiting=len(folders) - len(ended) - len(failed),
    )


def reason_of(record: RunRecord) -> str:
    """Why a run failed, in the words of its record."""
    return str((record.failure or {}).get("sentence", "it failed"))


def mean_of(errors: Sequence[float]) -> float:
    """NaN for none."""
    return statistics.mean(errors) if errors else math.nan


def deviation_of(errors: Sequence[float]) -> float:
    """Of the sample; 0 for a single one, NaN for none."""
    if not errors:
        return math.nan
    return statistics.stdev(errors) if len(errors) > 1 else 0.0


def unfinished(configs: dict[str, RunConfig], out: Path) -> dict[str, RunConfig]:
    """Runs that are still to be done, or gone on with. Those that failed stay as they are: they would fail again.

    Raises:
        RequestError: if a run of the same name was made with another config.
    """
    left = {}
    for name, config in configs.items():
        folder = RunFolder(out / name)
        if folder.holds_run() and (changed := differences(load_config(folder.config), config)):
            raise RequestError(
                f"{folder.root} was made with another config: {'; '.join(changed)}. Name another --out, or take the"
                " runs of before away."
            )
        if not (folder.run.exists() and folder.read_run().status in ("done", "failed")):
            left[name] = config
    return left
