from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reslab.records import ParameterRecord, UpdateRecord
from reslab.report.diagnosis.updates import update_strip


def parameter(name: str, update: float | None, weight: float = 1.0, shape: tuple[int, ...] = (8, 8)) -> ParameterRecord:
    return replace(ParameterRecord(name, shape, weight, 0.1, True), update_norm=update)


def dots_of(picture: Any) -> list[dict[str, Any]]:
    return [row for rows in picture.spec["datasets"].values() for row in rows if "decades" in row and "name" in row]


def test_the_ratio_is_in_decades(make_reading):
    parameters = (parameter("a", 1e-3), parameter("b", 2e-2, weight=2.0), parameter("c", 1e-5, shape=(8,)))
    picture = update_strip([make_reading(parameters=parameters, step=7)])
    assert [row["decades"] for row in picture.rows] == pytest.approx([-3, -2, -5])
    assert [row["kind"] for row in picture.rows] == ["weight", "weight", "bias or gain"]
    assert [row["decades"] for row in dots_of(picture)] == pytest.approx([-3, -2, -5])
    assert "least c (1e-05), most b (0.01)" in picture.caption


def test_the_line_at_minus_three_and_both_ends_of_the_usual_are_on_the_axis(make_reading):
    spec = update_strip([make_reading(parameters=(parameter("a", 1e-3),))]).spec
    assert [row for rows in spec["datasets"].values() for row in rows if set(row) == {"decades"}] == [{"decades": -3.0}]
    scale = spec["vconcat"][0]["layer"][1]["encoding"]["y"]["scale"]
    assert (scale["domain"], scale["zero"]) == ([-5, -2], False)  # 0 would take half of the panel


def test_the_last_reading_that_saw_a_step_is_drawn(make_reading):
    seen = make_reading(parameters=(parameter("a", 1e-3),), step=50)
    unseen = make_reading(parameters=(parameter("a", None),), step=100)
    assert "At step 50" in update_strip([seen, unseen]).caption


@pytest.mark.parametrize(("update", "weight"), [(0.0, 1.0), (1e-3, 0.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_what_has_no_ratio_lies_on_a_rail(make_reading, tmp_path, update, weight):
    parameters = (parameter("a", 1e-3), parameter("odd", update, weight))
    picture = update_strip([make_reading(parameters=parameters)])
    picture.save(tmp_path / "updates.png")
    rail = [row for rows in picture.spec["datasets"].values() for row in rows if row.get("why") == "no ratio"]
    assert [row["name"] for row in rail] == ["odd"]
    assert [row["name"] for row in dots_of(picture)] == ["a"]


def test_how_many_did_not_move_is_told(make_reading):
    parameters = (parameter("a", 1e-3), parameter("b", 0.0), parameter("c", None))
    assert "1 of 2 parameters did not move." in update_strip([make_reading(parameters=parameters)]).caption


def test_nothing_moved(make_reading, tmp_path):
    picture = update_strip([make_reading(parameters=(parameter("a", 0.0),))])
    picture.save(tmp_path / "updates.png")
    assert "no parameter moved" in picture.caption


@pytest.mark.parametrize(("update", "word"), [(1e-3, "as usual"), (1e-1, "outside"), (1e-7, "outside")])
def test_the_median_is_judged(make_reading, update, word):
    assert word in update_strip([make_reading(parameters=(parameter("a", update),))]).caption


def test_no_step_seen_is_a_reason(make_reading):
    picture = update_strip([make_reading([1.0] * 9)])
    assert not picture.is_drawn
    assert "no step of an optimiser was seen" in picture.caption


def test_the_highest_rate_is_drawn_and_not_the_end_of_a_schedule(make_reading):
    readings = [
        make_reading(
            parameters=(parameter("a", size),), step=step, update=UpdateRecord("SGD", rate, 1.0, 1.0, 0.0, 0.0)
        )
        for step, (rate, size) in enumerate([(0.01, 1e-2), (0.1, 1e-1), (0.0001, 1e-6)])
    ]
    assert "At step 1 " in update_strip(readings).caption
