"""What a run shows and writes while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reslab.records import (
    EpochRecord,
    FlightRecord,
    ReadingRecord,
    RecordWriter,
    RunFolder,
    StepRecord,
    encode,
    to_plain,
    write_atomic,
)
from reslab.train.checkpoint import load_newest_checkpoint, save_checkpoint
from reslab.train.fit import Recorder


class Display:
    """Shows a run while it goes on. This one shows nothing; the command line has those that do."""

    def start(self, name: str, *, total_steps: int, first_step: int) -> None:
        """Before the first step."""

    def step(self, record: StepRecord) -> None:
        """After each optimiser step."""

    def epoch(self, record: EpochRecord) -> None:
        """After each epoch."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def stop(self) -> None:
        """After the last step, whatever happened."""


class Follower(Recorder):
    """In the other processes of a run: reads what the run goes on from, and writes nothing."""

    def __init__(self, folder: RunFolder, *, resume: bool) -> None:
        self.folder, self.resume = folder, resume

    def restore(self) -> dict[str, Any] | None:
        """The checkpoint that the first process goes on from."""
        return load_newest_checkpoint(self.folder.checkpoints)[0] if self.resume else None


class RunRecorder(Recorder):
    """Writes what happens during ``fit`` into a run's folder, and shows it.

    Args:
        folder: of the run.
        display: where it is shown.
        resume: go on from the newest good checkpoint.
        tracker: gets the records too; a tracking service, for instance.
    """

    def __init__(self, folder: RunFolder, display: Display, *, resume: bool, tracker: Recorder | None = None) -> None:
        self.folder, self.display, self.resume = folder, display, resume
        self.tracker = tracker or Recorder()
        self.steps, self.epochs = RecordWriter(folder.steps), RecordWriter(folder.epochs)
        self.readings = RecordWriter(folder.readings)

    def restore(self) -> dict[str, Any] | None:
        """The newest good checkpoint, if the run is to go on."""
        if not self.resume:
            return None
        state, reasons = load_newest_checkpoint(self.folder.checkpoints)
        for reason in reasons:
            self.display.note(reason)
        if state is None:
            self.display.note("no good checkpoint yet: starts at step 0")
        return state

    def step(self, record: StepRecord) -> None:
        """Appends to steps.jsonl."""
        self.steps.write(record)
        self.display.step(record)
        self.tracker.step(record)

    def epoch(self, record: EpochRecord) -> None:
        """Appends to epochs.jsonl."""
        self.epochs.write(record)
        self.display.epoch(record)
        self.tracker.epoch(record)

    def probe(self, records: Sequence[ReadingRecord]) -> None:
        """Appends to readings.jsonl."""
        self.readings.write(*records)
        self.tracker.probe(records)

    def flight(self, records: Sequence[FlightRecord]) -> None:
        """Writes flight.jsonl anew."""
        write_atomic(self.folder.flight, "".join(encode(to_plain(record)) + "\n" for record in records))

    def checkpoint(self, state: dict[str, Any], *, step: int) -> None:
        """Saves into checkpoints/."""
        save_checkpoint(self.folder.checkpoints, state, step=step)

    def note(self, text: str) -> None:
        """Shows it."""
        self.display.note(text)

    def close(self) -> None:
        """Closes the files."""
        for writer in (self.steps, self.epochs, self.readings):
            writer.close()
        self.tracker.close()
