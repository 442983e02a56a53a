from __future__ import annotations

import math

import pytest

from reslab.records import ActivationRecord
from reslab.report.diagnosis.units import INNER, JOINED, SATURATED, unit_strip


def activation(index: int, share: float, *, kind: str = "Relu", joined: bool = False, units: int = 20):
    return ActivationRecord(index, f"layer1.{index}", kind, units, 512, share, True, joined)


@pytest.fixture
def strip(make_reading):
    return lambda *activations: unit_strip([make_reading(activations=activations)])


def test_dead_units_are_told_by_where_they_are(strip, tmp_path):
    picture = strip(activation(0, 0.0), activation(1, 0.5), activation(2, 0.25, joined=True))
    assert [(row["what"], row["share"]) for row in picture.rows] == [(INNER, 0.0), (INNER, 0.5), (JOINED, 0.25)]
    assert (
        "15 of 60 channels of rectifiers (25.0%) are dead in this batch, 5 of them after an addition" in picture.caption
    )
    assert "most at layer1.1: 50% of 20" in picture.caption
    drawn = [row for rows in picture.spec["datasets"].values() for row in rows if "left" in row]
    assert [row["index"] for row in drawn] == [1, 2]
    picture.save(tmp_path / "units.png")


def test_saturated_values_are_no_dead_channels(strip):
    picture = strip(activation(0, 0.0), activation(1, 0.75, kind="Tanh"))
    assert picture.rows[1]["what"] == SATURATED
    assert "None of the 20 channels of 1 rectifier is dead" in picture.caption
    assert "most are saturated at layer1.1: 75%" in picture.caption


def test_where_every_unit_works_nothing_is_drawn_but_said(strip):
    picture = strip(activation(0, 0.0), activation(1, math.nan, kind="Sigmoid"))
    assert not picture.is_drawn
    assert picture.caption == "None of the 20 channels of 1 rectifier is dead in this batch."
    assert strip().caption == "No rectifier, sigmoid or tanh was seen."
