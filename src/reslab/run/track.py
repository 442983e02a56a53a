"""What others look at while a run trains: its key scalars for TensorBoard."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reslab.errors import RequestError
from reslab.probe import Evidence, NotChecked, flow_profile, judge
from reslab.records import (
    EpochRecord,
    LossRecord,
    ReadingRecord,
    RunFolder,
    StepRecord,
    VerdictRecord,
)
from reslab.train.fit import Recorder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

POINTS = 1000
"""Steps of a run that are written, more or less."""


def check_track(kind: str) -> None:
    """Refuses a tracker that isn't installed."""
    if kind == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise RequestError("--track tensorboard needs TensorBoard, which isn't installed: pip install 'reslab[track]'")


class TensorBoard(Recorder):
    """Writes RUN/tensorboard: about a thousand steps of a run, its epochs, and what readings show, with the verdict.

    Args:
        folder: of the run; what it holds of steps that a resumed run repeats is replaced.
        total_steps: of the run.
    """

    def __init__(self, folder: RunFolder, *, total_steps: int) -> None:
        self.folder, self.total_steps = folder, total_steps
        self.every = max(1, total_steps // POINTS)
        self.writer: SummaryWriter | None = None
        self.readings: list[ReadingRecord] = []
        self.losses: list[LossRecord] = []

    def step(self, record: StepRecord) -> None:
        """Loss, rate and gradient norm, of every so many steps and of the last."""
        self._open(record.step)
        self.losses.append(LossRecord(record.step, record.loss))
        if record.step % self.every == 0 or record.step == self.total_steps - 1:
            self._write("train", {"loss": record.loss, "lr": record.lr, "grad_norm": record.grad_norm}, record.step)

    def epoch(self, record: EpochRecord) -> None:
        """Losses, errors and pace, at the last step of the epoch."""
        self._write("epoch", {**record.scores, "items_per_s": record.items_per_s}, record.step - 1)

    def probe(self, records: Sequence[ReadingRecord]) -> None:
        """What a reading comes to, and the verdict over all so far."""
        for record in records:
            self._open(record.step)
            self.readings.append(record)
            self._write("flow", flow_of(record), record.step)
            verdict = judge(Evidence(tuple(self.readings), tuple(self.losses)))
            assert self.writer is not None, "it was opened above"
            self.writer.add_text("verdict", in_words(verdict), record.step)

    def close(self) -> None:
        """Writes what is left."""
        if self.writer is not None:
            self.writer.close()

    def _open(self, step: int) -> None:
        """At the first step of this sitting; what was written of it and later ones before is not shown any more."""
        if self.writer is not None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder.tensorboard), purge_step=step)
        self.readings = [record for record in self.folder.read_readings() if record.step < step]
        earlier = [record for record in self.folder.read_steps() if record.step < step]
        self.losses = [LossRecord(record.step, record.loss) for record in earlier]

    def _write(self, group: str, scalars: dict[str, float | None], step: int) -> None:
        assert self.writer is not None, "a step comes before all else"
        for name, value in scalars.items():
            if value is not None:
                self.writer.add_scalar(f"{group}/{name}", value, step)


def flow_of(reading: ReadingRecord) -> dict[str, float | None]:
    """The few numbers that a reading comes to; None for what it doesn't have."""
    norms = [place.grad_norm for place in reading.blocks or reading.layers if math.isfinite(place.grad_norm)]
    shares = [block.shortcut_share for block in reading.blocks if math.isfinite(block.shortcut_share)]
    moved = [(p.update_norm, p.weight_norm) for p in reading.parameters if len(p.shape) > 1]
    ratios = [update / weight for update, weight in moved if update and weight]
    try:
        slope = flow_profile(reading).line.slope
    except NotChecked:
        slope = None
    return {
        "largest_grad_norm": max(norms, default=None),
        "smallest_grad_norm": min(norms, default=None),
        "slope": slope,
        "median_shortcut_share": statistics.median(shares) if shares else None,
        "update_ratio": statistics.median(ratios) if ratios else None,
    }


def in_words(verdict: VerdictRecord) -> str:
    """The verdict and its findings, in Markdown."""
    lines = [f"- {found.severity}, {found.id}, at {found.where}: {found.sentence}" for found in verdict.findings]
    return "\n".join([f"**{verdict.verdict}**", "", *lines])
