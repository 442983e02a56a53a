"""``reslab evaluate``."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from reslab.cli._flags import RunFlags
from reslab.cli._output import console, parse, print_json, table
from reslab.records.training import as_percent


@dataclass(kw_only=True)
class EvaluateFlags(RunFlags):
    """Score, loss and confusion of a run's network, by the run's recorded preprocessing."""

    split: str = ""
    """train, val or test; by default test, or else val, or else train."""
    data: str = ""
    """Other data with the same classes, evaluated whole unless it has splits; by default the run's own."""
    data_dir: str = ""
    """Where named data sets lie now."""


def run(arguments: list[str]) -> int:
    """Parse, evaluate, print. Return the exit code."""
    flags = parse(EvaluateFlags, arguments, command="evaluate")

    from reslab.run.load import load

    bundle = load(flags.run, weights=flags.weights, device=flags.device)
    found = bundle.evaluate(flags.data, split=flags.split, data_dir=flags.data_dir)
    if not found["same_data"]:
        print("note: not the data that the run was trained on (another fingerprint)", file=sys.stderr)
    if flags.json:
        print_json(found)
        return 0
    screen, score = console(), bundle.task.score
    count = f", {found['num_images']:,} images" if "num_images" in found else ""
    screen.print(
        f"{found['run']} on {found['data']}, {found['split']} split{count}:"
        f" {score.name} {score.format(found[score.name])}, loss {found['loss']:.4f}"
    )
    if "class_errors" in found and len(found["classes"]) <= 20:
        rows = [[name, as_percent(error)] for name, error in zip(found["classes"], found["class_errors"], strict=True)]
        screen.print(table(["class", "error"], rows, numeric=["error"]))
    return 0
