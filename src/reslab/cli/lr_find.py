"""``reslab lr-find``: which learning rate to use, by a range test."""

from __future__ import annotations

import sys
from dataclasses import asdict, field
from pathlib import Path

from reslab.cli.config_flags import OwnFlags, default_out, help_for, read_flags
from reslab.cli.output import print_json

ABOUT = "Try rising learning rates for a few steps, draw the loss against them, and suggest one. Trains nothing."
OWN: OwnFlags = [
    ("lowest", help_for(float, "Rate of the first step."), field(default=1e-6)),
    (
        "highest",
        help_for(float, "Rate of the last step; the test ends before it where the loss explodes."),
        field(default=10.0),
    ),
    (
        "range_steps",
        help_for(int, "Steps of the test; 0 for as many as four epochs have, 40 to 100."),
        field(default=0),
    ),
    ("out", help_for(Path | None, "Folder of record and chart; by default runs/lr-MODEL-DATA."), field(default=None)),
]


def run(arguments: list[str]) -> int:
    """Parses, tests, prints. Returns the exit code."""
    config, flags = read_flags(arguments, OWN, command="lr-find", about=ABOUT)
    default = default_out(config)
    out = flags.out or default.with_name(f"lr-{default.name}")

    from reslab.cli.progress import make_display  # from here on torch is needed
    from reslab.run.lr_find import CHART, RECORD, find_lr
    from reslab.train.lr_range import Sweep

    sweep = Sweep(flags.lowest, flags.highest, flags.range_steps)
    record = find_lr(config, out, sweep=sweep, display=make_display())
    if flags.json:
        print_json({"chart": str(out / CHART), **asdict(record)})
        return 0
    print(record.reason)
    print(f"chart: {out / CHART}; record: {out / RECORD}")
    if record.lr is not None:
        print(f"to train with it: the same words after `reslab train`, and --lr {record.lr:.2g}", file=sys.stderr)
    return 0
