"""Take the records of finished studies into the ledger: from the folders named to what comes with reslab.

``python docs/refresh_claims.py runs/study-degradation-digits runs/study-identity ...``, then ``make docs``. The
accuracies on CIFAR-10 come from ``benchmarks/results``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from reslab.records import StudyRecord
from reslab.records.study import MeasureRecord, StudyRow, read_study
from reslab.studies.claims import SHIPPED
from reslab.studies.study import PICTURE

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
ACCURACIES = [
    name for name in ("resnet20", "resnet56", "resnet56-long") if (RESULTS / f"accuracy_{name}.json").exists()
]
PICTURED = "degradation-digits"
"""The study whose picture the READMEs show."""


def main() -> int:
    """Copy each study.json under the study's own name. Return the exit code."""
    take_accuracy()
    folders = [Path(name) for name in sys.argv[1:]]
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


def take_accuracy() -> None:
    """Write what ``benchmarks/bench_accuracy.py`` measured on all of CIFAR-10 as a study of its own."""
    found = [json.loads((RESULTS / f"accuracy_{name}.json").read_text(encoding="utf-8")) for name in ACCURACIES]
    rows = []
    for row in (result["rows"][0] for result in found):
        errors = tuple(float(word) / 100 for word in row["each"].split())
        title = row["run"].replace(" on cifar10", "")
        rows.append(StudyRow(title, {"network": title.partition(" ")[0]}, {"test_error": errors}, {}, 0))
    processors = {result["machine"]["processor"] for result in found}
    record = StudyRecord(
        name="accuracy-cifar10",
        title="How low are the errors on CIFAR-10?",
        question="Which test error do residual networks reach on CIFAR-10 by fast-cifar?",
        protocol=("All 50,000 images, the weights after the last step, the test set read once.",),
        command="python benchmarks/bench_accuracy.py",
        seeds=tuple(range(max(row.num_ended for row in rows))),
        measures=(MeasureRecord("test_error", "test error", "percent", charted=True),),
        rows=tuple(rows),
        conclusion="",
        machine={**found[0]["machine"], "processor": " and ".join(sorted(processors))},
        versions={"torch": found[0]["torch"]},
    )
    (SHIPPED / f"{record.name}.json").write_text(record.to_json(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
