"""A study: a question, the runs that answer it, and a conclusion computed from their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reslab.errors import RequestError
from reslab.records import MeasureRecord, StudyRecord, StudyRow
from reslab.studies.job import Job
from reslab.studies.presets import Chosen
from reslab.studies.training import ERRORS

PAGE, TABLE, RECORD, PICTURE = "index.html", "table.md", "study.json", "means.png"
"""What lies in a study's folder beside its runs."""


@dataclass(frozen=True)
class Entry:
    """One setting, run once for each seed.

    Args:
        name: of its row.
        factors: what it stands for in the table, by column, such as ``depth`` and ``kind``.
        job: what is done, but for the seed.
        cost: how long a run takes, in any unit that all entries share; the longest are started first.
    """

    name: str
    factors: dict[str, int | float | str]
    job: Job
    cost: float = 1.0


@dataclass(frozen=True)
class Study:
    """A grid of runs.

    Args:
        chosen: name, command, recipe and seeds, as its user chose.
        title: what it is about, in a line.
        question: that it answers.
        protocol: how, in sentences.
        entries: in the order of the table.
        conclude: rows to what they say, in sentences.
        measures: columns of the table.
        together: whether the runs may share this machine: not where their speed or memory is what is measured.
    """

    chosen: Chosen
    title: str
    question: str
    protocol: tuple[str, ...]
    entries: tuple[Entry, ...]
    conclude: Callable[[Sequence[StudyRow]], str]
    measures: tuple[MeasureRecord, ...] = field(default=ERRORS)
    together: bool = True

    @property
    def name(self) -> str:
        """Of study and preset, such as ``degradation-digits``."""
        return self.chosen.name

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each entry."""
        return self.chosen.seeds

    def jobs(self) -> dict[str, Job]:
        """All runs by name, the longest first."""
        ordered = sorted(self.entries, key=lambda entry: -entry.cost)
        return {run_name(entry, seed): entry.job.seeded(seed) for entry in ordered for seed in self.seeds}

    def rows(self, out: Path) -> list[StudyRow]:
        """The table as it stands, from the records alone."""
        return [row_of(entry, self, out) for entry in self.entries]

    def record(self, out: Path) -> StudyRecord:
        """All that there is to say, from the records alone."""
        rows = self.rows(out)
        done = (
            entry.job.seeded(seed).made_on(folder)
            for entry in self.entries
            for seed in self.seeds
            if entry.job.seeded(seed).status(folder := out / run_name(entry, seed)) == "done"
        )
        machine, versions = next(done, ({}, {}))
        return StudyRecord(
            name=self.name,
            title=self.title,
            question=self.question,
            protocol=self.protocol,
            command=self.chosen.command,
            seeds=self.seeds,
            measures=self.measures,
            rows=tuple(rows),
            conclusion=self.conclude(rows),
            machine=machine,
            versions=versions,
        )


def run_name(entry: Entry, seed: int) -> str:
    """Of its folder."""
    return f"{entry.name}-seed{seed}"


def row_of(entry: Entry, study: Study, out: Path) -> StudyRow:
    """What has been recorded of an entry's runs."""
    values: dict[str, list[float]] = {measure.key: [] for measure in study.measures}
    failed: dict[str, str] = {}
    waiting = 0
    for seed in study.seeds:
        job, folder = entry.job.seeded(seed), out / run_name(entry, seed)
        status = job.status(folder)
        if status == "done":
            for key, value in job.values(folder).items():
                if key in values:
                    values[key].append(float(value))
        elif status == "failed":
            failed[str(seed)] = job.failure(folder)
        else:
            waiting += 1
    found = {key: tuple(numbers) for key, numbers in values.items() if numbers}
    return StudyRow(entry.name, entry.factors, found, failed, waiting)


def unfinished(jobs: Mapping[str, Job], out: Path) -> dict[str, Job]:
    """Runs that are still to be done, or gone on with. Those that diverged stay as they are: they would do so again.

    Raises:
        RequestError: if a run of the same name was made with another config.
    """
    left = {}
    for name, job in jobs.items():
        if changed := job.changes(out / name):
            raise RequestError(
                f"{out / name} was made with another config: {'; '.join(changed)}. Name another --out, or take the"
                " runs of before away."
            )
        if job.status(out / name) not in ("done", "failed"):
            left[name] = job
    return left
