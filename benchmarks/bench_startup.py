"""How long ``reslab --help`` and ``reslab models`` take to answer, beside a bare ``import torch``."""

from __future__ import annotations

import subprocess
import sys
import time

from measure import interleave, parse_flags, report, summary

SIDES = {
    "reslab --help": [sys.executable, "-m", "reslab", "--help"],
    "reslab models": [sys.executable, "-m", "reslab", "models"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}
BARS_S = {"reslab --help": 0.5, "reslab models": 3.0}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    flags = parse_flags(__doc__)
    sides = {name: lambda command=command: seconds(command) for name, command in SIDES.items()}
    found = interleave(sides, rounds=2 if flags.quick else 7)
    rows = [{"command": name, **{f"{key}_s" if key != "n" else key: v for key, v in summary(values).items()}}
            for name, values in found.items()]  # fmt: skip
    medians = {row["command"]: row["median_s"] for row in rows}
    verdicts = [
        {"what": f"seconds of {name}", "measured": medians[name], "bar": f"< {bar}", "met": medians[name] < bar}
        for name, bar in BARS_S.items()
    ]
    report("startup", rows, verdicts=verdicts, flags=flags)


if __name__ == "__main__":
    main()
