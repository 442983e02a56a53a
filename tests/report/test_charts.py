from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from reslab.errors import RequestError
from reslab.records import RunFolder
from reslab.report.curves import learning_curves
from reslab.report.flow import gradient_flow
from reslab.report.portraits import portraits, twin_of
from reslab.report.steps import MAX_POINTS, loss_and_lr, thin_out
from reslab.report.theme import save_png


def spec_of(chart: alt.TopLevelMixin) -> dict[str, Any]:
    spec = chart.to_dict()
    json.dumps(spec, allow_nan=False)  # a browser can read it
    return spec


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows]


def find_all(node: Any, key: str) -> list[Any]:
    """Every value of ``key``, anywhere in the spec."""
    if isinstance(node, dict):
        return [node[key] for _ in "1" if key in node] + [
            hit for value in node.values() for hit in find_all(value, key)
        ]
    return [hit for item in node for hit in find_all(item, key)] if isinstance(node, list) else []


def scales_of(spec: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    return [found["scale"] for found in find_all(spec, channel) if isinstance(found, dict) and "scale" in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain110", ("plain", 110, "")),
        ("resnet18_small", ("residual", 18, "_small")),
        ("my-net", None),
        ("resnet", None),
        ("resnet20x", ("residual", 20, "x")),
    ],
)
def test_twin_of(name, expected):
    twin = twin_of(name)
    assert (twin and (twin.family, twin.depth, twin.variant)) == expected


def test_plain_is_warm_residual_is_cool_and_each_run_has_its_own_colour(twins):
    faces = portraits(twins)
    assert len({face.colour for face in faces}) == 6
    for face in faces:
        red, blue = int(face.colour[1:3], 16), int(face.colour[5:7], 16)
        assert (red > blue) == face.label.startswith("plain")


def test_seeds_of_a_twin_share_a_colour_and_a_name(make_run):
    runs = [make_run(f"{model}-{seed}", model=model) for model in ("plain20", "resnet20") for seed in (0, 1)]
    assert [face.label for face in portraits(runs)] == ["plain20", "plain20", "resnet20", "resnet20"]
    spec = spec_of(learning_curves(runs))
    assert {row["run"] for row in rows_of(spec)} == {run.name for run in runs}


def test_the_same_network_trained_four_ways_is_coloured_by_run(make_run):
    runs = [make_run(f"lr-{place}", model="resnet20", epochs=2) for place in range(4)]
    faces = portraits(runs)
    assert [face.label for face in faces] == [run.name for run in runs]
    assert len({face.colour for face in faces}) == 4
    assert len(spec_of(learning_curves(runs))["concat"]) == 1


def test_learning_curves_of_twins_are_two_panels_with_one_error_axis(twins):
    spec = spec_of(learning_curves(twins))
    assert [panel["title"] for panel in spec["concat"]] == ["Plain: no shortcuts", "Residual: with shortcuts"]
    assert len({tuple(scale["domain"]) for scale in scales_of(spec, "y")}) == 1
    drawn = {(row["run"], row["line"]) for row in rows_of(spec)}
    assert len(drawn) == 12
    assert len(rows_of(spec)) == 12 * 30


def test_learning_curves_dash_the_training_error(twins):
    dash = scales_of(spec_of(learning_curves(twins)), "strokeDash")[0]
    assert dict(zip(dash["domain"], dash["range"], strict=True)) == {
        "validation": [1, 0],
        "training (as it ran)": [5, 3],
    }


def test_learning_curves_are_percent_and_epochs_count_from_one(make_run):
    run = make_run("resnet20", epochs=1)
    record = run.read_epochs()[0]
    rows = rows_of(spec_of(learning_curves([run])))
    assert {row["epoch"] for row in rows} == {1}
    assert {row["line"]: row["error"] for row in rows} == {
        "validation": pytest.approx(100 * record.scores["val_error"], abs=1e-3),
        "training (as it ran)": pytest.approx(100 * record.scores["train_error"], abs=1e-3),
    }


def test_an_axis_that_leaves_out_the_beginning_says_so(make_run):
    titles = find_all(spec_of(learning_curves([make_run("resnet20", epochs=60)])), "title")
    assert any(isinstance(title, str) and "not shown" in title for title in titles)


def test_learning_curves_without_validation_draw_the_training_error(make_run):
    rows = rows_of(spec_of(learning_curves([make_run("resnet20", val=False)])))
    assert {row["line"] for row in rows} == {"training (as it ran)"}


def test_a_click_on_the_legend_picks_a_run(twins):
    spec = spec_of(learning_curves(twins))
    assert [(found["name"], found["bind"]) for found in spec["params"]] == [("picked", "legend")]


def test_gradient_flow_has_a_panel_for_each_pair_of_twins(twins):
    spec = spec_of(gradient_flow(list(reversed(twins))))
    assert [panel["title"] for panel in spec["concat"]] == ["20 layers", "56 layers", "110 layers"]
    rows = [row for row in rows_of(spec) if "grad_norm" in row]
    assert {(row["run"], row["line"]) for row in rows} == {
        (run.name, line) for run in twins for line in ("first reading", "last reading")
    }
    assert sum(row["run"] == "plain110" for row in rows) == 2 * 54


def test_gradient_flow_is_logarithmic_shared_and_not_clamped(twins):
    spec = spec_of(gradient_flow(twins))
    scales = scales_of(spec, "y")
    assert {scale["type"] for scale in scales} == {"log"}
    assert not any(scale.get("clamp") for scale in scales)
    assert len({tuple(scale["domain"]) for scale in scales}) == 1
    low, high = scales[0]["domain"]
    norms = [row["grad_norm"] for row in rows_of(spec) if "grad_norm" in row]
    assert low <= min(norms) < max(norms) <= high
    assert max(norms) / min(norms) > 1e5  # the exploding plain110 is drawn whole


def test_gradient_flow_says_where_the_input_is_and_dashes_the_start(twins):
    spec = spec_of(gradient_flow(twins))
    titles = [title for title in find_all(spec, "title") if isinstance(title, str)]
    assert any(title.startswith("\u2190 input") and title.endswith("loss \u2192") for title in titles)
    dash = scales_of(spec, "strokeDash")[0]
    assert dict(zip(dash["domain"], dash["range"], strict=True)) == {"last reading": [1, 0], "first reading": [5, 3]}


def test_stages_have_borders_and_names(make_run):
    spec = spec_of(gradient_flow([make_run("resnet20")]))
    stages = {row["stage"]: row["index"] for row in rows_of(spec) if "stage" in row}
    assert stages == {"stage 1": 1, "stage 2": 4, "stage 3": 7}
    assert [row for row in rows_of(spec) if set(row) == {"index"}] == [{"index": 2.5}, {"index": 5.5}]


def test_zeros_and_non_finite_readings_have_rails(make_run):
    norms = ([1.0, 0.5, math.inf, 0.2, 0.1, 0.1], [0.0, 0.0, 1e-9, math.nan, 0.1, 0.1])
    spec = spec_of(gradient_flow([make_run("net", model="my-net", norms=norms)]))
    rows = rows_of(spec)
    assert [(row["index"], row["line"]) for row in rows if row.get("reading") == "exactly 0"] == [
        (0, "last reading"),
        (1, "last reading"),
    ]
    assert [(row["index"], row["line"]) for row in rows if row.get("reading") == "not finite"] == [
        (2, "first reading"),
        (3, "last reading"),
    ]
    texts = [found["value"] for found in find_all(spec, "text") if isinstance(found, dict) and "value" in found]
    assert sorted(texts) == ["exactly 0", "not finite"]
    measured = [row for row in rows if "grad_norm" in row and "reading" not in row]
    assert len(measured) == 12  # a gap in the line, not a bridge over the missing reading
    assert sum(row["grad_norm"] is None for row in measured) == 4
    scale = scales_of(spec, "y")[0]
    assert scale["domain"] == [1e-9, 1.0]
    assert 0 < scale["rangeMax"] < scale["rangeMin"] < spec["concat"][0]["height"]


def test_no_rail_without_need(twins):
    assert not [row for row in rows_of(spec_of(gradient_flow(twins))) if "reading" in row]


def test_nothing_but_zeros_can_be_drawn(make_run, tmp_path):
    chart = gradient_flow([make_run("dead", model="my-net", norms=([0.0] * 3, [math.nan] * 3))])
    save_png(chart, tmp_path / "dead.png")
    assert (tmp_path / "dead.png").stat().st_size > 1000


def test_unrelated_runs_have_a_panel_each(make_run):
    runs = [make_run(name, model=name, norms=([1.0, 0.5], [0.4, 0.2])) for name in ("left", "right")]
    spec = spec_of(gradient_flow(runs))
    assert [panel["title"] for panel in spec["concat"]] == ["left", "right"]


def test_loss_is_logarithmic_and_spikes_stay(make_run):
    losses = [2.0 * 0.999**step for step in range(5000)]
    losses[3333], losses[4444] = 77.0, math.nan
    spec = spec_of(loss_and_lr(make_run("resnet20", losses=losses)))
    assert len(spec["vconcat"]) == 3
    series = [rows for rows in spec["datasets"].values() if "value" in rows[0]]
    assert all(len(rows) <= MAX_POINTS for rows in series)
    assert {"step": 3333, "value": 77.0} in series[0]
    assert {row["step"] for row in rows_of(spec) if "reading" in row} == {4444}
    assert find_all(spec, "shape") == ["cross", "cross"]  # on the loss and on the gradient norm
    kinds = [scale.get("type") for scale in scales_of(spec, "y")]
    assert kinds == ["log", "log", "linear"]


def test_a_loss_of_zero_has_a_linear_axis(make_run):
    spec = spec_of(loss_and_lr(make_run("resnet20", losses=[1.0, 0.0])))
    assert [scale.get("type") for scale in scales_of(spec, "y")] == ["linear"] * 3


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 64_000])
def test_thin_out_keeps_order_and_extremes(count):
    points = [(step, math.sin(step * 0.37) + (100.0 if step == count // 2 else 0)) for step in range(count)]
    kept = thin_out(points)
    assert len(kept) <= MAX_POINTS
    assert kept == sorted(kept)
    assert {min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])} <= set(kept)


@pytest.mark.parametrize("draw", [learning_curves, gradient_flow])
def test_nothing_to_draw_is_a_request_error(draw, make_run):
    with pytest.raises(RequestError, match="at least one run"):
        draw([])
    with pytest.raises(RequestError, match="resnet20"):
        draw([make_run("resnet20", epochs=0, norms=([], []))])


def test_no_step_is_a_request_error(make_run):
    run = make_run("resnet20")
    run.steps.unlink()
    with pytest.raises(RequestError, match="no step"):
        loss_and_lr(run)


@pytest.mark.slow
def test_save_png_writes_a_picture(twins: list[RunFolder], tmp_path: Path):
    for draw in (learning_curves, gradient_flow):
        save_png(draw(twins), tmp_path / "chart.png", scale=1)
        assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "chart.png").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
