"""Learning curves by the name of the score, steps, and the sentences computed from them."""

from __future__ import annotations

import json
import math
import re

import pytest
from tests.report.page_reader import find_all, rows_of, scales_of

from reslab.errors import RequestError
from reslab.records import Score
from reslab.records.training import ERROR, RangeRecord, RangeStep
from reslab.report import learning_curves, step_curves
from reslab.report._style import RAMPS, parse_name, run_styles
from reslab.report.curves import MAX_POINTS, rate_range

DICE = Score("dice", better="higher")
BLEU = Score("bleu", better="higher", unit="number")


def drawn(figure):
    json.dumps(figure.spec, allow_nan=False)  # a browser can read it
    return rows_of(figure.spec, "shown", "label")


# ---- which run is which


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain110", ("plain", 110, "")),
        ("resnet18_small", ("residual", 18, "_small")),
        ("resnet20x", ("residual", 20, "x")),
        ("my-net", None),
        ("resnet", None),
    ],
)
def test_names_of_networks_are_read(name, expected):
    network = parse_name(name)
    assert (network and (network.family, network.depth, network.variant)) == expected


def test_twins_have_their_familys_colours_deeper_is_stronger(twins):
    colours = {style.label: style.colour for style in run_styles(twins)}
    for family, prefix in (("plain", "plain"), ("residual", "resnet")):
        assert [RAMPS[family].index(colours[f"{prefix}{depth}"]) for depth in (20, 56, 110)] == [0, 3, 6]


def test_seeds_of_a_twin_share_a_colour_and_a_name_and_are_told_together(make_run):
    runs = [make_run(f"{model}-{seed}", model=model) for model in ("plain20", "resnet20") for seed in (0, 1)]
    assert [style.label for style in run_styles(runs)] == ["plain20", "plain20", "resnet20", "resnet20"]
    figure = learning_curves(runs)
    assert {row["run"] for row in drawn(figure)} == {run.name for run in runs}
    assert figure.caption.count("(means of up to 2 runs)") == 2


def test_the_same_network_trained_four_ways_is_coloured_by_run(make_run):
    runs = [make_run(f"lr-{place}", model="resnet20", epochs=2) for place in range(4)]
    styles = run_styles(runs)
    assert [style.label for style in styles] == [run.name for run in runs]
    assert len({style.colour for style in styles}) == 4
    assert len(learning_curves(runs).spec["concat"]) == 1


# ---- learning curves


def test_twins_are_two_panels_with_one_axis_and_training_is_dashed(twins):
    spec = learning_curves(twins).spec
    assert [panel["title"] for panel in spec["concat"]] == ["Plain: no shortcuts", "Residual: with shortcuts"]
    assert len({tuple(scale["domain"]) for scale in scales_of(spec, "y")}) == 1
    assert len({(row["run"], row["line"]) for row in drawn(learning_curves(twins))}) == 12
    assert [(found["name"], found["bind"]) for found in spec["params"]] == [("picked", "legend")]
    dash = scales_of(spec, "strokeDash")[0]
    dashes = dict(zip(dash["domain"], dash["range"], strict=True))
    assert dashes == {"validation": [1, 0], "training (as it ran)": [5, 3]}


@pytest.mark.parametrize(
    ("score", "title", "factor"), [(ERROR, "error (%)", 100), (DICE, "dice (%)", 100), (BLEU, "bleu", 1)]
)
def test_the_score_is_drawn_by_its_name_and_epochs_count_from_one(make_run, score, title, factor):
    run = make_run("resnet20", epochs=1, score=score)
    figure, scores = learning_curves([run]), run.read_epochs()[0].scores
    assert {(row["epoch"], row["line"]): row["value"] for row in figure.rows} == {
        (1, "validation"): scores[f"val_{score.name}"],
        (1, "training (as it ran)"): scores[f"train_{score.name}"],
    }
    assert {row["shown"] for row in drawn(figure)} == {
        float(f"{factor * scores[f'{split}_{score.name}']:.6g}") for split in ("val", "train")
    }
    assert title in find_all(figure.spec, "title")


@pytest.mark.parametrize(("score", "cut"), [(ERROR, "above"), (DICE, "below")])
def test_an_axis_that_leaves_out_the_beginning_says_so(make_run, score, cut):
    spec = learning_curves([make_run("resnet20", epochs=60, score=score)]).spec
    titles = " ".join(title for title in find_all(spec, "title") if isinstance(title, str))
    assert re.search(rf"{score.name} \(%, {cut} \d+ not shown\)", titles)
    low, high = scales_of(spec, "y")[0]["domain"]
    assert (low == 0) == (score is ERROR)
    assert (high == 100) == (score is DICE)


def test_without_validation_the_training_score_is_drawn(make_run):
    assert {row["line"] for row in drawn(learning_curves([make_run("resnet20", val=False)]))} == {
        "training (as it ran)"
    }


def test_runs_of_different_scores_have_panels_and_axes_of_their_own(make_run):
    runs = [make_run("one", model="net", score=ERROR), make_run("two", model="net", score=DICE)]
    figure = learning_curves(runs)
    assert len(figure.spec["concat"]) == 2
    assert "can't be compared" in figure.caption


def test_no_epoch_is_a_reason_and_no_run_a_request_error(make_run):
    figure = learning_curves([make_run("resnet20", epochs=0)])
    assert not figure.is_drawn
    assert figure.caption == "No epoch was finished yet: resnet20."
    with pytest.raises(RequestError, match="at least one run"):
        learning_curves([])


# ---- in words


def test_twins_are_told_in_two_short_sentences(twins):
    plain, residual, end = re.split(r"\.(?: |$)", learning_curves(twins).caption)
    change = r"(rises|falls) from \d+\.\d\d % to \d+\.\d\d %"
    start = "Plain networks from 20 to 110 layers"
    assert re.fullmatch(rf"{start}: validation error {change}, training error from [\d.]+ % to [\d.]+ %", plain)
    assert re.fullmatch(rf"Their residual twins: validation error {change}, training error from .+ %", residual)
    assert end == ""
    assert max(len(plain.split()), len(residual.split())) <= 25


def test_twins_of_one_depth_have_no_direction_and_other_depths_are_no_twins(twins):
    plain, residual, _ = re.split(r"\.(?: |$)", learning_curves([twins[0], twins[3]]).caption)
    assert re.fullmatch(r"Plain networks of 20 layers: validation error [\d.]+ %, training error [\d.]+ %", plain)
    assert re.fullmatch(r"Their residual twins: validation error [\d.]+ %, training error [\d.]+ %", residual)
    assert "Residual networks of 56 layers: validation" in learning_curves([twins[0], twins[4]]).caption


def test_scores_that_move_apart_have_a_verb_each_and_one_that_is_missing_is_left_out(make_run):
    def caption(**ends):
        runs = []
        for name, scores in ends.items():
            runs.append(make_run(name, epochs=0))
            runs[-1].epochs.write_text(
                json.dumps({"epoch": 0, "step": 1, "lr": 0.1, "items_per_s": 9.0, "duration_s": 1.0, **scores}) + "\n"
            )
        return learning_curves(runs).caption

    both = caption(plain20={"train_error": 0.2, "val_error": 0.3}, plain56={"train_error": 0.1, "val_error": 0.4})
    assert both == (
        "Plain networks from 20 to 56 layers: validation error rises from 30.00 % to 40.00 %,"
        " training error falls from 20.00 % to 10.00 %."
    )
    some = caption(resnet20={"train_error": 0.2, "val_error": 0.3}, resnet56={"train_error": 0.2})
    assert some == "Residual networks from 20 to 56 layers: training error stays at 20.00 %."


def test_nothing_about_depth_follows_from_runs_on_different_data(make_run):
    runs = [make_run("resnet18", data={"name": "photos"}), make_run("resnet20", data={"name": "digits"})]
    caption = learning_curves(runs).caption
    assert "layers" not in caption
    assert re.search(r"resnet18 ends at a validation error of [\d.]+ % on photos; resnet20 .* on digits\.", caption)
    assert caption.endswith("These runs differ in data or score, so their numbers can't be compared.")


def test_runs_of_different_lengths_and_runs_without_epochs_are_named(make_run):
    runs = [make_run("plain20", epochs=3), make_run("resnet20"), make_run("resnet56", epochs=0)]
    words = "The runs have different lengths: 3 to 30 epochs. No epoch finished: resnet56."
    assert learning_curves(runs).caption.endswith(words)


@pytest.mark.parametrize("score", [ERROR, DICE])
def test_one_run_names_its_best_epoch_by_the_scores_direction(make_run, score):
    run = make_run("resnet20", score=score)
    values = [record.scores[f"val_{score.name}"] for record in run.read_epochs()]
    best = min(values) if score is ERROR else max(values)
    words = f"the best validation {score.name} was {100 * best:.2f} %, after epoch {values.index(best) + 1}."
    assert learning_curves([run]).caption.endswith(words)
    without = learning_curves([make_run("plain20", val=False, score=score)]).caption
    assert without.endswith("; there is no validation split.")


@pytest.mark.parametrize("score", [ERROR, DICE])
def test_unrelated_runs_are_ranked(make_run, score):
    runs = [make_run(name, model=name, epochs=count, score=score) for name, count in (("left", 30), ("right", 3))]
    assert f"Validation {score.name} at the end: best left with " in learning_curves(runs).caption


# ---- step by step


def test_loss_is_logarithmic_and_spikes_stay(make_run):
    losses = [2.0 * 0.999**step for step in range(5000)]
    losses[2222], losses[3333], losses[4444] = 1e-6, 77.0, math.nan
    figure = step_curves(make_run("resnet20", losses=losses))
    spec = figure.spec
    assert len(spec["concat"]) == 3
    series = [rows for rows in spec["datasets"].values() if set(rows[0]) == {"step", "value"}]
    assert all(len(rows) <= MAX_POINTS for rows in series)
    assert all(row in series[0] for row in ({"step": 3333, "value": 77.0}, {"step": 2222, "value": 1e-6}))
    assert all([row["step"] for row in rows] == sorted({row["step"] for row in rows}) for rows in series)
    assert {row["step"] for row in rows_of(spec, "reading")} == {4444}
    assert list(find_all(spec, "shape")) == ["cross", "cross"]  # on the loss and on the gradient norm
    assert [scale.get("type") for scale in scales_of(spec, "y") if "type" in scale] == ["log", "log", "linear"]
    assert len(figure.rows) == 5000
    assert "Loss not finite in 1 of 5,000 steps." in figure.caption


def test_a_loss_of_zero_has_a_linear_axis_and_no_step_is_a_reason(make_run):
    run = make_run("resnet20", losses=[2.0, 1.0, 0.0])
    figure = step_curves(run)
    assert [scale.get("type") for scale in scales_of(figure.spec, "y")] == ["linear"] * 3
    assert "The loss goes from 2 to 0 (first and last step)." in figure.caption
    run.steps.unlink()
    assert step_curves(run).caption == "No step was taken, so there is nothing to draw."


def test_a_range_test_marks_its_rates_and_says_why_it_has_no_picture(tmp_path):
    steps = [RangeStep(k, 10.0**k, loss, 10.0**k, loss) for k, loss in enumerate([2.0, 1.0, 30.0], start=-3)]
    record = RangeRecord("net on digits", "sgd", 8, 0, 1e-3, 1.0, 4, "diverged", 0.01, 0.005, None, "Steep.", steps)
    figure = rate_range(record)
    figure.save(tmp_path / "range.png", scale=1)
    assert {"suggested: 0.01", "falls fastest: 0.005", "diverged"} == {
        row["words"] for row in rows_of(figure.spec, "words")
    }
    assert "training loss, above not shown" in find_all(figure.spec, "title")
    lost = rate_range(RangeRecord(*list(vars(record).values())[:-1], [RangeStep(0, 1.0, math.nan, 1.0, math.nan)]))
    with pytest.raises(RequestError, match="no finite loss to draw"):
        lost.save(tmp_path / "lost.png")
