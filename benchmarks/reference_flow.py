"""How the gradient lies along the depth of healthy networks: the grey band of the flow strip.

Reads the healthy networks of the clinic once each, as they start or after their training, and takes those with at least
eight residual additions. ``--save`` writes the band into the package.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from measure import parse_flags

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "clinic"))

from healthy import HEALTHY

from reslab.report.profile import FRACTIONS, HEALTHY_FILE, MIN_POINTS, decades_at, healthy_band


def main() -> None:
    flags = parse_flags(__doc__)
    profiles = {}
    for patient in HEALTHY[:: 10 if flags.quick else 1]:
        blocks = patient.diagnosis(0).blocks
        profile = decades_at([block.grad_norm for block in blocks], FRACTIONS) if len(blocks) >= MIN_POINTS else None
        if profile is None:
            continue
        profiles[patient.name] = profile
        print(f"{patient.name:44} {len(blocks):4} blocks  {' '.join(f'{value:5.2f}' for value in profile)}", flush=True)
    band = healthy_band(list(profiles.values()))
    print(f"{len(profiles)} networks, 5 to 95 %: {band}")
    if flags.save:
        record = {"networks": list(profiles), "shares": FRACTIONS, "low": band[0], "high": band[1]}
        HEALTHY_FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
