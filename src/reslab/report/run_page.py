"""The page of one run or several: results, curves, gradient flow, and what was run, on what, how."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reslab.errors import RequestError
from reslab.records import RunFolder, RunRecord
from reslab.report._page import Notice, Section, Table, figure_sections, write_page
from reslab.report.curves import learning_curves, step_curves
from reslab.report.flow import gradient_flow
from reslab.report.text import DASH, duration, in_words, moment, name_of, plural

MAX_COLUMNS = 6
"""Runs up to which what differs between them has a column each; beyond, it is listed."""
SPLITS = {"train": "training, clean", "val": "validation", "test": "test"}
SETTINGS = {
    "train": ("epochs", "steps", "loss", "label_smoothing", "amp", "accumulate", "ema_decay", "patience"),
    "optim": ("kind", "lr", "momentum", "nesterov", "weight_decay", "clip_grad_norm"),
    "schedule": ("kind", "warmup_epochs"),
    "data": ("batch_size", "augment", "policy", "mixup", "cutmix"),
}
"""Parts of config.toml that a page shows, and which of their keys."""
NOT_DONE = {
    "running": "{name} is not finished ({done}): its numbers are those of now.",
    "interrupted": "{name} was interrupted ({done}). Resume it with --resume.",
    "failed": "{name} failed ({done}). Its numbers end there.",
}
PICK = "Click a name in the legend to pick it out."


def write_run_page(runs: Sequence[RunFolder], path: Path | str, *, title: str, lead: str = "") -> Path:
    """Write the page of runs, whole or not at all, and return its path.

    Args:
        runs: what it is about, best with their twins.
        path: of the file.
        title: its heading.
        lead: the answer in a sentence or two, shown large.

    Raises:
        RequestError: if there is no run, or the file can't be written.
    """
    if not runs:
        raise RequestError("A page needs at least one run folder, and none was given.")
    records = [run.read_run() for run in runs]
    figures = [learning_curves(runs), gradient_flow(runs), *(step_curves(run) for run in runs[:1] if len(runs) == 1)]
    scores = dict.fromkeys(f"{record.score.name} ({record.score.better} is better)" for record in records)
    hint = (
        f"Score: {', '.join(scores)}. Last: the weights after the last step. Best: the weights with the best validation"
        " score. Training is clean: eval mode, no augmentation. The test set chose nothing."
    )
    return write_page(
        path,
        title=title,
        lead=lead,
        notices=notices_of(runs, records),
        sections=[
            Section("Results", "tables", [results_table(runs)], hint),
            *figure_sections(figures, hint=PICK if len(runs) > 1 else ""),
            *about_sections(runs, records),
        ],
    )


def run_lead(record: RunRecord) -> str:
    """Say in a sentence where a finished run ended, from the weights that it hands on.

    Example:
        >>> from reslab.records import Evaluation
        >>> last = Evaluation(1, {"train_error": 0.1, "test_error": 0.2})
        >>> run_lead(RunRecord({"name": "resnet20"}, {"name": "digits"}, {}, [], {}, {}, 0, "done", "", last=last))
        'resnet20 on digits ends with 10.00 % clean training error and 20.00 % test error (last weights, epoch 2).'
    """
    chosen = record.chosen
    assert chosen is not None, "a finished run has scores"
    named = {"train": "clean training", "val": "validation", "test": "test"}
    found = {words: chosen.scores.get(f"{split}_{record.score.name}") for split, words in named.items()}
    parts = [f"{record.score.format(v)} {words} {record.score.name}" for words, v in found.items() if v is not None]
    numbers = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    which = "best" if record.best else "last"
    who = f"{record.model['name']} on {record.data['name']}"
    return f"{who} ends with {numbers} ({which} weights, epoch {chosen.epoch + 1})."


# ---- results


def result_rows(runs: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """Return one row for each run, for programs.

    Keys: ``run``, ``model``, ``num_parameters``; by the name of the run's score, such as ``error``, ``train_error``
    (clean: eval mode, no augmentation), ``val_error`` and ``test_error`` of the weights after the last step, None where
    there is no such number; the same with ``best_`` before them, of the weights with the best validation score, and
    ``best_epoch``, counted from 1; ``duration_s``; ``status``.
    """
    rows = []
    for run in runs:
        record = run.read_run()
        row = {"run": run.name, "model": record.model.get("name"), "num_parameters": record.model.get("num_parameters")}
        for prefix, found in (("", record.last), ("best_", record.best)):
            keys = [f"{split}_{record.score.name}" for split in SPLITS]
            row |= {prefix + key: found.scores.get(key) if found else None for key in keys}
        row["best_epoch"] = record.best.epoch + 1 if record.best else None
        rows.append(row | {"duration_s": record.duration_s, "status": record.status})
    return rows


def results_table(runs: Sequence[RunFolder]) -> Table:
    """Every run's scores, under the weights that they are of."""
    scores = [run.read_run().score for run in runs]
    rows = []
    for row, score in zip(result_rows(runs), scores, strict=True):
        last, best = (
            [
                DASH if (value := row[f"{prefix}{split}_{score.name}"]) is None else score.format(value)
                for split in SPLITS
            ]
            for prefix in ("", "best_")
        )
        what = [in_words(row["model"]), in_words(row["num_parameters"]), duration(row["duration_s"]), row["status"]]
        rows.append([row["run"], *last, in_words(row["best_epoch"]), *best, *what])
    name = scores[0].name if len({score.name for score in scores}) == 1 else "score"
    groups = [("", 1), (f"{name} of the last weights", 3), (f"{name} of the best weights", 4), ("", 4)]
    kinds = list(SPLITS.values())
    header = ["run", *kinds, "of epoch", *kinds, "network", "parameters", "duration", "status"]
    return Table(header, rows, groups=groups)


# ---- what was run, on what, how


def notices_of(runs: Sequence[RunFolder], records: Sequence[RunRecord]) -> list[Notice]:
    found = []
    for run, record in zip(runs, records, strict=True):
        if record.status in NOT_DONE:
            done = f"{plural(len(run.read_epochs()), 'epoch')} finished"
            reasons = [(name_of(key), in_words(value)) for key, value in (record.failure or {}).items()]
            found.append(Notice(record.status, NOT_DONE[record.status].format(name=run.name, done=done), reasons))
    return found


def about_sections(runs: Sequence[RunFolder], records: Sequence[RunRecord]) -> list[Section]:
    """Deviations from the paper, settings, protocol, data, network, machine, versions."""
    found: dict[str, list[dict[str, Any]]] = {
        "Settings": [settings_of(run) for run in runs],
        "Protocol": [{**record.protocol, "seed": str(record.seed)} for record in records],
        "Data": [record.data for record in records],
        "Network": [record.model for record in records],
        "Machine": [{**record.machine, "started": moment(record.started)} for record in records],
        "Versions": [record.versions for record in records],
    }
    names = [run.name for run in runs]
    deviations = deviations_of(names, records)
    return [
        *([Section("Deviations from the paper", "lists", deviations)] if deviations else []),
        *(Section(title, "tables", [facts_table(names, facts)]) for title, facts in found.items()),
    ]


def settings_of(run: RunFolder) -> dict[str, Any]:
    """Optimiser, schedule, batch size and length, from config.toml; what is off is left out."""
    try:
        config = tomllib.loads(run.config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        f"{part}.{key}": value
        for part, keys in SETTINGS.items()
        for key in keys
        if (value := config.get(part, {}).get(key)) not in (None, 0, False, "", "none")
    }


def facts_table(names: Sequence[str], facts: Sequence[dict[str, Any]]) -> Table:
    """One row for each fact, with one value where all runs agree; what nothing is known of is left out."""
    rows = []
    for key in dict.fromkeys(key for each in facts for key in each):
        values = [in_words(each.get(key)) for each in facts]
        different = list(dict.fromkeys(values))
        if different not in ([DASH], ["auto"]):
            shown = (
                different if len(different) == 1 else values if len(names) <= MAX_COLUMNS else [", ".join(different)]
            )
            rows.append([name_of(key), *shown])
    return Table(["", *names] if any(len(row) > 2 for row in rows) else [], rows, words=1 + len(names))


def deviations_of(names: Sequence[str], records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Each deviation once, under the names of the runs that have it; under no name where all have it."""
    having: dict[str, list[str]] = {}
    for name, record in zip(names, records, strict=True):
        for deviation in record.deviations:
            having.setdefault(deviation, []).append(name)
    groups: dict[str, list[str]] = {}
    for deviation, runs in having.items():
        groups.setdefault("" if len(runs) == len(names) else ", ".join(runs), []).append(deviation)
    return list(groups.items())
