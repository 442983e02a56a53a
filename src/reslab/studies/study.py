"""A study: a question, the runs that answer it, and a conclusion computed from their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.errors import RequestError
from reslab.records import RunFolder, StudyRecord
from reslab.records.files import write_atomic
from reslab.records.study import MeasureRecord, StudyRow
from reslab.studies.runs import RunState, StudyRun

PAGE, TABLE, RECORD, PICTURE = "index.html", "table.md", "study.json", "means.png"
"""What lies in a study's folder beside its runs."""


@dataclass(frozen=True)
class Setting:
    """A row of the table: something that is computed once for each seed."""

    name: str
    factors: dict[str, int | float | str]  # by column, such as ``depth`` and ``kind``
    run: StudyRun  # but for the seed
    cost: float = 1.0  # how long it takes, in a unit that all settings share; the longest are started first

    def row(self, states: Mapping[int, RunState], measures: Sequence[MeasureRecord]) -> StudyRow:
        """Gather what the runs from several seeds have left."""
        done = [state.values for state in states.values() if state.status == "done"]
        numbers = {one.key: tuple(float(found[one.key]) for found in done if one.key in found) for one in measures}
        return StudyRow(
            self.name,
            self.factors,
            values={key: found for key, found in numbers.items() if found},
            failed={str(seed): state.detail for seed, state in states.items() if state.status == "failed"},
            waiting=sum(not state.has_ended for state in states.values()),
        )


@dataclass(frozen=True)
class Study:
    """A question and the runs that answer it.

    Args:
        name: of study and preset, such as ``degradation-digits``; marked if other runs were chosen.
        command: that runs it; where the data lies is left out.
        title: what it is about, in a line.
        question: that it answers.
        protocol: how, in sentences.
        settings: in the order of the table.
        seeds: of each setting.
        measures: columns of the table.
        conclude: turns rows into what they say, in sentences.
        exclusive: whether one run has the machine to itself, because its speed or memory is what is measured.

    Example:
        >>> from reslab.studies import StudySpec, create_study
        >>> study = create_study(StudySpec("degradation", depths=(8, 14), kinds=("plain",), seeds=1))
        >>> study.name, list(study.runs())
        ('degradation-digits-30c779', ['plain14-seed0', 'plain8-seed0'])
    """

    name: str
    command: str
    title: str
    question: str
    protocol: tuple[str, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    measures: tuple[MeasureRecord, ...]
    conclude: Callable[[Sequence[StudyRow]], str]
    exclusive: bool = False

    def runs(self) -> dict[str, StudyRun]:
        """All runs by the names of their folders, the longest first."""
        ordered = sorted(self.settings, key=lambda setting: -setting.cost)
        return {run_name(one, seed): one.run.with_seed(seed) for one in ordered for seed in self.seeds}

    def record(self, out: Path) -> StudyRecord:
        """The study as it stands, from the files in its folder alone."""
        runs = self.runs()
        states = [
            {seed: runs[name].read(out / name) for seed in self.seeds for name in [run_name(one, seed)]}
            for one in self.settings
        ]
        rows = tuple(one.row(some, self.measures) for one, some in zip(self.settings, states, strict=True))
        done = (state for some in states for state in some.values() if state.status == "done")
        first = next(done, RunState("new"))
        return StudyRecord(
            name=self.name,
            title=self.title,
            question=self.question,
            protocol=self.protocol,
            command=self.command,
            seeds=self.seeds,
            measures=self.measures,
            rows=rows,
            conclusion=self.conclude(rows),
            machine=first.machine,
            versions=first.versions,
        )

    def write(self, out: Path) -> StudyRecord:
        """Write record, table, page and picture, where they are missing or no longer what the runs say.

        The page draws the runs of the first seed one by one.
        """
        record = self.record(out)
        is_whole = all((out / name).exists() for name in (PAGE, TABLE, RECORD))
        if is_whole and (out / RECORD).read_text(encoding="utf-8") == record.to_json():
            return record

        from reslab.report import study_means, write_study_page  # altair takes half a second
        from reslab.report.study_table import markdown_of

        write_atomic(out / TABLE, markdown_of(record))
        folders = [RunFolder(out / run_name(setting, self.seeds[0])) for setting in self.settings]
        write_study_page(record, [folder for folder in folders if folder.run.exists()], out / PAGE)
        if (means := study_means(record)).is_drawn:
            means.save(out / PICTURE)
        write_atomic(out / RECORD, record.to_json())
        return record


def run_name(setting: Setting, seed: int) -> str:
    return f"{setting.name}-seed{seed}"


def unfinished(runs: Mapping[str, StudyRun], out: Path) -> dict[str, StudyRun]:
    """Find the runs that have not ended. Those that diverged have: they would diverge again.

    Raises:
        RequestError: if a run of the same name was made with another config.
    """
    left = {}
    for name, run in runs.items():
        if changed := run.changes(out / name):
            raise RequestError(
                f"{out / name} was made with another config: {'; '.join(changed)}. Name another --out, or move the"
                " earlier runs away."
            )
        if not run.read(out / name).has_ended:
            left[name] = run
    return left
