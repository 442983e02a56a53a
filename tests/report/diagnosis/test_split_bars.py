from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from reslab.report.diagnosis.split_bars import PARTS, extremes, split_bars, stacked, widened


def bars_of(picture: Any) -> list[dict[str, Any]]:
    return [row for rows in picture.spec["datasets"].values() for row in rows if "part" in row]


def marks_of(picture: Any, field: str) -> list[float]:
    return [
        row["left"]
        for rows in picture.spec["datasets"].values()
        for row in rows
        if set(row) == {"left", *([field] if field else [])}
    ]


def test_parts_are_piled_up_and_add_up_to_one(make_reading):
    drawn = bars_of(split_bars([make_reading([1.0] * 9)]))
    for place in range(9):
        bars = [row for row in drawn if row["left"] < place < row["right"]]
        assert sum(row["high"] - row["low"] for row in bars) == pytest.approx(1)
        assert {row["part"]: (row["low"], row["high"]) for row in bars} == {"shortcut": (0, 0.7), "branch": (0.7, 1.0)}


def test_a_part_that_points_against_the_whole_hangs_below_zero():
    column = {"left": 0.0, "right": 1.0, "shortcut": 1.5, "branch": -0.7, "other": 0.2}
    piled = {row["part"]: (row["low"], row["high"]) for row in stacked([column])}
    assert piled == {"shortcut": (0, 1.5), "branch": (-0.7, 0), "other": (1.5, 1.7)}
    assert list(piled) == list(PARTS)


def test_a_single_dead_block_among_a_thousand_stays_visible_and_marked(make_reading, make_block):
    blocks = [make_block(index, f"layer1.{index}") for index in range(1000)]
    blocks[617] = make_block(617, "layer1.617", branch_norm=0.0, branch_share=0.0, shortcut_share=1.0)
    picture = split_bars([make_reading(blocks=tuple(blocks))])
    dead = [row for row in bars_of(picture) if row["part"] == "branch" and row["low"] == row["high"]]
    assert len(dead) == 1
    assert dead[0]["left"] <= 617 <= dead[0]["right"]
    assert len([row for row in bars_of(picture) if row["part"] == "branch"]) <= 361
    assert "comes nothing (layer1.617)" in picture.caption
    assert marks_of(picture, "") == [617]
    assert len(picture.rows) == 1000


def test_the_kept_columns_cover_the_axis_without_gaps():
    rows = [{"index": index, "branch": math.sin(index)} for index in range(999)]
    columns = widened(rows, 999)
    assert columns[0]["left"] == -0.5
    assert columns[-1]["right"] == 998.5
    assert all(one["right"] == other["left"] for one, other in itertools.pairwise(columns))


def test_extremes_keep_the_least_and_the_greatest_of_each_run():
    rows = [{"index": index, "branch": float(index % 10)} for index in range(100)]
    kept = [row["index"] for row in extremes(rows, 20)]
    assert kept == sorted(kept)
    assert [index % 10 for index in kept] == [0, 9] * 10


def test_extremes_of_what_is_not_finite():
    rows = [{"index": index, "branch": math.nan} for index in range(10)]
    assert [row["index"] for row in extremes(rows, 4)] == [0, 5]


def test_where_all_branches_start_at_zero_none_is_marked_as_an_exception(make_reading, make_block):
    blocks = tuple(
        make_block(index, f"layer1.{index}", branch_norm=0.0, branch_share=0.0, shortcut_share=1.0)
        for index in range(9)
    )
    picture = split_bars([make_reading(blocks=blocks)])
    assert marks_of(picture, "") == []
    assert "Through 9 branches comes nothing" in picture.caption


def test_projections_are_diamonds_and_the_caption_counts_them(make_reading, make_block):
    kinds = ["identity", "projection", "zero_pad", "identity"]
    blocks = tuple(make_block(index, f"layer1.{index}", kind=kind) for index, kind in enumerate(kinds))
    picture = split_bars([make_reading(blocks=blocks)])
    shapes = {row["left"]: row["shape"] for rows in picture.spec["datasets"].values() for row in rows if "shape" in row}
    assert shapes == {1: "diamond", 2: "circle"}
    assert "1 shortcut is a projection" in picture.caption


def test_shares_without_bound_are_cut_off_and_the_axis_says_so(make_reading, make_block):
    blocks = (make_block(0, "a.0", shortcut_share=51.0, branch_share=-50.0), *(make_block(i, f"a.{i}") for i in (1, 2)))
    text = str(split_bars([make_reading(blocks=blocks)]).spec)
    assert "share (cut off)" in text
    assert "[-2.0, 3.0]" in text


def test_pass_through_is_drawn_where_something_is_held_back(make_reading, make_block):
    held = tuple(make_block(index, f"a.{index}", pass_through=0.6) for index in range(4))
    assert marks_of(split_bars([make_reading(blocks=held)]), "low") == [0, 1, 2, 3]
    assert marks_of(split_bars([make_reading([1.0] * 4)]), "low") == []


def test_gradients_that_are_nothing(make_reading, make_block, tmp_path):
    nan = math.nan
    blocks = tuple(
        make_block(
            index, f"a.{index}", grad_norm=0.0, shortcut_share=nan, branch_share=nan, other_share=nan, cosine=nan
        )
        for index in range(4)
    )
    picture = split_bars([make_reading(blocks=blocks)])
    picture.save(tmp_path / "split.png")
    assert picture.caption == "No gradient that can be measured has reached a residual addition."


def test_no_block_is_a_reason(make_reading):
    picture = split_bars([make_reading(layer_norms=[1.0] * 20)])
    assert not picture.is_drawn
    assert "No residual addition" in picture.caption
