from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from reslab.report.diagnosis.heatmap import MAX_COLUMNS, MAX_ROWS, heatmap, limit_of, pooled, spread, worst_of
from reslab.report.diagnosis.places import depth_of


def cells_of(picture: Any) -> list[dict[str, Any]]:
    return [row for rows in picture.spec["datasets"].values() for row in rows if "odd" in row]


def test_cells_are_decades_from_the_median_of_their_row(make_reading):
    readings = [make_reading([norm, 5 * norm], step=step) for step, norm in enumerate([1.0, 10.0, 1000.0])]
    cells = cells_of(heatmap(readings))
    assert [cell["decades"] for cell in cells] == [-1, 0, 2, -1, 0, 2]
    assert [cell["step"] for cell in cells] == [0, 1, 2, 0, 1, 2]


def test_one_reading_is_a_reason(make_reading):
    picture = heatmap([make_reading([1.0] * 9)])
    assert not picture.is_drawn
    assert "one step was read" in picture.caption


def test_zeros_and_non_finite_norms_have_colours_of_their_own(make_reading):
    readings = [make_reading([1.0, 0.0], step=0), make_reading([math.nan, 2.0], step=1)]
    picture = heatmap(readings)
    assert [(cell["decades"], cell["odd"]) for cell in cells_of(picture)] == [
        (0, ""),
        (None, "not finite"),
        (None, "exactly 0"),
        (0, ""),
    ]
    assert "In 1 of 2 blocks it was exactly 0 at some step." in picture.caption


def test_a_block_that_was_not_there_before_is_not_read(make_reading):
    cells = cells_of(heatmap([make_reading([1.0]), make_reading([1.0, 1.0], step=1)]))
    assert [cell["odd"] for cell in cells] == ["", "", "not read", ""]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 999, 3000])
def test_pooling_stays_within_the_cap_covers_everything_and_crosses_no_stage(make_reading, count):
    along = depth_of(make_reading([1.0] * count))
    groups = pooled(along)
    assert len(groups) <= MAX_ROWS
    assert [place for group in groups for place in range(group.first, group.last + 1)] == list(range(count))
    assert all(along.names[group.first].split(".")[0] == along.names[group.last].split(".")[0] for group in groups)


def test_more_stages_than_rows_ends(make_reading, make_block):
    blocks = tuple(make_block(index, f"stage{index}.0") for index in range(300))
    assert len(pooled(depth_of(make_reading(blocks=blocks)))) == 300


def test_the_furthest_of_a_group_keeps_one_dead_block_of_a_thousand(make_reading):
    norms = [1.0] * 999
    dead = [*norms]
    dead[500] = 0.0
    picture = heatmap([make_reading(norms), make_reading(norms, step=1), make_reading(dead, step=2)])
    cells = cells_of(picture)
    assert len(cells) == 2 * 3 * len(pooled(depth_of(make_reading(norms))))
    assert [cell["step"] for cell in cells if cell["odd"] == "exactly 0"] == [2]
    assert len(picture.rows) == 999


def test_worst_of():
    assert worst_of([0.1, -2.0, 1.0]) == -2.0
    assert worst_of([0.1, "exactly 0"]) == "exactly 0"
    assert worst_of(["exactly 0", "not finite"]) == "not finite"
    assert worst_of(["not read"]) == "not read"


def test_limits_are_symmetric_robust_and_bounded():
    assert limit_of([[0.0, 0.01, -0.02]]) == 0.5
    assert limit_of([[1.0] * 99 + [40.0]]) == 1.0
    assert limit_of([[50.0] * 10]) == 3.0
    assert limit_of([["exactly 0"]]) == 0.5


def test_the_centre_of_the_colours_is_the_usual(make_reading):
    readings = [make_reading([10.0**step] * 2, step=step) for step in range(4)]
    scales = [
        layer["encoding"]["color"]["scale"]
        for layer in heatmap(readings).spec["concat"][0]["layer"][0]["layer"]
        if "color" in layer["encoding"]
    ]
    domain = scales[0]["domain"]
    assert domain[2] == 0
    assert domain[0] == -domain[4]


def test_blocks_that_a_finding_names_are_marked(make_reading, finding):
    readings = [make_reading([1.0] * 9, step=step) for step in range(2)]
    picture = heatmap(readings, findings=[finding])
    glyphs = [row for rows in picture.spec["datasets"].values() for row in rows if "glyph" in row]
    assert [(row["row"], row["glyph"], row["finding"]) for row in glyphs] == [(1.5, "\u2716", "GRAD_EXP_GROWTH")]


def test_many_readings_are_thinned_out_evenly(make_reading):
    readings = [make_reading([1.0], step=step) for step in range(1000)]
    kept = spread(readings)
    assert len(kept) == MAX_COLUMNS
    assert (kept[0].step, kept[-1].step) == (0, 999)
    gaps = {two.step - one.step for one, two in itertools.pairwise(kept)}
    assert gaps <= {8, 9}


def test_layers_of_a_plain_network_have_a_heatmap_too(make_reading):
    readings = [make_reading(layer_norms=[2.0**step] * 12, step=step) for step in range(3)]
    picture = heatmap(readings)
    assert len(cells_of(picture)) == 36
    assert "median layer" in picture.caption
