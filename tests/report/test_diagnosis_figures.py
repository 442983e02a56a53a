"""What each figure of a diagnosis draws and says; gradient flow has a file of its own."""

from __future__ import annotations

import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from tests.report.blank_records import FINDING, block_record, depth_record, read, read_blocks, reading_record
from tests.report.page_reader import find_all, rows_of, scales_of

from reslab.records.depth import DepthRecord, JacobianRecord, LesionRecord, PathRecord, ShatteringRecord, SliceRecord
from reslab.records.diagnosis import ActivationRecord, MomentsRecord, ParameterRecord, UpdateRecord
from reslab.report._activations import (
    AFTER_ADDITION,
    INNER,
    PER_BLOCK,
    SATURATED,
    signal_figure,
    units_figure,
    why_not_expected,
)
from reslab.report._depth import jacobian_figure, lesions_figure, paths_figure, shattering_figure, shown_paths
from reslab.report._loss_slice import bowl_of, loss_at, slices_figure, surface_figure
from reslab.report._over_time import (
    MAX_COLUMNS,
    MAX_ROWS,
    heatmap_figure,
    limit_of,
    pooled,
    spread,
    updates_figure,
    worst_of,
)
from reslab.report._split import PARTS, branch_width, runs_of, spine_figure, split_figure, stacked

NAN = math.nan


# ---- split


def bars_of(figure):
    return rows_of(figure.spec, "part")


def marks_of(figure, *fields):
    return [row["left"] for row in rows_of(figure.spec, "left", *fields) if len(row) == 1 + len(fields)]


def test_parts_are_piled_up_and_add_up_to_one():
    drawn = bars_of(split_figure(read([1.0] * 9)))
    for place in range(9):
        bars = {row["part"]: (row["low"], row["high"]) for row in drawn if row["left"] < place < row["right"]}
        assert bars == {"shortcut": (0, 0.7), "branch": (0.7, 1.0)}


def test_a_part_that_points_against_the_whole_hangs_below_zero():
    row = {"index": 0, "shortcut": 1.5, "branch": -0.7, "other": 0.2}
    piled = {bar["part"]: (bar["low"], bar["high"]) for bar in stacked([row])}
    assert piled == {"shortcut": (0, 1.5), "branch": (-0.7, 0), "other": (1.5, 1.7)}
    assert list(piled) == list(PARTS)


def test_a_single_dead_block_among_a_thousand_is_marked_and_bars_have_no_gaps():
    blocks = [block_record(index, f"layer1.{index}") for index in range(1000)]
    blocks[617] = block_record(617, "layer1.617", branch_norm=0.0, branch_share=0.0, shortcut_share=1.0)
    figure = split_figure(reading_record(blocks))
    shortcuts = [row for row in bars_of(figure) if row["part"] == "shortcut"]
    assert all(one["right"] >= other["left"] for one, other in itertools.pairwise(shortcuts))
    assert "No gradient comes through 1 branch (layer1.617)." in figure.caption
    assert marks_of(figure) == [617]
    assert len(figure.rows) == 1000


def test_where_all_branches_start_at_zero_none_is_marked_as_an_exception():
    figure = split_figure(read_blocks(*[{}] * 9, branch_norm=0.0, branch_share=0.0, shortcut_share=1.0))
    assert marks_of(figure) == []
    assert "No gradient comes through 9 branches" in figure.caption


def test_projections_are_diamonds_and_the_caption_counts_them():
    figure = split_figure(read_blocks(*({"kind": kind} for kind in ("identity", "projection", "zero_pad", "identity"))))
    assert {row["left"]: row["shape"] for row in rows_of(figure.spec, "shape")} == {1: "diamond", 2: "circle"}
    assert "1 shortcut is a projection" in figure.caption


def test_shares_without_bound_are_cut_off_and_the_axis_says_so():
    figure = split_figure(read_blocks({"shortcut_share": 51.0, "branch_share": -50.0}, {}, {}))
    assert "share (cut off)" in find_all(figure.spec, "title")
    assert [-2.0, 3.0] in find_all(figure.spec, "domain")


def test_pass_through_is_drawn_where_something_is_held_back():
    assert set(marks_of(split_figure(read_blocks(*[{}] * 4, pass_through=0.6)), "low")) == {0, 1, 2, 3}
    assert marks_of(split_figure(read([1.0] * 4)), "low") == []


def test_gradients_that_are_nothing_and_no_block(tmp_path):
    figure = split_figure(
        read_blocks(*[{}] * 4, grad_norm=0.0, shortcut_share=NAN, branch_share=NAN, other_share=NAN, cosine=NAN)
    )
    figure.save(tmp_path / "split.png")
    assert figure.caption == "No gradient that can be measured has reached a residual addition."
    assert "No residual addition" in split_figure(read(layer_norms=[1.0] * 20)).caption


# ---- signal

RESPONSES = (("bn1", 1.0), ("bn2", 0.9))


def stream(count: int, **changes):
    """Pre-activation with batch norm as theory has it: 0.68 more with each block, two stages."""
    half, branch = count // 2, MomentsRecord(0.3, PER_BLOCK)
    return [
        block_record(
            index,
            f"layer{1 + index // half}.{index % half}",
            **({"stream": MomentsRecord(0.3, 1 + PER_BLOCK * (index % half)), "branch": branch} | changes),
        )
        for index in range(count)
    ]


def test_the_expected_line_begins_anew_in_each_stage():
    assert pytest.approx(0.68, abs=0.005) == PER_BLOCK
    blocks = stream(8)
    figure = signal_figure(reading_record(blocks, responses=RESPONSES))
    expected = [row["value"] for row in rows_of(figure.spec, "stage", "value")]
    assert expected == pytest.approx([block.stream.variance for block in blocks])
    assert "adds at the start: 0.68 per block" in figure.caption
    assert len(figure.spec["concat"]) == 4


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
def test_where_the_line_does_not_apply_the_caption_says_why(changes, of_reading, reason):
    reading = reading_record(stream(8, **changes), **({"responses": RESPONSES} | of_reading))
    figure = signal_figure(reading)
    assert rows_of(figure.spec, "stage", "value") == []
    assert reason in why_not_expected(reading)
    assert reason in figure.caption


def test_the_signals_numbers_are_those_of_the_records_and_unseen_blocks_are_gaps(tmp_path):
    blocks = stream(8)
    blocks[2] = block_record(2, "layer1.2", stream=None, branch=None, shortcut=None)
    figure = signal_figure(reading_record(blocks))
    figure.save(tmp_path / "signal.png")
    assert len(figure.spec["concat"]) == 3
    row = {key: value for key, value in figure.rows[1].items() if key != "branch_size"}
    variances = {"stream_variance": 1 + PER_BLOCK, "branch_variance": PER_BLOCK, "shortcut_variance": 1.3}
    assert row == {"index": 1, "name": "layer1.1", "mean_square": 0.3, **variances}
    assert math.isnan(figure.rows[2]["stream_variance"])


def test_a_branch_variance_of_zero_has_a_rail():
    figure = signal_figure(reading_record(stream(8, branch=MomentsRecord(0.0, 0.0))))
    assert [row["index"] for row in rows_of(figure.spec, "why")] == list(range(8))


def test_layers_alone_have_their_responses_or_a_reason():
    assert len(signal_figure(read(layer_norms=[1.0] * 9, responses=RESPONSES)).spec["concat"]) == 1
    assert "no residual addition" in signal_figure(read(layer_norms=[1.0] * 9)).caption


def test_how_near_the_blocks_are_to_identity():
    small, large = MomentsRecord(0.0, 0.25), MomentsRecord(3.0, 1.0)
    figure = signal_figure(read_blocks(*[{}] * 3, branch=small, shortcut=large, stream=large))
    assert [row["branch_size"] for row in figure.rows] == [0.25] * 3
    assert "The median branch is 0.25 times the size" in figure.caption


# ---- units


def activation(index: int, share: float, *, kind: str = "Relu", joined: bool = False):
    return ActivationRecord(index, f"layer1.{index}", kind, 20, 512, share, True, joined)


def units(*activations):
    return units_figure(reading_record(activations=activations))


def test_dead_units_are_told_by_where_they_are(tmp_path):
    figure = units(activation(0, 0.0), activation(1, 0.5), activation(2, 0.25, joined=True))
    told = [(row["what"], row["share"]) for row in figure.rows]
    assert told == [(INNER, 0.0), (INNER, 0.5), (AFTER_ADDITION, 0.25)]
    assert figure.caption == (
        "15 of 60 channels of rectifiers (25.0%) are dead in this batch, 5 of them after an addition; most at layer1.1:"
        " 50\u00a0% of 20."
    )
    assert [row["index"] for row in rows_of(figure.spec, "left")] == [1, 2]
    figure.save(tmp_path / "units.png")


def test_saturated_values_are_not_dead_channels():
    figure = units(activation(0, 0.0), activation(1, 0.75, kind="Tanh"))
    assert figure.rows[1]["what"] == SATURATED
    assert "None of the 20 channels of 1 rectifier is dead" in figure.caption
    assert "most are saturated at layer1.1: 75\u00a0%" in figure.caption


def test_where_every_unit_works_nothing_is_drawn_but_said():
    figure = units(activation(0, 0.0), activation(1, NAN, kind="Sigmoid"))
    assert not figure.is_drawn
    assert figure.caption == "None of the 20 channels of 1 rectifier is dead in this batch."
    assert units().caption == "No rectifier, sigmoid or tanh was seen."


# ---- updates


def parameter(name: str, update: float | None, weight: float = 1.0, shape: tuple[int, ...] = (8, 8)) -> ParameterRecord:
    return ParameterRecord(name, shape, weight, 0.1, True, update_norm=update)


def updates(*parameters, **changes):
    return updates_figure([reading_record(parameters=parameters, **changes)])


def test_updates_are_ratios_on_a_logarithmic_axis_with_the_usual_on_it():
    figure = updates(parameter("a", 1e-3), parameter("b", 2e-2, 2.0), parameter("c", 1e-5, shape=(8,)), step=7)
    assert [row["ratio"] for row in figure.rows] == pytest.approx([1e-3, 1e-2, 1e-5])
    assert [row["kind"] for row in figure.rows] == ["weight", "weight", "bias or gain"]
    assert "At step 7 the median weight" in figure.caption
    assert "least c (1e-05), most b (0.01)" in figure.caption
    scale = scales_of(updates(parameter("a", 1e-3)).spec, "y")[0]
    assert (scale["type"], scale["domain"]) == ("log", [1e-5, 1e-2])


@pytest.mark.parametrize(("update", "weight"), [(0.0, 1.0), (1e-3, 0.0), (math.inf, 1.0), (1.0, NAN)])
def test_what_has_no_ratio_lies_on_a_rail(tmp_path, update, weight):
    figure = updates(parameter("a", 1e-3), parameter("odd", update, weight), parameter("unseen", None))
    figure.save(tmp_path / "updates.png")
    assert [(row["name"], row["why"]) for row in rows_of(figure.spec, "why")] == [("odd", "no ratio")]
    assert ("1 of 2 parameters did not move." in figure.caption) == (update == 0)


@pytest.mark.parametrize(
    ("update", "word"), [(1e-3, "as usual"), (1e-1, "outside"), (1e-7, "outside"), (0.0, "no parameter moved")]
)
def test_the_median_update_is_judged(update, word):
    assert word in updates(parameter("a", update)).caption


def test_the_step_at_the_highest_rate_that_saw_one_is_drawn():
    steps = [(0.01, 1e-2), (0.1, 1e-1), (0.0001, 1e-6), (0.5, None)]
    readings = [
        reading_record(
            parameters=(parameter("a", size),), step=step, update=UpdateRecord("SGD", rate, 1.0, 1.0, 0.0, 0.0)
        )
        for step, (rate, size) in enumerate(steps)
    ]
    assert "At step 1 " in updates_figure(readings).caption
    assert "no step of an optimiser was seen" in updates_figure(readings[3:]).caption


# ---- heatmap


def cells_of(figure):
    return rows_of(figure.spec, "odd")


def test_cells_are_decades_from_the_median_of_their_row():
    readings = [read([norm, 5 * norm], step=step) for step, norm in enumerate([1.0, 10.0, 1000.0])]
    cells = cells_of(heatmap_figure(readings))
    assert [cell["decades"] for cell in cells] == [-1, 0, 2, -1, 0, 2]
    assert [cell["step"] for cell in cells] == [0, 1, 2, 0, 1, 2]
    domain = next(scale["domain"] for scale in scales_of(heatmap_figure(readings).spec, "color"))
    assert domain[2] == 0
    assert domain[0] == -domain[4]


def test_zeros_non_finite_norms_and_blocks_that_were_not_there_have_colours_of_their_own():
    figure = heatmap_figure([read([1.0, 0.0]), read([NAN, 2.0], step=1)])
    cells = {(cell["row"], cell["step"]): (cell["decades"], cell["odd"]) for cell in cells_of(figure)}
    odd = {(0, 0): (0, ""), (0, 1): (None, "not finite"), (1, 0): (None, "exactly 0"), (1, 1): (0, "")}
    assert cells == odd
    assert "In 1 of 2 blocks it was exactly 0 at some step." in figure.caption
    grown = heatmap_figure([read([1.0]), read([1.0, 1.0], step=1)])
    assert [cell["odd"] for cell in cells_of(grown)].count("not read") == 1


def test_one_reading_is_a_reason_and_plain_networks_have_a_heatmap_of_layers():
    assert "one step was read" in heatmap_figure([read([1.0] * 9)]).caption
    figure = heatmap_figure([read(layer_norms=[2.0**step] * 12, step=step) for step in range(3)])
    assert len(cells_of(figure)) == 36
    assert "median layer" in figure.caption


@pytest.mark.parametrize("count", [1, 255, 256, 257, 999, 3000])
def test_pooling_stays_within_the_cap_covers_everything_and_crosses_no_stage(count):
    names = [block.name for block in read([1.0] * count).blocks]
    groups = pooled(names)
    assert len(groups) <= MAX_ROWS
    assert [place for group in groups for place in range(group.first, group.last + 1)] == list(range(count))
    assert all(names[group.first].split(".")[0] == names[group.last].split(".")[0] for group in groups)


def test_more_stages_than_rows_ends():
    assert len(pooled([f"stage{index}.0" for index in range(300)])) == 300


def test_the_furthest_of_a_group_keeps_one_dead_block_of_a_thousand():
    norms = [1.0] * 999
    dead = [*norms[:500], 0.0, *norms[501:]]
    figure = heatmap_figure([read(norms), read(norms, step=1), read(dead, step=2)])
    assert len(cells_of(figure)) == 2 * 3 * len(pooled([row["name"] for row in figure.rows]))
    assert [cell["step"] for cell in cells_of(figure) if cell["odd"] == "exactly 0"] == [2]
    assert len(figure.rows) == 999


def test_worst_of_and_limits():
    assert worst_of([0.1, -2.0, 1.0]) == -2.0
    assert worst_of([0.1, "exactly 0"]) == "exactly 0"
    assert worst_of(["exactly 0", "not finite"]) == "not finite"
    assert worst_of(["not read"]) == "not read"
    cells = [[[0.0, 0.01, -0.02]], [[1.0] * 99 + [40.0]], [[50.0] * 10], [["exactly 0"]]]
    assert list(map(limit_of, cells)) == [0.5, 1.0, 3.0, 0.5]


def test_blocks_that_a_finding_names_are_marked():
    figure = heatmap_figure([read([1.0] * 9, step=step) for step in range(2)], findings=[FINDING])
    signs = [(row["row"], row["sign"], row["finding"]) for row in rows_of(figure.spec, "sign")]
    assert signs == [(1, "\u2716", "GRAD_EXP_GROWTH")]


def test_many_readings_are_thinned_out_evenly():
    kept = spread(1000, MAX_COLUMNS)
    assert (len(kept), kept[0], kept[-1]) == (MAX_COLUMNS, 0, 999)
    assert {two - one for one, two in itertools.pairwise(kept)} <= {8, 9}


# ---- the depth

DEPTH_FIGURES = {
    "paths": paths_figure,
    "shattering": shattering_figure,
    "lesions": lesions_figure,
    "jacobians": jacobian_figure,
    "slice": surface_figure,
}


@pytest.mark.parametrize("field", DEPTH_FIGURES)
def test_what_was_not_measured_says_why(field):
    assert "ask for the depth to be measured" in DEPTH_FIGURES[field](None).caption
    figure = DEPTH_FIGURES[field](DepthRecord(not_measured={field: "the network has no block"}))
    assert not figure.is_drawn
    assert figure.caption == "Not measured: the network has no block."


@pytest.mark.parametrize("field", DEPTH_FIGURES)
def test_everything_is_drawn_of_a_single_block(tmp_path, field):
    DEPTH_FIGURES[field](depth_record(1)).save(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 3000


def test_path_bars_are_percent_of_the_energy():
    figure = paths_figure(depth_record(4))
    assert [bar["share"] for bar in rows_of(figure.spec, "share", "right")] == [6.25, 25, 37.5, 25, 6.25]
    assert sum(row["share"] for row in figure.rows) == pytest.approx(1)
    assert "2.0 branches on average, 50\u00a0% of the 4" in figure.caption
    assert rows_of(figure.spec, "from", "to") == [{"from": 1, "to": 3, "share": pytest.approx(41.25)}]
    moved = replace(depth_record(8), paths=replace(depth_record(8).paths, effective=2.5))
    assert 2.5 in [row["left"] for row in rows_of(paths_figure(moved).spec, "left") if len(row) == 2]


def test_the_tail_of_short_paths_in_a_deep_network_is_left_out():
    energies = tuple([0.5, 0.4, 0.1] + [1e-9] * 998)
    assert shown_paths(PathRecord(energies, 0.6, 0, 2, 0.6, 0.0, 1)) == 3


def test_the_shattering_curve_marks_half():
    figure = shattering_figure(depth_record(9))
    assert {"distance": 0.1, "similarity": 0.5} in rows_of(figure.spec, "distance", "similarity")
    assert "lost at 0.1 of the way" in figure.caption
    assert figure.rows[0] == {"distance": 1e-4, "similarity": 0.99}


@pytest.mark.parametrize(("half", "words"), [(1e-3, "shattered, as in plain"), (math.inf, "keeps its direction")])
def test_the_half_distance_is_judged(half, words):
    record = ShatteringRecord((0.0, 1e-3, 1e-1), (1.0, 0.2, -0.1), half, 8)  # from no distance to a negative cosine
    figure = shattering_figure(DepthRecord(shattering=record))
    assert words in figure.caption
    assert {row["distance"] for row in rows_of(figure.spec, "distance", "who")} == {1e-3, 1e-1}
    assert [-0.1, 1.05] in find_all(figure.spec, "domain")
    assert len(figure.rows) == 3


def test_lesion_bars_know_better_from_worse():
    figure = lesions_figure(depth_record(9))
    assert {bar["sign"] for bar in rows_of(figure.spec, "sign") if bar["increase"] < 0} == {"better without it"}
    assert {bar["sign"] for bar in rows_of(figure.spec, "sign") if bar["increase"] > 0} == {"worse without it"}
    assert "Without layer1.2 the loss of 2.3 changes most, by +0.1" in figure.caption
    assert "without 6 of 9 it does not rise" in figure.caption


def test_a_lesion_that_ends_in_no_number_is_a_cross():
    lesions = (LesionRecord(0, "a.0", 2.4, 0.1), LesionRecord(1, "a.1", math.inf, math.inf))
    figure = lesions_figure(DepthRecord(lesions=lesions, loss=2.3))
    assert {"left": 1, "name": "a.1"} in rows_of(figure.spec, "left", "name")
    assert "Without 1 it is not finite." in figure.caption


def test_singular_values_lie_on_their_part_with_the_root_mean_square():
    figure = jacobian_figure(depth_record(9))
    values = [(row["part"], row["value"]) for row in rows_of(figure.spec, "part", "value")]
    assert values == [("layer1", 2), ("layer1", 1), ("layer1", 0.5), ("all", 3), ("layer1", 1), ("all", 0.5)]
    assert "keeps small changes: 0.5 times at the root mean square, 3 times at most" in figure.caption
    assert [row for row in rows_of(figure.spec, "value") if "part" not in row] == [{"value": 1.0}]


@pytest.mark.parametrize(
    ("mean_square", "words"),
    [(1.0, "keeps"), (9.0, "stretches"), (0.01, "shrinks"), (0.0, "no small change comes through")],
)
def test_the_network_stretches_or_shrinks(mean_square, words):
    record = JacobianRecord("all", mean_square, NAN, (), 4)
    figure = jacobian_figure(DepthRecord(jacobians=(record,)))
    assert words in figure.caption
    assert "nan" not in figure.caption
    assert figure.is_drawn == bool(mean_square)


# ---- the loss around the weights


def slice_of(curve, *, name="resnet56", norms="batch", span=1.0):
    positions = tuple(span * place / 20 for place in range(-20, 21))
    return SliceRecord(name, positions, tuple(curve(x) for x in positions), norms, 0)


def parabola(x):
    return 1 + 4 * x * x


def surface(curve, **changes):
    return surface_figure(DepthRecord(slice=slice_of(curve, **changes)))


def test_all_points_of_networks_are_drawn_in_their_familys_colours():
    records = {"resnet56": slice_of(parabola), "plain56": slice_of(lambda x: 2.0, norms="frozen")}
    figure = slices_figure(records)
    assert len(figure.rows) == 82
    assert figure.rows[0] == {"network": "resnet56", "norms": "batch", "seed": 0, "position": -1.0, "loss": 5.0}
    scale = next(scale for scale in scales_of(figure.spec, "color"))
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {"resnet56": "#005F96", "plain56": "#C24E00"}
    assert "batch norm with the batch's statistics or batch norm with stored statistics, seed 0" in figure.notes


@pytest.mark.parametrize(
    ("curve", "is_log"), [(parabola, False), (lambda x: math.exp(5 * abs(x)), True), (lambda x: x * 99, False)]
)
def test_the_axis_is_logarithmic_where_the_losses_ask_for_it(curve, is_log, tmp_path):
    figure = surface(curve)
    figure.save(tmp_path / "slice.png", scale=1)
    scale = scales_of(figure.spec, "y")[0]
    assert (scale.get("type") == "log") == is_log
    losses = [row["loss"] for row in figure.rows]
    assert scale["domain"][0] < min(losses) < max(losses) < scale["domain"][1]


def test_an_explosion_does_not_flatten_the_rest():
    figure = surface(lambda x: 1e30 if x > 0.9 else parabola(x))
    assert scales_of(figure.spec, "y")[0]["domain"][1] < 1e5
    assert "loss, above 10,000 not shown" in find_all(figure.spec, "title")


def test_points_that_are_not_finite_have_crosses():
    broken = surface(lambda x: math.inf if x < -0.8 else NAN if x > 0.9 else parabola(x))
    json.dumps(broken.spec, allow_nan=False)
    assert len({row["position"] for row in rows_of(broken.spec, "loss") if row["loss"] is None}) == 4 + 2
    assert "not finite" in json.dumps(broken.spec)
    assert "not finite" not in json.dumps(surface(parabola).spec)
    assert surface(lambda x: NAN).caption == "No loss along the direction is finite."


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (
            parabola,
            "resnet56: at a distance of 0.5 the loss goes from 1 to 2 (mean of both sides), 2 \N{MULTIPLICATION SIGN};"
            " it is below twice its value from -0.5 to 0.5.",
        ),
        (lambda x: 1 + x * x / 2, "it stays below twice its value up to 1."),
        (lambda x: 2 + x, "it is lower elsewhere, 1 at -1."),
        (
            lambda x: math.inf if abs(x) > 0.3 else 1.0,
            "to values that are not finite; it is below twice its value from -0.3",
        ),
        (lambda x: NAN if x == 0 else 1.0, "the loss of the network itself is not finite."),
        (lambda x: x * x - 1, "the loss goes from -1 to -0.75 (mean of both sides)."),
    ],
)
def test_the_slice_is_told_in_numbers(curve, words):
    assert words in surface(curve).caption


def test_a_short_slice_is_told_at_its_ends_and_with_its_curvature():
    assert "at a distance of 0.1 the loss goes from 1 to 1.04" in surface(parabola, span=0.1).caption
    assert surface_figure(depth_record(9)).caption.endswith("The greatest curvature of the loss is 3.5.")


@pytest.mark.parametrize("steepness", [0.5, 2.0, 30.0])
def test_the_bowl_is_as_wide_as_the_parabola_says(steepness):
    expected = min(1.0, math.sqrt(1 / steepness))  # where 1 + s x x is 2
    assert bowl_of(slice_of(lambda x: 1 + steepness * x * x)) == pytest.approx((-expected, expected), abs=0.01)


def test_only_the_bowl_around_the_network_counts_and_between_points_the_loss_is_linear():
    assert 0.3 <= bowl_of(slice_of(lambda x: 5.0 if 0.3 < abs(x) < 0.5 else 1.0))[1] <= 0.35
    record = SliceRecord("", (-1.0, 0.0, 1.0), (3.0, 1.0, math.inf), "batch", 0)
    assert [loss_at(record, x) for x in (-0.25, 0.0, 0.5)] == [1.5, 1.0, math.inf]


# ---- spine


def elements(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter())


def classes_of(svg: str) -> list[str]:
    return [element.get("class", "") for element in elements(svg)]


def test_equal_neighbours_are_one_run_and_another_kind_or_shape_is_another():
    times = "\N{MULTIPLICATION SIGN}"
    figure = spine_figure(read([1.0] * 999))
    assert [title.partition(": ")[2] for title, _ in figure.parts] == [f"333 {times} identity, 16 x 8 x 8"] * 3
    reading = read_blocks({}, {}, {"kind": "zero_pad"}, {"shape": (4, 32, 4, 4)})
    assert [len(run) for run in runs_of(reading.blocks)] == [2, 1, 1]
    assert f"2 {times} identity, 16 {times} 8 {times} 8" in [each.text for each in elements(spine_figure(reading).svg)]


@pytest.mark.parametrize("count", [1, 9, 1000])
def test_a_thousand_blocks_are_as_small_as_nine(count, tmp_path):
    figure = spine_figure(read([1.0] * count))
    assert len(figure.svg) < 40_000
    assert classes_of(figure.svg).count("branch") == min(count, 3)
    figure.save(tmp_path / "spine.png")
    assert len(figure.rows) == count


def test_every_number_is_one_and_kinds_have_signs():
    nothing = {"shortcut_norm": 0.0}
    figure = spine_figure(
        read_blocks({"kind": "projection"}, nothing, nothing | {"branch_norm": 0.0}, {"kind": "pool"})
    )
    assert [str(row["branch_over_shortcut"]) for row in figure.rows] == ["0.5", "inf", "nan", "0.5"]
    svg = figure.svg
    assert "nan" not in svg
    assert "inf" not in svg
    tags = [element.tag.rpartition("}")[2] for element in elements(svg)]
    assert tags.count("polygon") == 2  # and the tip of the arrow
    assert tags.count("circle") == 4  # and three signs of addition


@pytest.mark.parametrize(
    ("branch", "width"), [(1.0, branch_width(1.0)), (1e-9, branch_width(0.0)), (100.0, branch_width(1e9))]
)
def test_the_branch_is_as_wide_as_the_ratio(branch, width):
    svg = spine_figure(read_blocks({"shortcut_norm": 1.0, "branch_norm": branch})).svg
    assert [float(each.get("stroke-width")) for each in elements(svg) if each.get("class") == "branch"] == [width]


def test_the_spine_says_where_branches_carry_most():
    reading = read_blocks(*({"shortcut_norm": 1.0, "branch_norm": 0.1 * (k + 1)} for k in range(12)), stage="a")
    caption = spine_figure(reading).caption
    assert "12 residual additions in 1 run of equal ones" in caption
    assert "most at a.11 (1.2); 2 of 12 pass back more" in caption
    assert "no spine" in spine_figure(read(layer_norms=[1.0] * 9)).caption


def test_a_run_unfolds_into_its_blocks():
    blocks = [block_record(place, f"layer1.{place}", branch_norm=0.1 * place) for place in range(4)]
    figure = spine_figure(reading_record([*blocks, block_record(4, "<b>&.0", kind="projection")]))
    ((title, part),) = figure.parts
    assert title == "layer1.0 to layer1.3: 4 \N{MULTIPLICATION SIGN} identity, 16 x 8 x 8"
    assert [part.count(f">layer1.{place}<") for place in range(4)] == [1] * 4
    bars = [float(width) for width in re.findall(r'class="bar"[^>]* width="([\d.]+)"', part)]
    assert bars[0] == 0
    assert bars[3] == max(bars) > 0
    assert bars[1] == pytest.approx(bars[3] / 3, abs=0.1)
    assert any("<b>&" in (element.text or "") for element in elements(figure.svg))
