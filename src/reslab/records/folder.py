"""The folder that a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reslab.errors import RequestError
from reslab.records.depth import DepthRecord
from reslab.records.diagnosis import ReadingRecord
from reslab.records.files import read_records
from reslab.records.flight import FlightRecord
from reslab.records.nested import from_plain, read_nested
from reslab.records.training import BlockGradientRecord, EpochRecord, RunRecord, StepRecord


@dataclass(frozen=True)
class RunFolder:
    """The names of a run's files, and how to read its records.

    Args:
        root: such as ``runs/r20``.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.root / "config.toml"

    @property
    def run(self) -> Path:
        """The run record."""
        return self.root / "run.json"

    @property
    def steps(self) -> Path:
        """Step records."""
        return self.root / "steps.jsonl"

    @property
    def epochs(self) -> Path:
        """Epoch records."""
        return self.root / "epochs.jsonl"

    @property
    def probes(self) -> Path:
        """Probe records."""
        return self.root / "probes.jsonl"

    @property
    def readings(self) -> Path:
        """Reading records: whole passes, as a diagnosis sees them."""
        return self.root / "readings.jsonl"

    @property
    def flight(self) -> Path:
        """Flight records: the last steps of a run that failed or diverged."""
        return self.root / "flight.jsonl"

    @property
    def depth(self) -> Path:
        """Depth records: what the network used its depth for at the start and the end, where a study asked."""
        return self.root / "depth.json"

    @property
    def costs(self) -> Path:
        """What a step costs, where a study asked."""
        return self.root / "costs.json"

    @property
    def tensorboard(self) -> Path:
        """Scalars for TensorBoard, of a run that was tracked."""
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.root / "checkpoints"

    @property
    def weights(self) -> Path:
        """The network for others."""
        return self.root / "weights.safetensors"

    @property
    def weights_card(self) -> Path:
        """What the weights are."""
        return self.root / "weights.json"

    @property
    def last_weights(self) -> Path:
        """The weights after the last step, where others were chosen."""
        return self.root / "weights-last.safetensors"

    @property
    def failure(self) -> Path:
        """What a diverged run saved."""
        return self.root / "failure"

    @property
    def verdict(self) -> Path:
        """Why a run of a study diverged, in a sentence."""
        return self.failure / "verdict.txt"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def name(self) -> str:
        """What pages and tables call the run."""
        return self.root.resolve().name

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.run.exists() or self.config.exists()

    def read_run(self) -> RunRecord:
        """run.json; a RequestError names it if it is damaged or absent."""
        try:
            return RunRecord.from_json(self.run.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RequestError(f"{self.root} is not a run: it has no run.json.") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError(f"{self.run} is damaged: {error}") from None

    def read_steps(self) -> list[StepRecord]:
        """steps.jsonl."""
        return read_records(self.steps, StepRecord)

    def read_epochs(self) -> list[EpochRecord]:
        """epochs.jsonl."""
        return read_records(self.epochs, EpochRecord)

    def read_probes(self) -> list[BlockGradientRecord]:
        """probes.jsonl."""
        return read_records(self.probes, BlockGradientRecord)

    def read_readings(self) -> list[ReadingRecord]:
        """readings.jsonl."""
        return read_nested(self.readings, ReadingRecord, key=lambda record: record.step)

    def read_flight(self) -> list[FlightRecord]:
        """flight.jsonl."""
        return read_nested(self.flight, FlightRecord, key=lambda record: record.step)

    def read_depth(self) -> dict[str, DepthRecord]:
        """depth.json: ``start`` and ``end``; empty if the depth wasn't measured."""
        if not self.depth.exists():
            return {}
        try:
            found: dict[str, DepthRecord] = from_plain(
                dict[str, DepthRecord], json.loads(self.depth.read_text(encoding="utf-8"))
            )
        except (ValueError, TypeError) as error:
            raise RequestError(f"{self.depth} is damaged ({error}). Delete it; the study measures it again.") from None
        return found

    def read_costs(self) -> dict[str, float]:
        """costs.json: ``kept_mib`` and ``step_ratio``."""
        try:
            found = json.loads(self.costs.read_text(encoding="utf-8"))
            return {key: float(found[key]) for key in ("kept_mib", "step_ratio")}
        except (ValueError, TypeError, KeyError) as error:
            raise RequestError(f"{self.costs} is damaged ({error}). Delete it; the study measures it again.") from None


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Runs directly inside ``folder``, in order of name."""
    if folder.is_dir():
        yield from (RunFolder(path) for path in sorted(folder.iterdir()) if RunFolder(path).run.exists())
