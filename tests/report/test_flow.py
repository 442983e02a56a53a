"""The one chart of gradient flow: of runs, of a diagnosis, and of several side by side."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from tests.report.blank_records import block_record, read, reading_record
from tests.report.page_reader import find_all, rows_of, scales_of, words_of

from reslab.records.depth import DepthRecord, TwinRecord
from reslab.report import gradient_flow
from reslab.report.flow import flow_comparison, flow_figure
from reslab.report.profile import (
    FRACTIONS,
    decades_at,
    depth_profile,
    healthy_band,
    healthy_decades,
    slope_of,
    stage_of,
    stages_of,
)


def points_of(spec: dict[str, Any]) -> dict[tuple[str, str], list[float | None]]:
    """The norms of each line, by run or label and by reading."""
    lines: dict[tuple[str, str], list[float | None]] = {}
    layers = [layer for found in find_all(spec, "layer") for layer in found if "mark" in layer]
    drawn = [layer for layer in layers if layer["mark"]["type"] == "line" and "detail" in layer["encoding"]]
    for row in (row for layer in drawn for row in spec["datasets"][layer["data"]["name"]]):
        lines.setdefault((row["run"] or row["label"], row["line"]), []).append(row["norm"])
    return lines


def axes_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [scale for scale in scales_of(spec, "y") if scale.get("type") == "log"]


def rails_of(spec: dict[str, Any]) -> set[tuple[float, str]]:
    return {(row["x"], row["why"]) for row in rows_of(spec, "why")}


# ---- of one network


def test_every_block_is_on_the_line_and_nothing_is_clamped():
    norms = [10.0 ** -(3 * index) for index in range(12)]
    figure = flow_figure(read(norms))
    json.dumps(figure.spec, allow_nan=False)
    assert list(figure.rows[0]) == ["index", "name", "grad_norm", "low", "high"]
    assert [row["grad_norm"] for row in figure.rows] == norms  # exact
    assert points_of(figure.spec) == {("this network", "last reading"): pytest.approx(norms, rel=1e-4)}
    scale = axes_of(figure.spec)[0]
    assert not scale.get("clamp")
    assert scale["domain"][0] <= min(norms) < max(norms) <= scale["domain"][1]
    titles = [title for title in find_all(figure.spec, "title") if isinstance(title, str)]
    assert "gradient norm at the block's input" in titles
    assert any(title.startswith("\u2190 input") and title.endswith("loss \u2192") for title in titles)


def test_the_slope_is_that_of_the_half_nearer_to_the_loss():
    flat, steep = [1.0] * 10, [1.2 ** (10 - index) for index in range(10)]
    rising, level = slope_of(depth_profile(read([*flat, *steep]))), slope_of(depth_profile(read([*steep, *flat])))
    assert (rising.factor, rising.fit, level.factor) == pytest.approx((1.2, 1.0, 1.0))
    figure = flow_figure(read([*flat, *steep]))
    assert any(words.startswith("\N{MULTIPLICATION SIGN}1.20 per block") for words in words_of(figure.spec))
    assert "\N{MULTIPLICATION SIGN}1.20 per block: a straight line" in figure.caption


def test_layers_stand_in_where_blocks_are_few_and_two_make_a_block():
    reading = read([1.0, 1.0], layer_norms=[math.nan, *(1.1 ** (20 - index) for index in range(20))])
    profile = depth_profile(reading)
    assert (profile.unit, len(profile.names)) == ("layer", 20)  # the first layer's input is the data
    assert slope_of(profile).factor == pytest.approx(1.21)
    assert "per two layers" in flow_figure(reading).caption
    assert "gradient norm at the layer's input" in find_all(flow_figure(reading).spec, "title")


@pytest.mark.parametrize(("count", "layers"), [(8, 30), (7, 30), (0, 30), (40, 2)])
def test_the_choice_and_the_slope_are_those_of_the_verdict(count, layers):
    from reslab.probe.evidence import flow_profile

    norms = [1.1**index for index in range(count)]
    reading = read(norms, layer_norms=[1.3**index for index in range(layers)])
    judged, ours = flow_profile(reading), depth_profile(reading)
    slope = slope_of(ours)
    assert (judged.unit, judged.names) == (ours.unit, ours.names)
    assert (-math.log10(slope.factor), slope.fit) == pytest.approx((judged.line.slope, judged.line.fit))


def test_few_blocks_of_a_network_with_fewer_layers_are_drawn_as_blocks_without_a_line():
    profile = depth_profile(read([3.0, 2.0, 1.0], layer_norms=[1.0, 1.0]))
    assert profile.unit == "block"
    assert slope_of(profile) is None


def test_zeros_and_non_finite_norms_have_rails_and_are_gaps():
    norms = [1.0, 0.0, 0.5, math.inf, 0.2, math.nan, 0.1, 0.1, 0.1]
    figure = flow_figure(read(norms))
    assert rails_of(figure.spec) == {(1, "exactly 0"), (3, "not finite"), (5, "not finite")}
    line = points_of(figure.spec)["this network", "last reading"]
    assert [value is None for value in line] == [norm == 0 or not math.isfinite(norm) for norm in norms]
    assert {row["x"] for row in rows_of(figure.spec, "alone") if row["alone"]} == {0, 2, 4}
    assert "1 of 9 norms are exactly 0 (layer1.1 first). 2 of 9 norms are not finite (layer2.0 first)" in figure.caption
    assert not [words for words in words_of(figure.spec) if "per block" in words]
    scale = axes_of(figure.spec)[0]
    assert 0 < scale["rangeMax"] < scale["rangeMin"] < figure.spec["concat"][0]["height"]


@pytest.mark.parametrize(
    ("norms", "words"),
    [
        ([0.0] * 9, "the gradient can't be followed"),
        ([0.5], "There is a single block to follow the gradient through: its norm at layer1.0 is 0.5."),
    ],
)
def test_very_little_can_be_drawn(norms, words, tmp_path):
    figure = flow_figure(read(norms))
    figure.save(tmp_path / "flow.png")
    assert words in figure.caption


def test_the_twin_without_shortcuts_is_dashed_and_has_its_own_zeros():
    depth = DepthRecord(twin=TwinRecord(2.0, (512.0, 0.0, *[1.0] * 7)))
    figure = flow_figure(read([1.0] * 9), depth)
    assert {label for label, _ in points_of(figure.spec)} == {"this network", "the same, shortcuts cut"}
    assert [scale["range"] for scale in scales_of(figure.spec, "strokeDash")] == [[[1, 0], [5, 3]]]
    assert rails_of(figure.spec) == {(1, "exactly 0")}
    assert "the first block gets 512 times the last one's gradient" in figure.caption
    assert figure.rows[0]["cut"] == 512.0
    other = DepthRecord(twin=TwinRecord(2.0, (1.0, 1.0)))  # of another length
    assert len(points_of(flow_figure(read([1.0] * 9), other).spec)) == 1


def test_samples_that_cannot_be_distinguished_have_no_band():
    nan = math.nan
    blocks = [block_record(index, f"layer1.{index}", grad_norm_low=nan, grad_norm_high=nan) for index in range(9)]
    assert len(list(find_all(flow_figure(reading_record(blocks)).spec, "y2"))) == 1  # that of healthy networks
    assert len(list(find_all(flow_figure(read([1.0] * 9)).spec, "y2"))) == 2


def test_ticks_stand_at_stage_borders_only():
    axes = [
        axis for axis in find_all(flow_figure(read([1.0] * 30)).spec, "axis") if axis and axis.get("format") == ",d"
    ]
    assert {tuple(axis["values"]) for axis in axes} == {(0, 10, 20, 29)}


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
def test_the_stage_of_a_module_is_its_path_up_to_its_number(name, stage):
    assert stage_of(name) == stage


def test_a_stage_that_comes_twice_is_two_runs():
    runs = [(stage.name, stage.first, stage.last) for stage in stages_of(["a.0", "a.1", "b.0", "a.2"])]
    assert runs == [("a", 0, 1), ("b", 2, 2), ("a", 3, 3)]


# ---- healthy networks


def test_the_saved_band_is_one():
    low, high = healthy_decades()
    assert len(low) == len(high) == len(FRACTIONS)
    assert all(one <= other for one, other in zip(low, high, strict=True))
    assert low[-1] == high[-1] == 0


def test_profiles_are_compared_at_fractions_of_the_depth_without_the_outermost():
    assert decades_at([1000.0, 100.0, 10.0, 1.0], [0.0, 0.5, 1.0]) == pytest.approx([3.0, 1.5, 0.0])
    assert decades_at([1.0, 0.0], [0.0]) is None
    assert decades_at([1.0, math.inf], [0.0]) is None
    assert healthy_band([[float(place)] for place in range(101)]) == ([5.0], [95.0])


def test_the_band_is_set_to_the_last_norm():
    band = [
        row
        for row in rows_of(flow_figure(read([5.0] * 9)).spec, "to", "norm")
        if "words" not in row and row["to"] != 6.5
    ]
    assert (band[0]["x"], band[-1]["x"]) == (0, 8)
    assert band[-1]["norm"] == band[-1]["to"] == 5.0
    assert math.log10(band[0]["to"] / 5.0) == pytest.approx(healthy_decades()[1][0], abs=1e-4)


@pytest.mark.parametrize("norms", [[1.0] * 3, [1.0] * 9 + [0.0]])
def test_few_blocks_or_a_last_one_without_a_norm_have_no_band(norms):
    assert "healthy networks" not in words_of(flow_figure(read(norms)).spec)


# ---- of runs


def test_twins_have_a_panel_for_each_pair_and_one_axis(twins):
    spec = gradient_flow(list(reversed(twins))).spec
    assert [panel["title"] for panel in spec["concat"]] == ["20 layers", "56 layers", "110 layers"]
    lines = points_of(spec)
    assert set(lines) == {(run.name, line) for run in twins for line in ("first reading", "last reading")}
    assert len(lines["plain110", "first reading"]) == 54
    assert len({tuple(scale["domain"]) for scale in axes_of(spec)}) == 1
    low, high = axes_of(spec)[0]["domain"]
    norms = [norm for line in lines.values() for norm in line]
    assert low <= min(norms) < max(norms) <= high
    assert max(norms) / min(norms) > 1e5  # the exploding plain110 is drawn whole
    assert not rails_of(spec)
    dash = scales_of(spec, "strokeDash")[0]
    dashes = dict(zip(dash["domain"], dash["range"], strict=True))
    assert dashes == {"last reading": [1, 0], "first reading": [5, 3]}


def test_one_run_has_its_stages_slope_and_healthy_networks(make_run):
    spec = gradient_flow([make_run("resnet20")]).spec
    assert {row["stage"]: row["x"] for row in rows_of(spec, "stage")} == {"layer1": 1, "layer2": 4, "layer3": 7}
    assert "healthy networks" in words_of(spec)
    assert any("per block" in words for words in words_of(spec))


def test_zeros_and_non_finite_readings_of_runs_have_rails_and_are_counted(make_run):
    norms = ([1.0, 0.5, math.inf, 0.2, 0.1, 0.1], [0.0, 0.0, 1e-9, math.nan, 0.1, 0.1])
    figure = gradient_flow([make_run("net", model="my-net", norms=norms), make_run("other", model="my-net")])
    assert rails_of(figure.spec) == {(0, "exactly 0"), (1, "exactly 0"), (2, "not finite"), (3, "not finite")}
    assert "net: 2 of 12 norms are exactly 0 (layer1.0 first). net: 2 of 12 norms are not finite" in figure.caption


def test_unrelated_runs_have_a_panel_each(make_run):
    runs = [make_run(name, model=name, norms=([1.0, 0.5], [0.4, 0.2])) for name in ("left", "right")]
    assert [panel["title"] for panel in gradient_flow(runs).spec["concat"]] == ["left", "right"]


def test_the_deepest_pair_of_twins_is_told(twins):
    caption = gradient_flow(twins).caption
    readings = next(run for run in twins if run.name == "plain110").read_readings()
    norms = [norm.grad_norm for norm in readings[0].block_norms()]
    growth = norms[0] / norms[-1]
    assert growth > 1e4
    assert (
        f"plain110: from the loss to the input the gradient grows {float(f'{growth:.3g}'):,.0f}-fold at step 0"
        in caption
    )
    assert "plain20" not in caption
    assert "resnet110" in caption


def test_seeds_are_told_together(make_run):
    runs = [make_run(f"{name}-{seed}", model=name) for name in ("plain20", "resnet20") for seed in range(4)]
    for name in ("plain20", "resnet20"):
        assert f"{name} (4 runs): from the loss to the input" in gradient_flow(runs).caption


def test_no_reading_is_a_reason(make_run):
    figure = gradient_flow([make_run("resnet20", norms=([], []))])
    assert not figure.is_drawn
    assert figure.caption == "No gradient was recorded block by block, so there is nothing to draw."


# ---- side by side


def test_networks_of_any_depth_are_on_one_axis_from_input_to_loss():
    readings = {
        "plain20": read(layer_norms=[1.1 ** (19 - k) for k in range(20)]),
        "resnet20": read([1.2**-k for k in range(9)]),
    }
    together, strips = flow_comparison(readings)
    for name, count in (("plain20", 20), ("resnet20", 9)):
        places = {row["x"] for row in rows_of(together.spec, "alone") if row["run"] == name}
        assert (min(places), max(places), len(places)) == (0, 1, count)
    assert "grows 6.12-fold in plain20" in together.caption
    assert [panel["title"] for panel in strips.spec["concat"]] == ["plain20", "resnet20"]
    assert len({json.dumps(scale) for scale in axes_of(strips.spec)}) == 1


def test_a_dead_network_beside_a_living_one_and_two_that_were_not_seen():
    together, _ = flow_comparison({"alive": read([1.0] * 9), "dead": read([0.0] * 9)})
    assert "it can't be followed (a norm at one of its ends is 0 or not finite) in dead" in together.caption
    assert not any(figure.is_drawn for figure in flow_comparison({"one": read(), "two": read()}))
