"""``reslab train``: flags and files to a config, the config to ``reslab.run.train``."""

from __future__ import annotations

import sys
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from reslab.cli._flags import OwnFlags, flag_of, read_flags, summary
from reslab.cli._output import console, print_json, table
from reslab.records import Evaluation, RunRecord
from reslab.records.files import to_plain

OWN: OwnFlags = [
    ("out", flag_of(Path | None, "Folder of the run; by default runs/MODEL-DATA."), field(default=None)),
    (
        "resume",
        flag_of(Literal["no", "auto"], "Resume the run in --out if there is one; bare --resume is auto."),
        field(default="no"),
    ),
    ("overwrite", flag_of(bool, "Replace the run in --out."), field(default=False)),
]


def run(arguments: list[str]) -> int:
    """Parse, train, print. Return the exit code."""
    config, flags = read_flags(arguments, OWN, command="train", about="Train a network on your data.")

    from reslab.distributed import launched_ranks  # from here on torch is needed
    from reslab.run.display import make_display
    from reslab.run.train import default_out, run_training

    out = flags.out or default_out(config)
    speaks = launched_ranks().is_first
    if speaks and not flags.json:
        print(summary(config), file=sys.stderr)
    done = run_training(config, out, resume=flags.resume == "auto", overwrite=flags.overwrite, display=make_display())
    code = 130 if done.interrupted else 0
    if not speaks:
        return code
    if done.interrupted:
        print(f"interrupted; resume with: reslab train --out {out} --resume", file=sys.stderr)
    if flags.json:
        print_json({"run": str(out), **result_of(done.record)})
    elif not done.interrupted:
        print_result(out, done.record)
    return code


def result_of(record: RunRecord) -> dict[str, Any]:
    """For ``--json``."""
    named = {"last": record.last, "plain": record.plain, "best": record.best}
    return {
        "status": record.status,
        "model": record.model["name"],
        "num_parameters": record.model["num_parameters"],
        "data": record.data["name"],
        "duration_s": record.duration_s,
        **{name: None if scores is None else to_plain(scores) for name, scores in named.items()},
    }


def print_result(out: Path, record: RunRecord) -> None:
    """Print the scores of last and best, and where everything is."""
    score = record.score
    splits = {"train": "clean training", "val": "validation", "test": "test"}
    columns = ["weights", "epoch", *(f"{words} {score.name}" for words in splits.values())]
    last = "last" if record.plain is None else "last, averaged"
    named: list[tuple[str, Evaluation | None]] = [(last, record.last), ("last, as trained", record.plain)]
    named.append(("best", record.best))
    rows = [
        [name, found.epoch + 1, *(score.format(found.scores.get(f"{split}_{score.name}")) for split in splits)]
        for name, found in named
        if found is not None
    ]
    screen = console()
    screen.print(table(columns, rows, numeric=columns[1:]))
    screen.print(f"{record.model['name']} on {record.data['name']}, {record.duration_s:.0f} s; page: {out}/report.html")
