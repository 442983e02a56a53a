"""``reslab evaluate``."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from reslab.cli.output import console, parse, print_json, table
from reslab.cli.run_flags import RunFlags
from reslab.records import RunFolder, as_percent


@dataclass(kw_only=True)
class EvaluateFlags(RunFlags):
    """Error, loss and confusion of a run's network, by the run's recorded preprocessing."""

    split: str = ""
    """train, val or test; by default test, or else val, or else train."""
    data: str = ""
    """Other data with the same classes, evaluated whole unless it has splits; by default the run's own."""
    data_dir: str = ""
    """Where named data sets lie now."""


def run(arguments: list[str]) -> int:
    """Parses, evaluates, prints. Returns the exit code."""
    flags = parse(EvaluateFlags, arguments, command="evaluate")

    from reslab.run.use import evaluate_run

    found = evaluate_run(
        RunFolder(flags.run),
        split=flags.split,
        weights=flags.weights,
        data=flags.data,
        data_dir=flags.data_dir,
        device=flags.device,
    )
    if not found["same_data"]:
        print("note: not the data that the run was trained on (another fingerprint)", file=sys.stderr)
    if flags.json:
        print_json(found)
        return 0
    screen = console()
    screen.print(
        f"{found['run']} on {found['data']}, {found['split']} split, {found['num_images']:,} images:"
        f" error {as_percent(found['error'])}, loss {found['loss']:.4f}"
    )
    if len(found["classes"]) <= 20:
        rows = [[name, as_percent(error)] for name, error in zip(found["classes"], found["class_errors"], strict=True)]
        screen.print(table(["class", "error"], rows, numeric=["error"]))
    return 0
