"""The tables of the page: the results, and the numbers behind each chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.records import BlockNorm, EpochRecord, RunFolder, StepRecord
from reslab.report.words import DASH, duration, in_words, percent

MAX_ROWS = 120
"""So many rows of a long table stand on the page; the run's folder has them all."""
ERRORS = ("train_error", "val_error", "test_error")


@dataclass(frozen=True)
class Table:
    """Numbers, already in words.

    Args:
        title: what they are about; may be empty.
        header: names of the columns.
        rows: of cells, each as long as the header.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


def result_rows(runs: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """One row a run, for the page and the terminal; errors are shares, and None where there is no such number.

    Keys: ``run``, ``model``, ``num_parameters``; ``train_error`` (clean: eval mode, no augmentation), ``val_error`` and
    ``test_error`` of the weights after the last step; the same with ``best_`` before them, of the weights with the
    lowest validation error, and ``best_epoch``, counted from 1; ``duration_s``; ``status``.
    """
    rows = []
    for run in runs:
        record = run.read_run()
        row = {"run": run.name, "model": record.model.get("name"), "num_parameters": record.model.get("num_parameters")}
        for prefix, errors in (("", record.last), ("best_", record.best)):
            row |= {prefix + key: (errors.scores.get(key) if errors else None) for key in ERRORS}
        row["best_epoch"] = record.best.epoch + 1 if record.best else None
        rows.append(row | {"duration_s": record.duration_s, "status": record.status})
    return rows


def results_table(runs: Iterable[RunFolder]) -> Table:
    """Every run's errors; the page writes above the columns whose weights they are of."""
    kinds = ["training, clean", "validation", "test"]
    header = ["run", *kinds, "of epoch", *kinds, "network", "parameters", "duration", "status"]
    rows = [
        [
            row["run"],
            *(percent(row[key]) for key in ERRORS),
            in_words(row["best_epoch"]),
            *(percent(row[f"best_{key}"]) for key in ERRORS),
            in_words(row["model"]),
            in_words(row["num_parameters"]),
            duration(row["duration_s"]),
            row["status"],
        ]
        for row in result_rows(runs)
    ]
    return Table("", header, rows)


def curves_table(epochs: dict[str, list[EpochRecord]]) -> Table:
    """Errors of all runs, by name, epoch by epoch."""
    by_number = {name: {record.epoch: record for record in records} for name, records in epochs.items()}
    numbers = sorted({number for records in by_number.values() for number in records})
    rows = []
    for number in _spread(numbers):
        cells = [str(number + 1)]
        for records in by_number.values():
            record = records.get(number)
            cells += (
                [percent(record.scores.get("val_error")), percent(record.scores.get("train_error"))]
                if record
                else [DASH, DASH]
            )
        rows.append(cells)
    header = ["epoch"] + [f"{name} {kind}" for name in epochs for kind in ("validation", "training")]
    return Table(_left_out(len(numbers)), header, rows)


def flow_table(name: str, first: list[BlockNorm], last: list[BlockNorm]) -> Table:
    """The first and the last reading of one run, block by block."""
    finals = {record.index: f"{record.grad_norm:.4g}" for record in last}
    rows = [
        [str(record.index), record.block, f"{record.grad_norm:.4g}", finals.get(record.index, DASH)] for record in first
    ]
    return Table(name, ["place", "block", f"step {first[0].step:,}", f"step {last[0].step:,}"], rows)


def steps_table(steps: list[StepRecord]) -> Table:
    """What the steps of one run were."""
    rows = [
        [f"{record.step:,}", f"{record.loss:.5g}", f"{record.grad_norm:.5g}", f"{record.lr:.5g}"]
        for record in _spread(steps)
    ]
    return Table(_left_out(len(steps)), ["step", "loss", "gradient norm", "learning rate"], rows)


def _spread(items: Sequence[Any]) -> Sequence[Any]:
    """At most ``MAX_ROWS`` of them, evenly spaced, the first and the last among them."""
    if len(items) <= MAX_ROWS:
        return items
    return [items[round(place * (len(items) - 1) / (MAX_ROWS - 1))] for place in range(MAX_ROWS)]


def _left_out(num_rows: int) -> str:
    return f"{MAX_ROWS} of {num_rows:,} rows; the run's folder has them all" if num_rows > MAX_ROWS else ""
