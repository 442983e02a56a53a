"""Writes benchmarks/README.md from benchmarks/results/*.json. ``--check`` only says whether it is up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from measure import RESULTS, show

HEAD = """# Benchmarks

Every number of ours, with the command that makes it and the machine it came from. Speed is a ratio: ours and the other
side measured in turn in one run. `python benchmarks/bench_NAME.py [--quick] [--save]`; this page is made from
`results/` by `make docs`.
"""


def section(result: dict) -> str:
    """One benchmark as Markdown."""
    machine = result["machine"]
    keys = list(result["rows"][0])
    lines = [
        f"## {result['name']}",
        "",
        f"`{result['command']}`, {result['date']}, torch {result['torch']},"
        f" {machine.get('gpu') or machine['processor']}, {machine['cores']} cores, {machine['threads']} threads.",
        "",
        "| " + " | ".join(keys) + " |",
        "|" + "---|" * len(keys),
        *("| " + " | ".join(show(row[key]) for key in keys) + " |" for row in result["rows"]),
        "",
    ]
    for verdict in result["verdicts"]:
        word = "met" if verdict["met"] else "**missed**"
        lines.append(f"- {verdict['what']}: {show(verdict['measured'])}, bar {verdict['bar']}: {word}")
    return "\n".join(lines) + "\n"


def main() -> int:
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    text = HEAD + "".join("\n" + section(result) for result in results)
    path = Path(__file__).parent / "README.md"
    if "--check" in sys.argv:
        return int(not path.exists() or path.read_text() != text)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
