from __future__ import annotations

import json
import math
from typing import Any

import pytest

from reslab.records import DepthRecord, TwinRecord
from reslab.report.diagnosis.flow_strip import flow_strip
from reslab.report.diagnosis.places import depth_of, slope_of, stage_of, stages_of


def rows_of(spec: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows if key in row]


def find_all(node: Any, key: str) -> list[Any]:
    if isinstance(node, dict):
        own = [node[key]] if key in node else []
        return own + [hit for name, value in node.items() if name != "datasets" for hit in find_all(value, key)]
    return [hit for item in node for hit in find_all(item, key)] if isinstance(node, list) else []


def lines_of(spec: dict[str, Any]) -> dict[str, list[float | None]]:
    lines: dict[str, list[float | None]] = {}
    for row in rows_of(spec, "alone"):
        lines.setdefault(row["line"], []).append(row["norm"])
    return lines


def words_of(spec: dict[str, Any]) -> list[str]:
    return [row["words"] for row in rows_of(spec, "words")]


def test_every_block_is_on_the_line_and_nothing_is_clamped(make_reading):
    norms = [10.0 ** -(3 * index) for index in range(12)]
    spec = flow_strip([make_reading(norms)]).spec
    json.dumps(spec, allow_nan=False)
    assert lines_of(spec) == {"this network": pytest.approx(norms, rel=1e-4)}
    scale = next(scale for scale in find_all(spec, "scale") if scale and scale.get("type") == "log")
    assert not scale.get("clamp")
    assert scale["domain"][0] <= min(norms) < max(norms) <= scale["domain"][1]


def test_the_slope_is_that_of_the_half_nearer_to_the_loss(make_reading):
    flat, steep = [1.0] * 10, [1.2 ** (10 - index) for index in range(10)]
    rising = slope_of(depth_of(make_reading([*flat, *steep])))
    level = slope_of(depth_of(make_reading([*steep, *flat])))
    assert rising.factor == pytest.approx(1.2)
    assert rising.fit == pytest.approx(1.0)
    assert level.factor == pytest.approx(1.0)
    picture = flow_strip([make_reading([*flat, *steep])])
    assert any(words.startswith("\N{MULTIPLICATION SIGN}1.20 per block") for words in words_of(picture.spec))
    assert "\N{MULTIPLICATION SIGN}1.20 per block: a straight line" in picture.caption


def test_layers_stand_in_where_blocks_are_few_and_two_make_a_block(make_reading):
    layer_norms = [math.nan, *(1.1 ** (20 - index) for index in range(20))]
    reading = make_reading([1.0, 1.0], layer_norms=layer_norms)
    along = depth_of(reading)
    assert along.unit == "layer"
    assert len(along.places) == 20  # the first layer's input is the data
    assert slope_of(along).factor == pytest.approx(1.21)
    assert "per two layers" in flow_strip([reading]).caption


@pytest.mark.parametrize(("count", "layers"), [(8, 30), (7, 30), (0, 30), (40, 2)])
def test_the_choice_and_the_slope_are_those_of_the_verdict(make_reading, count, layers):
    from reslab.probe import flow_profile

    norms = [1.1**index for index in range(count)]
    reading = make_reading(norms, layer_norms=[1.3**index for index in range(layers)])
    profile, along = flow_profile(reading), depth_of(reading)
    slope = slope_of(along)
    assert (profile.unit, profile.names) == (along.unit, along.names)
    assert slope.slope * slope.per == pytest.approx(profile.line.slope)
    assert slope.fit == pytest.approx(profile.line.fit)


def test_few_blocks_of_a_network_with_fewer_layers_are_drawn_as_blocks_without_a_line(make_reading):
    along = depth_of(make_reading([3.0, 2.0, 1.0], layer_norms=[1.0, 1.0]))
    assert along.unit == "block"
    assert slope_of(along) is None


def test_zeros_and_non_finite_norms_have_rails_and_are_gaps(make_reading):
    norms = [1.0, 0.0, 0.5, math.inf, 0.2, math.nan, 0.1, 0.1, 0.1]
    picture = flow_strip([make_reading(norms)])
    why = {row["index"]: row["why"] for row in rows_of(picture.spec, "why")}
    assert why == {1: "exactly 0", 3: "not finite", 5: "not finite"}
    line = lines_of(picture.spec)["this network"]
    assert [value is None for value in line] == [norm == 0 or not math.isfinite(norm) for norm in norms]
    assert [row["index"] for row in rows_of(picture.spec, "alone") if row["alone"]] == [0, 2, 4]
    assert "1 of 9 are exactly 0 (layer1.1 first)" in picture.caption
    assert "2 of 9 are not finite (layer2.0 first)" in picture.caption
    assert not [words for words in words_of(picture.spec) if "per block" in words]


def test_nothing_but_zeros_can_be_drawn(make_reading, tmp_path):
    picture = flow_strip([make_reading([0.0] * 9)])
    picture.save(tmp_path / "dead.png")
    assert "can't be followed" in picture.caption


def test_a_single_block(make_reading, tmp_path):
    picture = flow_strip([make_reading([0.5])])
    picture.save(tmp_path / "one.png")
    assert picture.caption == "There is a single block to follow the gradient through: its norm at layer1.0 is 0.5."


def test_no_block_and_no_layer_is_a_reason_not_a_chart(make_reading):
    picture = flow_strip([make_reading()])
    assert picture.spec is None
    assert "neither a block nor a layer" in picture.caption


def test_the_twin_without_shortcuts_is_dashed_and_has_its_own_zeros(make_reading):
    reading = make_reading([1.0] * 9)
    depth = DepthRecord(twin=TwinRecord(2.0, (512.0, 0.0, *[1.0] * 7)))
    picture = flow_strip([reading], depth)
    assert set(lines_of(picture.spec)) == {"this network", "the same, shortcuts cut"}
    dashes = [scale for scale in find_all(picture.spec, "scale") if scale and scale.get("range") == [[1, 0], [5, 3]]]
    assert dashes
    assert [row["index"] for row in rows_of(picture.spec, "why")] == [1]
    assert "the first block gets 512 times the last one's gradient" in picture.caption
    assert picture.rows[0]["cut"] == 512.0


def test_a_twin_of_another_length_is_left_out(make_reading):
    depth = DepthRecord(twin=TwinRecord(2.0, (1.0, 1.0)))
    assert set(lines_of(flow_strip([make_reading([1.0] * 9)], depth).spec)) == {"this network"}


def test_samples_that_cannot_be_told_apart_have_no_band(make_reading, make_block):
    blocks = tuple(
        make_block(index, f"layer1.{index}", grad_norm_low=math.nan, grad_norm_high=math.nan) for index in range(9)
    )
    picture = flow_strip([make_reading(blocks=blocks)])
    assert len(find_all(picture.spec, "y2")) == 1  # that of healthy networks
    assert len(find_all(flow_strip([make_reading([1.0] * 9)]).spec, "y2")) == 2


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("layer1.0", "layer1"),
        ("layer2.3.conv1", "layer2"),
        ("blocks.11.mlp", "blocks"),
        ("stages.2.blocks.4", "stages.2"),
        ("features.1.0", "features.1"),
        ("encoder.layers.encoder_layer_3.mlp", "encoder.layers"),
        ("conv1", ""),
        ("fc", ""),
        ("0", ""),
        ("", ""),
    ],
)
def test_stage_of(name, stage):
    assert stage_of(name) == stage


def test_a_stage_that_comes_twice_is_two_runs():
    runs = [(stage.name, stage.first, stage.last) for stage in stages_of(["a.0", "a.1", "b.0", "a.2"])]
    assert runs == [("a", 0, 1), ("b", 2, 2), ("a", 3, 3)]


def test_ticks_stand_at_stage_borders_only(make_reading):
    spec = flow_strip([make_reading([1.0] * 30)]).spec
    ticks = {tuple(axis["values"]) for axis in find_all(spec, "axis") if axis and axis.get("format") == ",d"}
    assert ticks == {(0, 10, 20, 29)}


def test_the_numbers_are_exact_in_the_csv(make_reading, tmp_path):
    norms = [1 / (3 + index) for index in range(9)]
    picture = flow_strip([make_reading(norms)])
    picture.save(tmp_path / "flow.csv")
    lines = (tmp_path / "flow.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "index,name,grad_norm,low,high"
    assert [float(line.split(",")[2]) for line in lines[1:]] == norms
