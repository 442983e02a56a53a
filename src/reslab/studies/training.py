"""The job of most studies: a network is trained, and its errors are read from the run's records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from reslab.records import DepthRecord, MeasureRecord, ReadingRecord, RunFolder, first_and_last, write_atomic
from reslab.run.config import RunConfig, differences, load_config, override
from reslab.studies.job import Status

PARAMETERS = MeasureRecord("num_parameters", "parameters", "count")
TRAIN_ERROR = MeasureRecord("train_error", "clean training error", "percent", charted=True)
TEST_ERROR = MeasureRecord("test_error", "test error", "percent", charted=True)
GAP = MeasureRecord("gap", "test less training", "points")
DURATION = MeasureRecord("duration_s", "a run takes", "seconds")
ERRORS = (PARAMETERS, TRAIN_ERROR, TEST_ERROR, DURATION)
"""What every training has."""
FLOW = (
    MeasureRecord("start_growth", "gradient, first block over last, start", "number", is_brief=False),
    MeasureRecord("end_growth", "gradient, first block over last, end", "number", is_brief=False),
)
"""How many times the gradient at the first block is as large as at the last one."""
DEPTH = (
    MeasureRecord("start_half", "half distance, start", "distance", is_brief=False),
    MeasureRecord("end_half", "half distance, end", "distance", is_brief=False),
    MeasureRecord("start_effective", "effective depth, start", "number", is_brief=False),
    MeasureRecord("end_effective", "effective depth, end", "number", is_brief=False),
)
"""What is measured of the depth, where a study asks."""
KEPT = MeasureRecord("kept_mib", "kept for backward", "mib")
"""Of one batch, where a study asks for costs."""
STEP = MeasureRecord("step_ratio", "a step's time over fp32's", "number")
"""Of the same network in the run's precision and in fp32, by turns in one process."""
Look = Literal["depth", "costs"]


@dataclass(frozen=True)
class Training:
    """A run of ``reslab train``.

    Args:
        config: of the run.
        weights: whose errors count: those after the last step, or the best by the validation split.
        looks: what else is measured: paths and shattering before the first and after the last step; what a step
            costs: the memory that its forward pass keeps, its time over that in fp32.
    """

    config: RunConfig
    weights: Literal["last", "best"] = "last"
    looks: tuple[Look, ...] = ()

    def seeded(self, seed: int) -> Training:
        """With another seed."""
        return replace(self, config=override(self.config, {"train.seed": seed}, where="the study"))

    @property
    def wants_gpu(self) -> bool:
        """Unless the config says otherwise."""
        return self.config.train.device.startswith(("auto", "cuda"))

    def check(self) -> None:
        """Its data.

        Raises:
            RequestError: if it is missing or damaged.
            WorkFailed: if it can't be downloaded.
        """
        from reslab.data import find_source

        find_source(self.config.data)

    def run(self, out: Path, *, resume: bool) -> str:
        """Trains, then looks at the depth. Not every exception can be pickled, hence words."""
        from reslab.run.measure import record_costs, record_depth
        from reslab.run.train import run_training

        folder = RunFolder(out)
        try:
            outcome = run_training(self.config, out, resume=resume, overwrite=not resume and folder.holds_run())
            if not outcome.interrupted and "depth" in self.looks and not folder.depth.exists():
                record_depth(folder)
            if not outcome.interrupted and "costs" in self.looks and not folder.costs.exists():
                record_costs(folder)
        except Exception as error:
            if self.status(out) == "failed":
                record_verdict(folder)
            return f"{type(error).__name__}: {error}"
        return "interrupted" if outcome.interrupted else ""

    def status(self, out: Path) -> Status:
        """A run that diverged would diverge again; any other that hasn't ended goes on."""
        folder = RunFolder(out)
        if not folder.run.exists():
            return "open" if folder.holds_run() else "new"
        record = folder.read_run()
        if record.status == "done":
            files = {"depth": folder.depth, "costs": folder.costs}
            return "done" if all(files[look].exists() for look in self.looks) else "open"
        return "failed" if record.status == "failed" and "step" in (record.failure or {}) else "open"

    def progress(self, out: Path) -> str:
        """By its epochs; after the last one it evaluates."""
        done, settings = len(RunFolder(out).read_epochs()), self.config.train
        if settings.steps:
            return f"epoch {done + 1}"
        return f"epoch {done + 1} of {settings.epochs}" if done < settings.epochs else "evaluates"

    def changes(self, out: Path) -> list[str]:
        """Of the run's config."""
        folder = RunFolder(out)
        return differences(load_config(folder.config), self.config) if folder.config.exists() else []

    def values(self, out: Path) -> dict[str, float]:
        """Errors, length, and what was measured of the depth."""
        folder = RunFolder(out)
        record = folder.read_run()
        errors = record.best if self.weights == "best" else record.last
        assert errors is not None, out
        found = {
            "num_parameters": record.model["num_parameters"],
            "train_error": errors.scores["train_error"],
            "duration_s": record.duration_s,
        }
        if "test_error" in errors.scores:
            found |= {
                "test_error": errors.scores["test_error"],
                "test_accuracy": 1 - errors.scores["test_error"],
                "gap": errors.scores["test_error"] - errors.scores["train_error"],
            }
        if "depth" in self.looks:
            found |= growths(folder.read_readings())
            for when, depth in folder.read_depth().items():
                found |= depth_values(when, depth)
        if "costs" in self.looks:
            found |= folder.read_costs()
        return found

    def failure(self, out: Path) -> str:
        """In the words of its record, and of the verdict on what was read until then."""
        folder = RunFolder(out)
        words = str((folder.read_run().failure or {}).get("sentence", "it failed"))
        return f"{words} {folder.verdict.read_text(encoding='utf-8')}" if folder.verdict.exists() else words

    def made_on(self, out: Path) -> tuple[dict[str, Any], dict[str, str]]:
        """From run.json."""
        record = RunFolder(out).read_run()
        return record.machine, record.versions

    def expected_s(self) -> float:
        """From the time of a step; equal networks are timed once."""
        from reslab.studies.estimate import run_seconds  # which needs torch

        return run_seconds(self.config)


def record_verdict(folder: RunFolder) -> None:
    """What is wrong, by the readings of a run that diverged, in a sentence beside what it saved."""
    from reslab.run.diagnose import diagnose_run

    if folder.read_readings() and (findings := diagnose_run(folder).findings):
        write_atomic(folder.verdict, f"Verdict: {findings[0].id} ({findings[0].where}). {findings[0].sentence}")


def growths(probes: Sequence[ReadingRecord]) -> dict[str, float]:
    """Gradient at the first block over that at the last one, in the first step and the last one that was read."""
    if not probes:
        return {}
    ends = zip(("start", "end"), first_and_last(probes), strict=True)
    return {f"{when}_growth": read[0].grad_norm / (read[-1].grad_norm or math.nan) for when, read in ends}


def depth_values(when: str, depth: DepthRecord) -> dict[str, float]:
    """A network without shortcuts has no paths to count."""
    found = {} if depth.shattering is None else {f"{when}_half": depth.shattering.half}
    return found | ({} if depth.paths is None else {f"{when}_effective": depth.paths.effective})
