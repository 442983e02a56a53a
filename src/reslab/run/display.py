"""How a run shows itself while it trains: a bar with the time left on a terminal or in a notebook, lines elsewhere."""

from __future__ import annotations

import sys
import time

from reslab.records import EpochRecord, Score, StepRecord

MAX_WAIT_FRAC = 0.1
"""Fraction of the time spent waiting for batches from which the line of an epoch says how much of its pace is left."""


class Display:
    """Shows a run while it goes on. This one shows nothing."""

    def start(self, name: str, *, total_steps: int, first_step: int) -> None:
        """Before the first step."""

    def step(self, record: StepRecord) -> None:
        """After each optimiser step."""

    def epoch(self, record: EpochRecord, score: Score) -> None:
        """After each epoch."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def stop(self) -> None:
        """After the last step, whatever happened."""


def epoch_line(record: EpochRecord, score: Score) -> str:
    """Write one epoch in one line."""
    parts = [f"epoch {record.epoch + 1:>3}", f"lr {record.lr:.4g}"]
    for split in ("train", "val"):
        if (loss := record.scores.get(f"{split}_loss")) is not None:
            parts.append(f"{split} loss {loss:.4f}")
            if (value := record.scores.get(f"{split}_{score.name}")) is not None:
                parts.append(f"{score.name} {score.format(value)}")
    parts += [f"{record.items_per_s:,.0f} images/s", f"{record.duration_s:.1f} s"]
    if record.data_wait_frac is not None and record.data_wait_frac > MAX_WAIT_FRAC:
        parts.append(f"data-bound: {100 * (1 - record.data_wait_frac):.0f} %")
    return "  ".join(parts)


class BarDisplay(Display):
    """A bar per run, and a line per epoch above it; on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, loss {task.fields[loss]:.4f}, left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.bar: TaskID | None = None

    def start(self, name: str, *, total_steps: int, first_step: int) -> None:
        """Show the bar."""
        self.bar = self.progress.add_task(name, total=total_steps, completed=first_step, loss=float("nan"))
        self.progress.start()

    def step(self, record: StepRecord) -> None:
        """Move it."""
        assert self.bar is not None
        self.progress.update(self.bar, completed=record.step + 1, loss=record.loss)

    def epoch(self, record: EpochRecord, score: Score) -> None:
        """Print a line above it."""
        self.progress.console.print(epoch_line(record, score), highlight=False, markup=False)

    def note(self, text: str) -> None:
        """Print a line above it."""
        self.progress.console.print(text, highlight=False, markup=False, style="yellow")

    def stop(self) -> None:
        """Remove the live part."""
        self.progress.stop()


class LineDisplay(Display):
    """A line per epoch with the time left, on stderr; for logs and pipes."""

    def __init__(self) -> None:
        self.total, self.first, self.started = 0, 0, 0.0

    def start(self, name: str, *, total_steps: int, first_step: int) -> None:
        """Say what begins."""
        self.total, self.first, self.started = total_steps, first_step, time.perf_counter()
        self.note(f"{name}: {total_steps} steps" + (f", resumes at {first_step}" if first_step else ""))

    def epoch(self, record: EpochRecord, score: Score) -> None:
        """One line, with the time left at the pace so far."""
        pace_s = (time.perf_counter() - self.started) / max(1, record.step - self.first)
        left_s = pace_s * (self.total - record.step)
        self.note(f"{epoch_line(record, score)}  left {left_s // 60:.0f}:{left_s % 60:02.0f}")

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)


def make_display() -> Display:
    """The bar on a terminal and in a notebook, lines elsewhere."""
    in_notebook = "ipykernel" in sys.modules
    return BarDisplay() if sys.stderr.isatty() or in_notebook else LineDisplay()
