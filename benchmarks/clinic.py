"""The clinic: sick and healthy networks and trainings, and what the verdict says of them.

Recall: how often the first finding is the right illness. False alarms: how often a healthy one isn't called healthy.
Thresholds were chosen on the half ``fit``; the half ``test`` has other networks and other seeds.
"""

from __future__ import annotations

import collections
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "clinic"))

from healthy import HEALTHY  # noqa: E402
from sick import SICK  # noqa: E402

SEEDS = {"fit": (0, 1, 2), "test": (100, 101, 102)}


def main() -> None:
    quick = "--quick" in sys.argv
    only = [word for word in sys.argv[1:] if not word.startswith("-")]
    rows = []
    for patient in [*SICK, *HEALTHY]:
        if only and not any(word in f"{patient.half} {patient.name}" for word in only):
            continue
        for seed in SEEDS[patient.half][: 1 if quick else None]:
            rows.append(row_of(patient, seed))
            print(words(rows[-1]), flush=True)
    print()
    for half in SEEDS:
        print(half, summary([row for row in rows if row["half"] == half]))


def row_of(patient: Any, seed: int) -> dict[str, Any]:
    """One case with one seed."""
    began = time.perf_counter()
    try:
        diagnosis = patient.diagnosis(seed)
        found, verdict = [finding.id for finding in diagnosis.findings], diagnosis.verdict
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        found, verdict = ["ERROR"], "error"
    is_right = (found[:1] and found[0] in patient.illness) if patient.illness else verdict == "healthy"
    return {
        "name": patient.name,
        "half": patient.half,
        "seed": seed,
        "expected": list(patient.illness),
        "found": found,
        "verdict": verdict,
        "is_right": bool(is_right),
        "seconds": round(time.perf_counter() - began, 1),
    }


def words(row: dict[str, Any]) -> str:
    """A row in a line."""
    mark = "ok  " if row["is_right"] else "MISS"
    return f"{mark} {row['half']:4} {row['name']:48} seed {row['seed']:<4} {row['verdict']:8} {' '.join(row['found'])}  ({row['seconds']} s)"


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Recall and false alarms."""
    sick, healthy = [r for r in rows if r["expected"]], [r for r in rows if not r["expected"]]
    return {
        "sick": len(sick),
        "recall": sum(r["is_right"] for r in sick) / max(1, len(sick)),
        "healthy": len(healthy),
        "false_alarms": sum(not r["is_right"] for r in healthy) / max(1, len(healthy)),
        "missed": dict(collections.Counter(r["name"] for r in rows if not r["is_right"])),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
