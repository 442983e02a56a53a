from __future__ import annotations

import math
import re

import pytest

from reslab.records import EpochRecord, RunFolder, first_and_last
from reslab.report.captions import curves_caption, flow_caption, steps_caption


def about_curves(runs: list[RunFolder]) -> str:
    return curves_caption(runs, {run: run.read_epochs() for run in runs})


def about_flow(runs: list[RunFolder]) -> str:
    return flow_caption(runs, {run: first_and_last(run.read_readings()) for run in runs})


def test_two_short_sentences_about_twins_of_several_depths(twins):
    plain, residual, end = re.split(r"\.(?: |$)", about_curves(twins))
    change = r"(rises|falls) from \d+\.\d\d % to \d+\.\d\d %"
    assert re.fullmatch(
        rf"Plain networks from 20 to 110 layers: validation error {change}, training error from [\d.]+ % to [\d.]+ %",
        plain,
    )
    assert re.fullmatch(rf"Their residual twins: validation error {change}, training error from .+ %", residual)
    assert end == ""
    assert max(len(plain.split()), len(residual.split())) <= 25


def test_twins_of_one_depth_have_no_direction(twins):
    plain, residual, _ = re.split(r"\.(?: |$)", about_curves([twins[0], twins[3]]))
    assert re.fullmatch(r"Plain networks of 20 layers: validation error [\d.]+ %, training error [\d.]+ %", plain)
    assert re.fullmatch(r"Their residual twins: validation error [\d.]+ %, training error [\d.]+ %", residual)


def test_networks_of_other_depths_are_no_twins(twins):
    assert "Residual networks of 56 layers: validation" in about_curves([twins[0], twins[4]])


def test_errors_that_move_apart_have_a_verb_each(make_run):
    runs = [make_run("plain20"), make_run("plain56")]
    ends = {
        run: EpochRecord(0, 1, 0.1, 9.0, 1.0, scores={"train_error": train, "val_error": val})
        for run, train, val in zip(runs, (0.2, 0.1), (0.3, 0.4), strict=True)
    }
    assert curves_caption(runs, {run: [record] for run, record in ends.items()}) == (
        "Plain networks from 20 to 56 layers: validation error rises from 30.00 % to 40.00 %,"
        " training error falls from 20.00 % to 10.00 %."
    )


def test_an_error_that_was_not_measured_everywhere_is_left_out(make_run):
    text = about_curves([make_run("resnet20"), make_run("resnet56", val=False)])
    assert re.fullmatch(r"Residual networks from 20 to 56 layers: training error falls from .+ % to [\d.]+ %\.", text)


def test_runs_of_different_lengths_and_runs_without_epochs_are_named(make_run):
    text = about_curves([make_run("plain20", epochs=3), make_run("resnet20"), make_run("resnet56", epochs=0)])
    assert text.endswith("The runs have different lengths: 3 to 30 epochs. No epoch finished: resnet56.")


def test_one_run_tells_its_lowest_validation_error(make_run):
    assert "the lowest validation error was" in about_curves([make_run("resnet20")])
    assert about_curves([make_run("plain20", val=False)]).endswith("; there is no validation split.")


def test_unrelated_runs_are_ranked(make_run):
    text = about_curves([make_run(name, model=name, epochs=count) for name, count in (("left", 30), ("right", 3))])
    assert text.startswith("Validation error at the end: lowest left with ")


def test_seeds_are_told_together(make_run):
    runs = [make_run(f"{name}-s{seed}", model=name, seed=seed) for name in ("plain20", "resnet20") for seed in range(4)]
    assert about_curves(runs).count("(means of up to 4 runs)") == 2
    for name in ("plain20", "resnet20"):
        assert f"{name} (4 runs): in the first reading" in about_flow(runs)


def test_flow_compares_stem_and_head_of_the_deepest_pair(twins):
    text = about_flow(twins)
    first, _ = first_and_last(next(run for run in twins if run.name == "plain110").read_readings())
    growth = first[0].grad_norm / first[-1].grad_norm
    assert growth > 1e4
    assert f"next to the stem is {float(f'{growth:.3g}'):,.0f} \N{MULTIPLICATION SIGN} that next to the head" in text
    assert "plain20" not in text
    assert "resnet110" in text


def test_zero_and_non_finite_gradients_are_counted(make_run):
    norms = ([math.inf, 0.5, 0.1], [0.0, 0.0, 0.1])
    text = about_flow([make_run("net", model="my-net", norms=norms), make_run("resnet20")])
    assert "Readings that are exactly 0: net 2." in text
    assert "Readings that are not finite: net 1." in text


@pytest.mark.parametrize(("losses", "sentence"), [([math.nan], "Loss not finite in 1 of 1 steps."), ([2.0, 1.0], "")])
def test_steps_that_were_not_finite_are_counted(make_run, losses, sentence):
    text = steps_caption(make_run("resnet20", losses=losses).read_steps())
    assert sentence in text
    assert ("not finite" in text) == bool(sentence)
    assert ("The loss goes from 2 to 1 (first and last step)." in text) == (not sentence)
