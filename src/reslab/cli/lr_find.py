"""``reslab lr-find``: which learning rate to use, by a range test."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path

from reslab.cli._flags import OwnFlags, flag_of, read_flags
from reslab.cli._output import print_json

ABOUT = "Try rising learning rates for a few steps, draw the loss against them, and suggest one. It trains nothing."
OWN: OwnFlags = [
    ("lowest", flag_of(float, "Rate of the first step."), field(default=1e-6)),
    (
        "highest",
        flag_of(float, "Rate of the last step; the test ends before it where the loss explodes."),
        field(default=10.0),
    ),
    (
        "range_steps",
        flag_of(int, "Steps of the test; 0 for as many as four epochs have, from 40 to 100."),
        field(default=0),
    ),
    ("out", flag_of(Path | None, "Folder of record and chart; by default runs/lr-MODEL-DATA."), field(default=None)),
]


def run(arguments: list[str]) -> int:
    """Parse, test, print. Return the exit code."""
    config, flags = read_flags(arguments, OWN, command="lr-find", about=ABOUT)

    from reslab.run.display import make_display  # from here on torch is needed
    from reslab.run.search import CHART, RECORD, find_lr
    from reslab.run.train import default_out
    from reslab.training.lr_range import Sweep

    default = default_out(config)
    out = flags.out or default.with_name(f"lr-{default.name}")
    sweep = Sweep(flags.lowest, flags.highest, flags.range_steps)
    record = find_lr(config, out, sweep=sweep, display=make_display())
    if flags.json:
        print_json({"chart": str(out / CHART), **asdict(record)})
        return 0
    print(record.reason)
    print(f"chart: {out / CHART}; record: {out / RECORD}")
    if record.lr is not None:
        given = without_own(arguments, OWN)
        command = shlex.join(["reslab", "train", *given, "--lr", f"{record.lr:.2g}"])
        print(f"to train with it: {command}", file=sys.stderr)
    return 0


def without_own(arguments: Sequence[str], own: OwnFlags) -> list[str]:
    """The words of a command line without the flags of the command itself, and without a rate.

    Example:
        >>> without_own(["--model", "resnet8", "--lowest", "1e-5", "--json"], OWN)
        ['--model', 'resnet8']
    """
    names = {f"--{name.replace('_', '-')}" for name, _, _ in own} | {"--lr"}
    kept: list[str] = []
    skipping = False
    for word in arguments:
        if word.startswith("--"):
            skipping = word.partition("=")[0].replace("_", "-") in names
            if not skipping and word != "--json":
                kept.append(word)
            skipping = skipping and "=" not in word
        elif skipping:
            skipping = False
        else:
            kept.append(word)
    return kept
