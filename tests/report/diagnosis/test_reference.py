from __future__ import annotations

import math

import pytest

from reslab.report.diagnosis.flow_strip import flow_strip
from reslab.report.diagnosis.reference import SHARES, band_of, decades_at, reference


def test_the_saved_band_is_one():
    known = reference()
    assert len(known.networks) >= 20
    assert len(known.low) == len(known.high) == len(SHARES)
    assert all(low <= high for low, high in zip(known.low, known.high, strict=True))
    assert known.low[-1] == known.high[-1] == 0


def test_profiles_are_compared_at_shares_of_the_depth():
    assert decades_at([1000.0, 100.0, 10.0, 1.0], [0.0, 0.5, 1.0]) == pytest.approx([3.0, 1.5, 0.0])
    assert decades_at([1.0, 0.0], [0.0]) is None
    assert decades_at([1.0, math.inf], [0.0]) is None


def test_the_band_leaves_out_the_outermost():
    low, high = band_of([[float(place)] for place in range(101)])
    assert (low, high) == ([5.0], [95.0])


def drawn(picture) -> list[dict]:
    return [row for rows in picture.spec["datasets"].values() for row in rows if "to" in row and "norm" in row]


def test_the_band_is_set_to_the_last_place(make_reading):
    band = [row for row in drawn(flow_strip([make_reading([5.0] * 9)])) if "words" not in row and row["to"] != 6.5]
    assert (band[0]["index"], band[-1]["index"]) == (0, 8)
    assert band[-1]["norm"] == band[-1]["to"] == 5.0
    assert math.log10(band[0]["to"] / 5.0) == pytest.approx(reference().high[0], abs=1e-4)


def test_few_places_or_a_last_one_without_a_norm_have_no_band(make_reading):
    for norms in ([1.0] * 3, [1.0] * 9 + [0.0]):
        rows = drawn(flow_strip([make_reading(norms)]))
        assert not any("words" in row for row in rows)
