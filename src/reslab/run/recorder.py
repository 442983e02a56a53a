"""What a run writes while it trains: its records, checkpoints, and scalars for TensorBoard."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reslab.errors import RequestError
from reslab.probe.evidence import Evidence, NotChecked, flow_profile
from reslab.probe.rules import judge
from reslab.records import EpochRecord, ReadingRecord, RunFolder, Score, StepRecord
from reslab.records.diagnosis import LossRecord, VerdictRecord
from reslab.records.files import RecordWriter, encode, to_plain, write_atomic
from reslab.records.training import FlightRecord
from reslab.run.display import Display
from reslab.training.checkpoint import load_newest_checkpoint, save_checkpoint
from reslab.training.loop import Recorder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Follower(Recorder):
    """In the other processes of a run: reads what the run resumes from, and writes nothing."""

    def __init__(self, folder: RunFolder, *, resume: bool) -> None:
        self.folder, self.resume = folder, resume

    def restore(self) -> dict[str, Any] | None:
        """The checkpoint that the first process resumes from."""
        return load_newest_checkpoint(self.folder.checkpoints)[0] if self.resume else None


class RunRecorder(Recorder):
    """Writes what happens during ``fit`` into a run's folder, and shows it.

    Args:
        folder: of the run.
        display: where it is shown.
        score: that the task is judged by.
        resume: start from the newest good checkpoint.
        tracker: gets the records too; a tracking service, for instance.
    """

    def __init__(
        self, folder: RunFolder, display: Display, *, score: Score, resume: bool, tracker: Recorder | None = None
    ) -> None:
        self.folder, self.display, self.score, self.resume = folder, display, score, resume
        self.tracker = tracker or Recorder()
        self.steps, self.epochs = RecordWriter(folder.steps), RecordWriter(folder.epochs)
        self.readings = RecordWriter(folder.readings)

    def restore(self) -> dict[str, Any] | None:
        """The newest good checkpoint, if the run is resumed."""
        if not self.resume:
            return None
        state, reasons = load_newest_checkpoint(self.folder.checkpoints)
        for reason in reasons:
            self.display.note(reason)
        if state is None:
            self.display.note("no good checkpoint yet: starts at step 0")
        return state

    def step(self, record: StepRecord) -> None:
        """Append to steps.jsonl."""
        self.steps.write(record)
        self.display.step(record)
        self.tracker.step(record)

    def epoch(self, record: EpochRecord) -> None:
        """Append to epochs.jsonl."""
        self.epochs.write(record)
        self.display.epoch(record, self.score)
        self.tracker.epoch(record)

    def probe(self, records: Sequence[ReadingRecord]) -> None:
        """Append to readings.jsonl."""
        self.readings.write(*records)
        self.tracker.probe(records)

    def flight(self, records: Sequence[FlightRecord]) -> None:
        """Write flight.jsonl anew."""
        write_atomic(self.folder.flight, "".join(encode(to_plain(record)) + "\n" for record in records))

    def checkpoint(self, state: dict[str, Any], *, step: int) -> None:
        """Save into checkpoints/."""
        save_checkpoint(self.folder.checkpoints, state, step=step)

    def note(self, text: str) -> None:
        """Show it."""
        self.display.note(text)

    def close(self) -> None:
        """Close the files."""
        for writer in (self.steps, self.epochs, self.readings):
            writer.close()
        self.tracker.close()


# ---- TensorBoard

NUM_POINTS = 1000
"""Steps of a run that are written, more or less."""


def check_track(kind: str) -> None:
    """Refuse a tracker that isn't installed."""
    if kind == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise RequestError("--track tensorboard needs TensorBoard, which isn't installed: pip install 'reslab[track]'")


class TensorBoard(Recorder):
    """Writes RUN/tensorboard: about a thousand steps of a run, its epochs, and what readings show, with the verdict.

    Args:
        folder: of the run; what it contains of steps that a resumed run repeats is replaced.
        total_steps: of the run.
    """

    def __init__(self, folder: RunFolder, *, total_steps: int) -> None:
        self.folder, self.total_steps = folder, total_steps
        self.every = max(1, total_steps // NUM_POINTS)
        self.writer: SummaryWriter | None = None
        self.readings: list[ReadingRecord] = []
        self.losses: list[LossRecord] = []

    def step(self, record: StepRecord) -> None:
        """Write loss, rate and gradient norm, of every n-th step and of the last."""
        self._open(record.step)
        self.losses.append(LossRecord(record.step, record.loss))
        if record.step % self.every == 0 or record.step == self.total_steps - 1:
            self._write("train", {"loss": record.loss, "lr": record.lr, "grad_norm": record.grad_norm}, record.step)

    def epoch(self, record: EpochRecord) -> None:
        """Write scores and pace, at the last step of the epoch."""
        self._write("epoch", {**record.scores, "items_per_s": record.items_per_s}, record.step - 1)

    def probe(self, records: Sequence[ReadingRecord]) -> None:
        """Write what a reading comes to, and the verdict over all so far."""
        for record in records:
            self._open(record.step)
            self.readings.append(record)
            self._write("flow", _flow_of(record), record.step)
            verdict = judge(Evidence(tuple(self.readings), tuple(self.losses)))
            assert self.writer is not None, "it was opened above"
            self.writer.add_text("verdict", _as_markdown(verdict), record.step)

    def close(self) -> None:
        """Write what is left."""
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

    def _write(self, group: str, scalars: dict[str, Any], step: int) -> None:
        assert self.writer is not None, "a step comes before all else"
        for name, value in scalars.items():
            if value is not None:
                self.writer.add_scalar(f"{group}/{name}", value, step)


def _flow_of(reading: ReadingRecord) -> dict[str, float | None]:
    """The few numbers that a reading comes to; None for what it doesn't have."""
    places = reading.blocks or reading.layers
    norms = [place.grad_norm for place in places if math.isfinite(place.grad_norm)]
    fractions = [block.shortcut_share for block in reading.blocks if math.isfinite(block.shortcut_share)]
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
        "median_shortcut_share": statistics.median(fractions) if fractions else None,
        "update_ratio": statistics.median(ratios) if ratios else None,
    }


def _as_markdown(verdict: VerdictRecord) -> str:
    lines = [f"- {found.severity}, {found.id}, at {found.where}: {found.sentence}" for found in verdict.findings]
    return "\n".join([f"**{verdict.verdict}**", "", *lines])
