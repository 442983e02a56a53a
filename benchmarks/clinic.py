"""The clinic: sick and healthy networks and trainings, and what the verdict says of them.

Recall: how often the first finding is the right illness. False alarms: how often a healthy one isn't called healthy.
Thresholds were chosen on the half ``fit``; the half ``test`` has other networks and other seeds. Each row is a row of
the confusion matrix: an illness, and which rule was named first how often. ``--only WORDS`` takes the cases with these
words in half and name; ``--quick`` one seed of three.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from measure import report

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "clinic"))

from healthy import HEALTHY
from sick import SICK

SEEDS = {"fit": (0, 1, 2), "test": (100, 101, 102)}
RECALL_BAR, ALARM_BAR = 0.9, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed of three")
    parser.add_argument("--save", action="store_true", help="write the result to benchmarks/results/")
    parser.add_argument("--only", default="", help="words of the cases to run")
    flags = parser.parse_args()
    cases = [
        case_of(patient, seed)
        for patient in [*SICK, *HEALTHY]
        if flags.only in f"{patient.half} {patient.name}"
        for seed in SEEDS[patient.half][: 1 if flags.quick else None]
    ]
    rows = [row for half in SEEDS for row in matrix([case for case in cases if case["half"] == half])]
    verdicts = [verdict for half in SEEDS for verdict in bars(half, [case for case in cases if case["half"] == half])]
    report("clinic", rows, verdicts=verdicts, flags=flags, command="clinic.py")


def case_of(patient: Any, seed: int) -> dict[str, Any]:
    """One case with one seed."""
    began = time.perf_counter()
    try:
        diagnosis = patient.diagnosis(seed)
        found, verdict = [finding.id for finding in diagnosis.findings], diagnosis.verdict
    except Exception:
        traceback.print_exc()
        found, verdict = ["ERROR"], "error"
    case = {
        "illness": patient.name.partition(":")[0],
        "half": patient.half,
        "is_sick": bool(patient.illness),
        "first": (found or ["-"])[0] if patient.illness or verdict != "healthy" else "healthy",
        "is_right": found[:1] != [] and found[0] in patient.illness if patient.illness else verdict == "healthy",
    }
    mark = "ok  " if case["is_right"] else "MISS"
    seconds = time.perf_counter() - began
    line = f"{mark} {patient.half:4} {patient.name:48} seed {seed:<4} {verdict:8} {' '.join(found)} ({seconds:.1f} s)"
    print(line, file=sys.stderr, flush=True)
    return case


def matrix(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each illness of a half: what was named first, and how often."""
    rows = []
    for illness in dict.fromkeys(case["illness"] for case in cases):
        mine = [case for case in cases if case["illness"] == illness]
        named = Counter(case["first"] for case in mine).most_common()
        rows.append(
            {
                "half": mine[0]["half"],
                "illness": illness if mine[0]["is_sick"] else f"healthy, {illness}",
                "cases": len(mine),
                "right": sum(case["is_right"] for case in mine),
                "named first": ", ".join(f"{word} {count}" for word, count in named),
            }
        )
    return rows


def bars(half: str, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recall and false alarms of a half."""
    sick, healthy = ([case["is_right"] for case in cases if case["is_sick"] is is_sick] for is_sick in (True, False))
    recall, alarms = sum(sick) / max(1, len(sick)), 1 - sum(healthy) / max(1, len(healthy))
    return [
        {
            "what": f"recall, half {half}, {len(sick)} cases",
            "measured": recall,
            "bar": f">= {RECALL_BAR}",
            "met": recall >= RECALL_BAR,
        },
        {
            "what": f"false alarms, half {half}, {len(healthy)} cases",
            "measured": alarms,
            "bar": f"<= {ALARM_BAR}",
            "met": alarms <= ALARM_BAR,
        },
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
