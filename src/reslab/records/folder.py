"""A run's folder: the names of its files, and how its records are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reslab.errors import RequestError
from reslab.records.depth import DepthRecord
from reslab.records.diagnosis import ReadingRecord
from reslab.records.files import first_problem, read_json, read_lines
from reslab.records.training import EpochRecord, FlightRecord, RunRecord, StepRecord

OLDER_FILES = ("weights.safetensors", "weights-last.safetensors", "weights.json", "probes.jsonl")
"""Files that older versions wrote into a run's folder."""


class _File:
    """A path in the folder, by its name there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: RunFolder, kind: type[RunFolder]) -> Path:
        return folder.root / self.name


@dataclass(frozen=True)
class RunFolder:
    """The names of a run's files, and how to read its records.

    Args:
        root: such as ``runs/r20``.
    """

    root: Path

    config = _File("config.toml")  # the resolved config
    run = _File("run.json")
    steps, epochs = _File("steps.jsonl"), _File("epochs.jsonl")
    readings = _File("readings.jsonl")  # whole passes, as a diagnosis sees them
    flight = _File("flight.jsonl")  # the last steps of a run that failed or diverged
    checkpoints = _File("checkpoints")
    card, weights = _File("config.json"), _File("model.safetensors")  # the bundle
    last_weights = _File("model-last.safetensors")  # those after the last step, beside the selected ones
    report = _File("report.html")
    failure = _File("failure")  # what a diverged run saved
    verdict = _File("failure/verdict.txt")  # why a run of a study diverged, in a sentence
    tensorboard = _File("tensorboard")
    depth, costs = _File("depth.json"), _File("costs.json")  # measured where a study asks

    @property
    def name(self) -> str:
        """The run's name on pages and in tables: that of its folder."""
        return self.root.resolve().name

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.run.exists() or self.config.exists()

    def has_weights(self) -> bool:
        """Whether the bundle is there, or what older versions wrote in its place."""
        return self.card.exists() or (self.root / "weights.json").exists()

    def files(self) -> list[Path]:
        """All files of a run, those of older versions too; folders are left out."""
        names = [file.name for file in vars(RunFolder).values() if isinstance(file, _File) and "." in file.name]
        return [self.root / name for name in (*names, *OLDER_FILES)]

    def read_run(self) -> RunRecord:
        """Read run.json; a RequestError names it if it is damaged or absent."""
        try:
            return RunRecord.from_json(self.run.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RequestError(f"{self.root} is not a run: it has no run.json.") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError(f"{self.run} is damaged: {first_problem(error)}") from None

    def read_steps(self) -> list[StepRecord]:
        return read_lines(self.steps, StepRecord, key=lambda record: record.step)

    def read_epochs(self) -> list[EpochRecord]:
        return read_lines(self.epochs, EpochRecord, key=lambda record: record.epoch)

    def read_readings(self) -> list[ReadingRecord]:
        return read_lines(self.readings, ReadingRecord, key=lambda record: record.step)

    def read_flight(self) -> list[FlightRecord]:
        return read_lines(self.flight, FlightRecord, key=lambda record: record.step)

    def read_depth(self) -> dict[str, DepthRecord]:
        """Read the depth measured at ``start`` and ``end`` of training; empty if it wasn't measured."""
        if not self.depth.exists():
            return {}
        return read_json(self.depth, dict[str, DepthRecord], mend="Delete it; the study measures it again.")

    def read_costs(self) -> dict[str, float]:
        """Read ``kept_mib`` and ``step_ratio``: what a step keeps in memory, and its time over that in fp32."""
        try:
            found = json.loads(self.costs.read_text(encoding="utf-8"))
            return {key: float(found[key]) for key in ("kept_mib", "step_ratio")}
        except (ValueError, TypeError, KeyError) as error:
            raise RequestError(f"{self.costs} is damaged ({error}). Delete it; the study measures it again.") from None


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Find the runs directly inside ``folder``, in order of name."""
    if folder.is_dir():
        yield from (RunFolder(path) for path in sorted(folder.iterdir()) if RunFolder(path).run.exists())
