from __future__ import annotations

import math
from typing import Any

import pytest

from reslab.records import MomentsRecord
from reslab.report.diagnosis.signal import PER_BLOCK, signal_panels, why_not_expected


def stream_of(make_block: Any, count: int, **changes: Any) -> tuple[Any, ...]:
    """Pre-activation with batch norm as theory has it: 0.68 more with each block, two stages."""
    half = count // 2
    return tuple(
        make_block(
            index,
            f"layer{1 + index // half}.{index % half}",
            **(
                {"stream": MomentsRecord(0.3, 1 + PER_BLOCK * (index % half)), "branch": MomentsRecord(0.3, PER_BLOCK)}
                | changes
            ),
        )
        for index in range(count)
    )


def expected_of(picture: Any) -> list[float]:
    return [
        row["value"] for rows in picture.spec["datasets"].values() for row in rows if "stage" in row and "value" in row
    ]


RESPONSES = (("bn1", 1.0), ("bn2", 0.9))


def test_the_constant_is_the_one_of_the_literature():
    assert pytest.approx(0.68, abs=0.005) == PER_BLOCK


def test_the_expected_line_begins_anew_in_each_stage(make_reading, make_block):
    blocks = stream_of(make_block, 8)
    picture = signal_panels([make_reading(blocks=blocks, responses=RESPONSES)])
    assert expected_of(picture) == pytest.approx([block.stream.variance for block in blocks])
    assert "adds at the start: 0.68 per block" in picture.caption


@pytest.mark.parametrize(
    ("changes", "of_reading", "reason"),
    [
        ({}, {"step": 100}, "trained for 100 steps"),
        ({"pass_through": 0.6}, {}, "an activation follows"),
        ({"branch": MomentsRecord(0.0, 1.0)}, {}, "adds a variance of 1, not 0.68"),
        ({"branch": None}, {}, "went by unseen"),
        ({}, {"responses": ()}, "no norm"),
    ],
)
def test_where_the_line_does_not_apply_the_caption_says_why(make_reading, make_block, changes, of_reading, reason):
    reading = make_reading(**({"blocks": stream_of(make_block, 8, **changes), "responses": RESPONSES} | of_reading))
    picture = signal_panels([reading])
    assert expected_of(picture) == []
    assert reason in why_not_expected(reading)
    assert reason in picture.caption


def test_panels_are_three_and_one_for_layer_responses(make_reading, make_block):
    blocks = stream_of(make_block, 8)
    assert len(signal_panels([make_reading(blocks=blocks, responses=RESPONSES)]).spec["vconcat"]) == 4
    assert len(signal_panels([make_reading(blocks=blocks)]).spec["vconcat"]) == 3
    assert len(signal_panels([make_reading(layer_norms=[1.0] * 9, responses=RESPONSES)]).spec["vconcat"]) == 1


def test_the_numbers_are_those_of_the_records(make_reading, make_block):
    rows = signal_panels([make_reading(blocks=stream_of(make_block, 4))]).rows
    assert rows[1] == {
        "index": 1,
        "name": "layer1.1",
        "mean_square": 0.3,
        "stream_variance": 1 + PER_BLOCK,
        "branch_variance": PER_BLOCK,
        "shortcut_variance": 1.3,
        "branch_size": rows[1]["branch_size"],  # see below
    }


def test_blocks_that_went_by_unseen_are_gaps(make_reading, make_block, tmp_path):
    blocks = [*stream_of(make_block, 8)]
    blocks[2] = make_block(2, "layer1.2", stream=None, branch=None, shortcut=None)
    picture = signal_panels([make_reading(blocks=tuple(blocks))])
    picture.save(tmp_path / "signal.png")
    assert math.isnan(picture.rows[2]["stream_variance"])


def test_a_branch_variance_of_zero_has_a_rail(make_reading, make_block):
    blocks = stream_of(make_block, 8, branch=MomentsRecord(0.0, 0.0))
    rows = [row for rows in signal_panels([make_reading(blocks=blocks)]).spec["datasets"].values() for row in rows]
    assert [row["index"] for row in rows if row.get("why") == "exactly 0"] == list(range(8))


def test_neither_block_nor_norm_is_a_reason(make_reading):
    picture = signal_panels([make_reading(layer_norms=[1.0] * 9)])
    assert not picture.is_drawn
    assert "no residual addition" in picture.caption


def test_how_near_the_blocks_are_to_identity(make_reading, make_block):
    small, large = MomentsRecord(0.0, 0.25), MomentsRecord(3.0, 1.0)
    blocks = [make_block(index, f"layer1.{index}", branch=small, shortcut=large, stream=large) for index in range(3)]
    picture = signal_panels([make_reading(blocks=tuple(blocks))])
    assert [row["branch_size"] for row in picture.rows] == [0.25] * 3
    assert "The median branch is 0.25 times the size" in picture.caption
