"""A walk through the ward: one case of each illness, and some of the healthy; RESLAB_SWEEP=1 takes them all.

The whole confusion matrix is measured by ``benchmarks/clinic.py``.
"""

from __future__ import annotations

import os

import pytest
from healthy import HEALTHY
from sick import SICK

EVERYBODY = [*SICK, *HEALTHY]
FIRST_OF_EACH = {patient.name.partition(":")[0]: patient for patient in reversed(SICK) if patient.half == "fit"}
QUICK = {
    *(patient.name for patient in FIRST_OF_EACH.values()),
    *(f"catalog: {name}" for name in ("resnet56", "preresnet110", "fixup_resnet20", "vgg11_bn_cifar")),
    *("trained: residual perceptron", "trained: perceptron", "trained by AdamW: perceptron"),
}
CASES = [patient for patient in EVERYBODY if patient.name in QUICK or os.environ.get("RESLAB_SWEEP")]


@pytest.mark.parametrize("patient", CASES, ids=[patient.name for patient in CASES])
def test_the_right_illness_is_named_first(patient):
    diagnosis = patient.diagnosis(0)
    found = [finding.id for finding in diagnosis.findings]
    if patient.illness:
        assert found[0] in patient.illness, found
    else:
        assert diagnosis.verdict == "healthy", found


def test_every_illness_has_cases_in_both_halves():
    halves = {}
    for patient in SICK:
        halves.setdefault(patient.name.partition(":")[0], set()).add(patient.half)
    lonely = [illness for illness, found in halves.items() if found != {"fit", "test"}]
    assert lonely in ([], ["tanh"])  # whose other half is the one with a large gain
