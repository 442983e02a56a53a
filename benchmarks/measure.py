"""What every benchmark shares: the machine, the table, the last line, and where results go."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def parse_flags(text: str | None) -> argparse.Namespace:
    """``--quick`` for a look, ``--save`` for the record, ``--data-dir`` for those that need data."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; for a look, not for the record")
    parser.add_argument("--save", action="store_true", help="write the result to benchmarks/results/")
    parser.add_argument("--data-dir", default="", help="where named data sets lie; by default $RESLAB_DATA")
    return parser.parse_args()


def interleave(sides: dict[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Measures the sides in turn, A B A B, so that a machine that slows down slows both."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()  # warm-up, not counted
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return found


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Ratio of each pair measured one after the other."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def report(
    name: str,
    rows: list[dict[str, Any]],
    *,
    verdicts: list[dict[str, Any]],
    flags: argparse.Namespace,
    command: str = "",
) -> None:
    """Prints the table and, as last line, the JSON object; with ``--save`` writes it to results/.

    Args:
        name: of the benchmark.
        rows: the table, one dict a row with the same keys.
        verdicts: ``what``, ``measured``, ``bar`` and ``met`` of each bar.
        flags: from ``parse_flags``.
        command: that made it, if it is not ``bench_NAME.py``.
    """
    import torch

    from reslab.run.record import machine_of

    keys = list(rows[0])
    widths = {key: max(len(key), *(len(show(row[key])) for row in rows)) for key in keys}
    print("  ".join(key.ljust(widths[key]) for key in keys))
    for row in rows:
        print("  ".join(show(row[key]).ljust(widths[key]) for key in keys))
    for verdict in verdicts:
        word = "met" if verdict["met"] else "MISSED"
        print(f"{verdict['what']}: {show(verdict['measured'])} (bar: {verdict['bar']}), {word}")
    result = {
        "name": name,
        "command": f"python benchmarks/{command or f'bench_{name}.py'}" + (" --quick" if flags.quick else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_of(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "torch": torch.__version__,
        "rows": rows,
        "verdicts": verdicts,
    }
    if flags.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def show(value: Any) -> str:
    """A cell."""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
