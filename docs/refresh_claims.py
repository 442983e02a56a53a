"""Takes the records of finished studies into the ledger: from the folders named to what comes with reslab.

``python docs/refresh_claims.py runs/study-degradation-digits runs/study-identity ...``, then ``make docs``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from reslab.records import read_study
from reslab.studies.claims.ledger import SHIPPED
from reslab.studies.study import PICTURE

PICTURED = "degradation-digits"
"""The study whose picture the READMEs show."""


def main() -> int:
    """Copies each study.json under the study's own name. Returns the exit code."""
    folders = [Path(name) for name in sys.argv[1:]]
    if not folders:
        print(__doc__)
        return 2
    for folder in folders:
        study = read_study(folder / "study.json")
        if any(row.waiting for row in study.rows):
            print(f"{folder}: {study.name} is not finished; left out")
            continue
        (SHIPPED / f"{study.name}.json").write_text(study.to_json(), encoding="utf-8")
        print(f"{folder}: {study.name}, {len(study.rows)} rows")
        if study.name == PICTURED:
            shutil.copy(folder / PICTURE, Path(__file__).parent / "study-degradation.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
