"""Progress while a run trains: a bar with the time left on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from reslab.records import EpochRecord, StepRecord, as_percent
from reslab.run.recorder import Display

DATA_BOUND = 0.1
"""Share of the time spent waiting for batches from which the line of an epoch says how much of its pace is left."""


def epoch_line(record: EpochRecord) -> str:
    """One epoch in one line."""
    parts = [
        f"epoch {record.epoch + 1:>3}",
        f"lr {record.lr:.4g}",
        f"train loss {record.scores['train_loss']:.4f}",
        f"error {as_percent(record.scores.get('train_error'))}",
    ]
    if "val_loss" in record.scores:
        parts += [f"val loss {record.scores['val_loss']:.4f}", f"error {as_percent(record.scores.get('val_error'))}"]
    parts += [f"{record.items_per_s:,.0f} images/s", f"{record.duration_s:.1f} s"]
    if record.data_wait_frac is not None and record.data_wait_frac > DATA_BOUND:
        parts.append(f"data-bound: {100 * (1 - record.data_wait_frac):.0f} %")
    return "  ".join(parts)


class BarDisplay(Display):
    """A bar per run, and a line per epoch above it."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, loss {task.fields[loss]:.4f}, left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task: TaskID | None = None

    def start(self, name: str, *, total_steps: int, first_step: int) -> None:
        """Shows the bar."""
        self.task = self.progress.add_task(name, total=total_steps, completed=first_step, loss=float("nan"))
        self.progress.start()

    def step(self, record: StepRecord) -> None:
        """Moves it."""
        assert self.task is not None
        self.progress.update(self.task, completed=record.step + 1, loss=record.loss)

    def epoch(self, record: EpochRecord) -> None:
        """Prints a line above it."""
        self.progress.console.print(epoch_line(record), highlight=False)

    def note(self, text: str) -> None:
        """Prints a line above it."""
        self.progress.console.print(text, highlight=False, style="yellow")

    def stop(self) -> None:
        """Removes the live part."""
        self.progress.stop()


class LineDisplay(Display):
    """A line per epoch with the time left; for logs and pipes."""

    def __init__(self) -> None:
        self.total, self.first, self.started = 0, 0, 0.0

    def start(self, name: str, *, total_steps: int, first_step: int) -> None:
        """Says what begins."""
        self.total, self.first, self.started = total_steps, first_step, time.perf_counter()
        self.note(f"{name}: {total_steps} steps" + (f", goes on at {first_step}" if first_step else ""))

    def epoch(self, record: EpochRecord) -> None:
        """One line, with the time left at the pace so far."""
        pace_s = (time.perf_counter() - self.started) / max(1, record.step - self.first)
        left_s = pace_s * (self.total - record.step)
        self.note(f"{epoch_line(record)}  left {left_s // 60:.0f}:{left_s % 60:02.0f}")

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)


def make_display() -> Display:
    """The bar on a terminal, lines elsewhere."""
    return BarDisplay() if sys.stderr.isatty() else LineDisplay()
