"""The runs of a study: trainings, and measurements that train nothing; what each computes, and what it has left behind.

A run can be pickled and sent to another process or machine. It answers in words, and leaves its numbers in files.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reslab.records import RunFolder, RunRecord
from reslab.records.diagnosis import first_and_last
from reslab.records.files import encode, read_json, write_atomic
from reslab.run.config import ModelOptions, RunConfig, differences, load_config, override

if TYPE_CHECKING:
    from reslab.data import Data, DataOptions

Extra = Literal["depth", "costs"]
OVERHEAD = 1.25
"""Time of a run over that of its network's passes: loading, the optimiser, evaluation, readings."""
START_S = 5.0
"""Seconds until a process has loaded torch and its data."""


@dataclass(frozen=True)
class RunState:
    """What a run has left so far; values, machine and versions are those of a finished run.

    An ``open`` run has begun and can be resumed; a ``failed`` one diverged, and would diverge again.
    """

    status: Literal["new", "open", "done", "failed"]
    detail: str = ""  # how far an open run is, such as "epoch 3 of 15"; why a failed one failed, in sentences
    values: dict[str, float] = field(default_factory=dict)  # by measure
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.status in ("done", "failed")


@dataclass(frozen=True)
class TrainingRun:
    """A run of ``reslab train``.

    Besides scores it may measure ``depth``, paths and shattering before the first and after the last step, and
    ``costs``, the memory that a step's forward pass keeps, and its time over that in fp32.
    """

    config: RunConfig
    weights: Literal["last", "best"] = "last"  # whose scores count: after the last step, or the best by validation
    extras: tuple[Extra, ...] = ()

    def with_seed(self, seed: int) -> TrainingRun:
        return replace(self, config=override(self.config, {"train.seed": seed}, where="the study"))

    @property
    def uses_gpu(self) -> bool:
        """Whether it computes on a GPU where there is one."""
        return self.config.train.device.startswith(("auto", "cuda"))

    def check(self) -> None:
        """Refuse a run without its data; fetch that where it may."""
        from reslab.data import find_source

        find_source(self.config.data)

    def execute(self, out: Path, *, resume: bool) -> str:
        """Compute, and leave records in ``out``. Return why that failed, or an empty string."""
        from reslab.run.measure import record_costs, record_depth
        from reslab.run.train import run_training

        folder = RunFolder(out)
        try:
            if run_training(self.config, out, resume=resume, overwrite=not resume and folder.holds_run()).interrupted:
                return "interrupted"
            if "depth" in self.extras and not folder.depth.exists():
                record_depth(folder)
            if "costs" in self.extras and not folder.costs.exists():
                record_costs(folder)
        except Exception as error:  # in words, for not every exception can be pickled
            if self.read(out).status == "failed":
                write_verdict(folder)
            return f"{type(error).__name__}: {error}"
        return ""

    def read(self, out: Path) -> RunState:
        """Read what the run has left in ``out``."""
        folder = RunFolder(out)
        if not folder.holds_run():
            return RunState("new")
        record = folder.read_run() if folder.run.exists() else None
        if record and record.status == "failed" and "step" in (record.failure or {}):
            return RunState("failed", failure_text(folder, record))
        files = {"depth": folder.depth, "costs": folder.costs}
        if record and record.status == "done" and all(files[extra].exists() for extra in self.extras):
            return RunState("done", "", self._values(folder, record), record.machine, record.versions)
        done, train = len(folder.read_epochs()), self.config.train
        if train.steps or done < train.epochs:
            return RunState("open", f"epoch {done + 1}" + ("" if train.steps else f" of {train.epochs}"))
        return RunState("open", "being evaluated")

    def _values(self, folder: RunFolder, record: RunRecord) -> dict[str, float]:
        evaluation = record.best if self.weights == "best" else record.last
        assert evaluation is not None, folder.root
        scores = evaluation.scores
        values = {"num_parameters": record.model["num_parameters"], "duration_s": record.duration_s, **scores}
        if "test_error" in scores:
            values["test_accuracy"] = 1 - scores["test_error"]
            values["gap"] = scores["test_error"] - scores["train_error"]
        values |= depth_values(folder) if "depth" in self.extras else {}
        return values | (folder.read_costs() if "costs" in self.extras else {})

    def changes(self, out: Path) -> list[str]:
        """How this run differs from the one in ``out``, in phrases such as ``train.epochs was 1, now 3``."""
        folder = RunFolder(out)
        return differences(load_config(folder.config), self.config) if folder.config.exists() else []

    def expected_s(self) -> float:
        """Estimate how long it takes here, on one thread."""
        data, train = self.config.data, self.config.train
        num_images = train.steps * data.batch_size or train.epochs * len(_prepared(data).train)
        return START_S + OVERHEAD * num_images / _images_per_s(data, self.config.model, train.device)


def write_verdict(folder: RunFolder) -> None:
    """Write what is wrong by the readings of a run that diverged, in a sentence beside what it saved."""
    from reslab.run.diagnose import diagnose_run

    if folder.read_readings() and (findings := diagnose_run(folder).findings):
        write_atomic(folder.verdict, f"Verdict: {findings[0].id} ({findings[0].where}). {findings[0].sentence}")


def failure_text(folder: RunFolder, record: RunRecord) -> str:
    """Say why a run diverged, in the words of its record and of the verdict."""
    words = str((record.failure or {}).get("sentence", "It failed."))
    return f"{words} {folder.verdict.read_text(encoding='utf-8')}" if folder.verdict.exists() else words


def depth_values(folder: RunFolder) -> dict[str, float]:
    """Read what was measured of the depth; a network without shortcuts has no paths to count."""
    values = {}
    for when, norms in zip(("start", "end"), first_and_last(folder.read_readings()), strict=True):
        if norms:
            values[f"{when}_growth"] = norms[0].grad_norm / (norms[-1].grad_norm or math.nan)
    for when, depth in folder.read_depth().items():
        if depth.shattering is not None:
            values[f"{when}_half"] = depth.shattering.half
        if depth.paths is not None:
            values[f"{when}_effective"] = depth.paths.effective
    return values


@cache
def _prepared(options: DataOptions) -> Data:
    from reslab.data import find_source, prepare

    return prepare(find_source(options), options)


@cache
def _images_per_s(data_options: DataOptions, model_options: ModelOptions, device: str) -> float:
    """Measure forward and backward in fp32, on the CPU on one thread; equal networks once."""
    from reslab.distributed import Ranks
    from reslab.run.assemble import build_network, example_batch
    from reslab.tasks.classify import Classify
    from reslab.training.batches import resize_batch
    from reslab.training.execution import ExecutionMode, find_device
    from reslab.training.speed import Trial
    from reslab.untouched import same_random_numbers

    data, ranks = _prepared(data_options), Ranks(device=find_device(device))
    task = Classify(data.source.classes)
    model = build_network(model_options, task, in_channels=data.preprocess.channels).to(ranks.device)
    batch = resize_batch(example_batch(data, task, ranks=ranks), data_options.batch_size)
    trial = Trial(model, lambda network, batch: task.step(network, batch).loss, batch, num_items_in_run=1)
    with same_random_numbers({ranks.device}):
        return trial.items_per_s(ExecutionMode(channels_last=True, threads=1, ranks=ranks))


RESULT = "result.json"


@dataclass(frozen=True)
class MeasurementRecord:
    """result.json: all that the numbers of a measurement depend on, and the numbers, by measure."""

    settings: dict[str, Any]
    values: dict[str, float]
    machine: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class MeasurementRun:
    """Numbers measured by a module of this package; the methods are those of ``TrainingRun``.

    The module has ``measure(seed, **settings)``, which returns values by measure, ``expected_s(**settings)``, and
    perhaps ``check()``, which refuses what can't begin.
    """

    module: str  # its name
    settings: dict[str, Any]  # plain values
    seed: int = 0
    threads: int = 1  # to compute with; 0 for one on each core
    uses_gpu = False

    def with_seed(self, seed: int) -> MeasurementRun:
        return replace(self, seed=seed)

    def check(self) -> None:
        getattr(self._module(), "check", lambda: None)()

    def execute(self, out: Path, *, resume: bool) -> str:
        import torch

        from reslab.run.record import machine_of, versions

        torch.set_num_threads(self.threads or num_cores())
        try:
            values = self._module().measure(self.seed, **self.settings)
        except Exception as error:  # in words, for not every exception can be pickled
            return f"{type(error).__name__}: {error}"
        out.mkdir(parents=True, exist_ok=True)
        record = MeasurementRecord(self._all_settings(), values, machine_of(torch.device("cpu")), versions())
        write_atomic(out / RESULT, encode(asdict(record), indent=2) + "\n")
        return ""

    def read(self, out: Path) -> RunState:
        record = read_result(out)
        return RunState("done", "", record.values, record.machine, record.versions) if record else RunState("new")

    def changes(self, out: Path) -> list[str]:
        record, now = read_result(out), self._all_settings()
        before = record.settings if record else now
        keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        return [f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in keys]

    def expected_s(self) -> float:
        return float(self._module().expected_s(**self.settings))

    def _module(self) -> Any:
        return import_module(f"reslab.studies.{self.module}")

    def _all_settings(self) -> dict[str, Any]:
        return {**self.settings, "seed": self.seed}


StudyRun = TrainingRun | MeasurementRun


def read_result(out: Path) -> MeasurementRecord | None:
    path = out / RESULT
    mend = "Delete it; the study measures it again."
    return read_json(path, MeasurementRecord, mend=mend) if path.exists() else None


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
