from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from reslab.records import DepthRecord, JacobianRecord, LesionRecord, PathRecord, ShatteringRecord
from reslab.report.diagnosis.depth import (
    jacobian_spectra,
    lesion_bars,
    path_spectrum,
    shattering_curve,
    shown_paths,
)

ALL = {
    "paths": path_spectrum,
    "shattering": shattering_curve,
    "lesions": lesion_bars,
    "jacobians": jacobian_spectra,
}


def rows_of(picture: Any, *keys: str) -> list[dict[str, Any]]:
    return [row for rows in picture.spec["datasets"].values() for row in rows if set(keys) <= set(row)]


@pytest.mark.parametrize("field", ALL)
def test_what_was_not_measured_says_why(make_reading, field):
    readings = [make_reading([1.0] * 9)]
    assert "ask for the depth to be measured" in ALL[field](readings, None).caption
    picture = ALL[field](readings, DepthRecord(not_measured={field: "the network has no block"}))
    assert not picture.is_drawn
    assert picture.caption == "Not measured: the network has no block."


@pytest.mark.parametrize("count", [1, 9, 1000])
@pytest.mark.parametrize("field", ALL)
def test_everything_is_drawn_at_any_depth(make_reading, make_depth, tmp_path, field, count):
    picture = ALL[field]([make_reading([1.0] * count)], make_depth(count))
    picture.save(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 3000


def test_path_bars_are_percent_of_the_energy(make_reading, make_depth):
    picture = path_spectrum([make_reading([1.0] * 4)], make_depth(4))
    bars = rows_of(picture, "share", "low")
    assert [bar["share"] for bar in bars] == [6.25, 25, 37.5, 25, 6.25]
    assert sum(row["share"] for row in picture.rows) == pytest.approx(1)
    assert "2.0 branches on average, 50\u00a0% of the 4" in picture.caption
    assert rows_of(picture, "from", "to") == [{"from": 1, "to": 3, "share": pytest.approx(41.25)}]


def test_the_tail_of_short_paths_in_a_deep_network_is_left_out():
    energies = tuple([0.5, 0.4, 0.1] + [1e-9] * 998)
    assert shown_paths(PathRecord(energies, 0.6, 0, 2, 0.6, 0.0, 1)) == 3


def test_the_shattering_curve_marks_half(make_reading, make_depth):
    picture = shattering_curve([make_reading([1.0] * 9)], make_depth(9))
    assert {"distance": 0.1, "similarity": 0.5} in rows_of(picture, "distance", "similarity")
    assert "lost at 0.1 of the way" in picture.caption
    assert picture.rows[0] == {"distance": 1e-4, "similarity": 0.99}


@pytest.mark.parametrize(("half", "words"), [(1e-3, "shattered, as in plain"), (math.inf, "keeps its direction")])
def test_the_half_distance_is_judged(make_reading, half, words):
    record = ShatteringRecord((1e-3, 1e-1), (0.4, 0.3), half, 8)
    assert words in shattering_curve([make_reading([1.0])], DepthRecord(shattering=record)).caption


def test_a_start_at_no_distance_and_a_negative_cosine(make_reading):
    record = ShatteringRecord((0.0, 1e-3, 1e-1), (1.0, 0.2, -0.1), 1e-3, 8)
    picture = shattering_curve([make_reading([1.0])], DepthRecord(shattering=record))
    assert [row["distance"] for row in rows_of(picture, "distance", "similarity")][:2] == [1e-3, 1e-1]
    assert "[-0.1, 1.05]" in str(picture.spec)
    assert len(picture.rows) == 3


def test_lesion_bars_know_better_from_worse(make_reading, make_depth):
    picture = lesion_bars([make_reading([1.0] * 9)], make_depth(9))
    bars = rows_of(picture, "sign", "increase")
    assert {bar["sign"] for bar in bars if bar["increase"] < 0} == {"better without it"}
    assert {bar["sign"] for bar in bars if bar["increase"] > 0} == {"worse without it"}
    assert "Most is lost without layer1.2: the loss of 2.3 rises by 0.1" in picture.caption
    assert "6 of 9 cost nothing or less" in picture.caption


def test_a_lesion_that_ends_in_no_number_is_a_cross(make_reading):
    lesions = (LesionRecord(0, "a.0", 2.4, 0.1), LesionRecord(1, "a.1", math.inf, math.inf))
    picture = lesion_bars([make_reading([1.0] * 2)], DepthRecord(lesions=lesions, loss=2.3))
    assert rows_of(picture, "left", "name")
    assert {"left": 1, "name": "a.1"} in rows_of(picture, "left", "name")
    assert "Without 1 the loss is not finite." in picture.caption


def test_lesions_of_other_blocks_than_those_read_have_an_axis_of_their_own(make_reading, make_depth, tmp_path):
    picture = lesion_bars([make_reading(layer_norms=[1.0] * 20)], make_depth(5))
    assert {row["index"] for row in rows_of(picture, "index", "increase")} == set(range(5))
    picture.save(tmp_path / "lesions.png")
    assert (tmp_path / "lesions.png").read_bytes().startswith(b"\x89PNG")


def test_singular_values_lie_on_their_part_with_the_root_mean_square(make_reading, make_depth):
    picture = jacobian_spectra([make_reading([1.0] * 9)], make_depth(9))
    values = [(row["part"], row["value"]) for row in rows_of(picture, "part", "value")]
    assert values == [("layer1", 2), ("layer1", 1), ("layer1", 0.5), ("all", 3), ("layer1", 1), ("all", 0.5)]
    assert "keeps small changes: 0.5 times at the root mean square, 3 times at most" in picture.caption
    assert [row for row in rows_of(picture, "value") if "part" not in row] == [{"value": 1.0}]


@pytest.mark.parametrize(("mean_square", "verb"), [(1.0, "keeps"), (9.0, "stretches"), (0.01, "shrinks")])
def test_the_network_stretches_or_shrinks(make_reading, mean_square, verb):
    record = JacobianRecord("all", mean_square, math.nan, (), 4)
    caption = jacobian_spectra([make_reading([1.0])], DepthRecord(jacobians=(record,))).caption
    assert f"The network {verb} small changes" in caption
    assert "nan" not in caption


def test_nothing_comes_through(make_reading):
    record = JacobianRecord("all", 0.0, 0.0, (0.0, 0.0), 4)
    picture = jacobian_spectra([make_reading([1.0])], DepthRecord(jacobians=(record,)))
    assert not picture.is_drawn
    assert "no small change comes through" in picture.caption


def test_the_mean_of_a_record_moves_the_diamond(make_reading, make_depth):
    depth = make_depth(8)
    moved = replace(depth, paths=replace(depth.paths, effective=2.5))
    assert {
        key: row[key]
        for row in rows_of(path_spectrum([make_reading([1.0])], moved), "left")
        for key in ("left",)
        if len(row) == 2
    } == {"left": 2.5}
