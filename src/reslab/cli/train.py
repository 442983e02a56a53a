"""``reslab train``: flags and files to a config, the config to ``reslab.run.train.train``."""

from __future__ import annotations

import sys
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from reslab.cli.config_flags import OwnFlags, default_out, help_for, read_flags, summary
from reslab.cli.output import console, print_json, table
from reslab.records import Evaluation, RunRecord, to_plain

OWN: OwnFlags = [
    ("out", help_for(Path | None, "Folder of the run; by default runs/MODEL-DATA."), field(default=None)),
    (
        "resume",
        help_for(Literal["no", "auto"], "Go on with the run in --out if there is one; bare --resume is auto."),
        field(default="no"),
    ),
    ("overwrite", help_for(bool, "Replace the run in --out."), field(default=False)),
]


def run(arguments: list[str]) -> int:
    """Parses, trains, prints. Returns the exit code."""
    config, flags = read_flags(arguments, OWN, command="train", about="Train a network on your data.")
    out = flags.out or default_out(config)

    from reslab.cli.progress import make_display  # from here on torch is needed
    from reslab.distributed import launched_ranks
    from reslab.run.train import train

    speaks = launched_ranks().is_first
    if speaks and not flags.json:
        print(summary(config), file=sys.stderr)
    outcome = train(config, out, resume=flags.resume == "auto", overwrite=flags.overwrite, display=make_display())
    if not speaks:
        return 130 if outcome.interrupted else 0
    if outcome.interrupted:
        print(f"interrupted; go on with: reslab train --out {out} --resume", file=sys.stderr)
    if flags.json:
        print_json({"run": str(out), **result_of(outcome.record)})
    elif not outcome.interrupted:
        print_result(out, outcome.record)
    return 130 if outcome.interrupted else 0


def result_of(record: RunRecord) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "status": record.status,
        "model": record.model["name"],
        "num_parameters": record.model["num_parameters"],
        "data": record.data["name"],
        "duration_s": record.duration_s,
        "last": None if record.last is None else to_plain(record.last),
        "plain": None if record.plain is None else to_plain(record.plain),
        "best": None if record.best is None else to_plain(record.best),
    }


def print_result(out: Path, record: RunRecord) -> None:
    """Errors of last and best, and where everything is."""
    columns = [
        "weights",
        "epoch",
        *(f"{split} {record.score.name}" for split in ("clean training", "validation", "test")),
    ]
    last = "last" if record.plain is None else "last, averaged"
    chosen: list[tuple[str, Evaluation | None]] = [(last, record.last), ("last, as trained", record.plain)]
    chosen.append(("best", record.best))
    rows = [
        [
            name,
            errors.epoch + 1,
            *(
                record.score.format(errors.scores.get(f"{split}_{record.score.name}"))
                for split in ("train", "val", "test")
            ),
        ]
        for name, errors in chosen
        if errors is not None
    ]
    screen = console()
    screen.print(table(columns, rows, numeric=columns[1:]))
    screen.print(f"{record.model['name']} on {record.data['name']}, {record.duration_s:.0f} s; page: {out}/report.html")
