"""How far our networks are from other libraries' with the same weights in float64: a table of tests/models/peers.py.

The largest absolute difference of the logits and of the images' gradients over an even and an odd size of images.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import parse_flags, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

from peers import BOUND, PAIRS, SIZES, Pair, build, compare


def row_of(pair: Pair) -> dict[str, Any]:
    networks = build(pair)
    row: dict[str, Any] = {"network": pair.ours, "peer": f"{pair.library} {version(pair.library)} {pair.theirs}"}
    for mode, training in (("eval", False), ("train", True)):
        found = [compare(*networks, size=size, training=training) for size in SIZES]
        row[f"logits_{mode}"] = max(one.logits for one in found)
        row[f"gradient_{mode}"] = max(one.image_gradient for one in found)
    print(row["peer"], flush=True, file=sys.stderr)
    return row


def main() -> None:
    flags = parse_flags(__doc__)
    rows = [row_of(pair) for pair in PAIRS if not (flags.quick and pair.slow)]
    found = [value for row in rows for value in row.values() if isinstance(value, float)]
    met = all(value <= BOUND for value in found)  # max would overlook a NaN
    verdict = {"what": "largest difference", "measured": max(found), "bar": f"<= {BOUND}", "met": met}
    report("parity", rows, verdicts=[verdict], flags=flags)


if __name__ == "__main__":
    main()
