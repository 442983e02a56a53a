"""Conclusions say what the numbers say, whichever way they come out."""

from __future__ import annotations

import pytest

from reslab.records.study import StudyRow
from reslab.studies import conclusions
from reslab.studies.conclusions import compare, comparison_text, degradation, p_value


def row(name: str, factors: dict, **values: tuple[float, ...]) -> StudyRow:
    return StudyRow(name, factors, values, {}, 0)


def network(kind: str, depth: int, *errors: float, failed: dict[str, str] | None = None) -> StudyRow:
    """A row of the study degradation; of a network without errors every run has diverged."""
    name = f"{'plain' if kind == 'plain' else 'resnet'}{depth}"
    values = {key: errors for key in ("train_error", "test_error") if errors}
    return StudyRow(name, {"depth": depth, "kind": kind}, values, failed or {}, 0)


@pytest.mark.parametrize(
    ("plain", "residual", "expected"),
    [
        (0.9, 0.01, "Without shortcuts deeper is worse, with them it is not."),
        (0.9, 0.5, "Deeper is worse here with and without shortcuts."),
        (0.01, 0.5, "Here the residual networks get worse with depth."),
        (0.01, 0.0, "No degradation shows in these runs."),
    ],
)
def test_degradation_says_which_kind_gets_worse(plain, residual, expected):
    rows = [
        network(kind, depth, error, error + 0.02)
        for kind, errors in (("plain", (0.0, plain)), ("residual", (0.0, residual)))
        for depth, error in zip((20, 110), errors, strict=True)
    ]
    sentence = degradation(rows)
    assert sentence.startswith(expected)
    assert f"to {100 * plain + 1:.2f} % (\N{PLUS-MINUS SIGN} 1.41, n = 2)" in sentence


def test_networks_that_diverge_are_named_and_worse_than_any():
    some = degradation([network("plain", 20, 0.1), network("plain", 56, 0.2, failed={"1": "NaN"})])
    assert "Diverged: plain56 (1 of 2)." in some
    residual = [network("residual", depth, 0.0, 0.0) for depth in (20, 110)]
    every = {"0": "the loss is NaN at step 7", "1": "the loss is NaN at step 9"}
    found = degradation([network("plain", 20, 0.1, 0.1), network("plain", 110, failed=every), *residual])
    assert found.startswith("Without shortcuts deeper is worse, with them it is not. Diverged: plain110 (2 of 2).")
    shallow_too = [network("plain", 20, failed=every), network("plain", 110, failed=every)]
    assert "deeper is worse" not in degradation([*shallow_too, *residual])


@pytest.mark.parametrize(("error", "is_clear"), [(0.04, False), (0.06, True)])
def test_single_runs_differ_by_five_points(error, is_clear):
    rows = [network("plain", 20, 0.0), network("plain", 110, error)]
    rows += [network("residual", depth, 0.0) for depth in (20, 110)]
    assert degradation(rows).startswith("Without shortcuts deeper is worse") == is_clear


def test_noisy_runs_show_no_degradation():
    rows = [network("plain", 20, 0.0, 0.1, 0.2), network("plain", 110, 0.0, 0.2, 0.4)]
    rows += [network("residual", depth, 0.0, 0.0, 0.0) for depth in (20, 110)]
    assert degradation(rows).startswith("No degradation")


def test_one_depth_concludes_nothing():
    assert "at least two depths" in degradation([network("plain", 20, 0.1)]).lower()


def test_mnist_compares_twins_depth_by_depth():
    errors = {"plain": (0.02, 0.021), "residual": (0.01, 0.011)}
    rows = [row(kind, {"depth": 8, "kind": kind}, test_error=found) for kind, found in errors.items()]
    assert "residual is better by 1.00 points" in conclusions.mnist(rows)


def test_regularisation_names_the_best_and_what_does_not_help():
    errors = {"none": (0.2, 0.21), "L2": (0.1, 0.11), "L1": (0.3, 0.31)}
    rows = [row(name, {"regulariser": name}, test_error=found, gap=(0.1, 0.1)) for name, found in errors.items()]
    sentence = conclusions.regularisation(rows)
    assert "L2 is better by 10.00 points" in sentence
    assert "No better than none by mean test error: L1" in sentence


def test_recipe_names_costs_that_change():
    rows = [
        row(name, {"depth": 20, "recipe": name}, test_error=(0.1, 0.12), step_ratio=(time,) * 2, kept_mib=(kept,) * 2)
        for name, time, kept in (("none", 1.0, 10.0), ("mixed precision", 0.5, 5.0))
    ]
    assert "no difference that 2 seeds can show; time 0.50x, memory 0.50x" in conclusions.recipe(rows)
    assert "are needed to compare them" in conclusions.recipe(rows[1:])


def test_variants_name_kinds_that_do_not_train():
    errors = {"a": 0.01, "b": 0.9}
    rows = [row(kind, {"variant": kind, "depth": 20}, train_error=(error,)) for kind, error in errors.items()]
    assert "20 layers: 1 of 2 kinds; not b (90.00 %)" in conclusions.variants(rows)


def test_identity_names_the_nearest_at_the_greatest_depth():
    rows = [
        row(kind, {"target": "x", "blocks": blocks, "kind": kind}, start_error=(1.0,), test_error=(error,))
        for blocks in (1, 4)
        for kind, error in (("plain", 0.1), ("residual", 0.01 * blocks))
    ]
    assert conclusions.identity(rows) == (
        "Target x, 4 blocks: best with shortcuts. Error from the start to the end: without shortcuts 1 to 0.1; with"
        " shortcuts 1 to 0.04."
    )


def test_scale_compares_depths_and_checkpointing():
    rows = [
        row(f"{kind}{depth}", {"depth": depth, "blocks": kind}, peak_mib=(memory * depth,), step_s=(time * depth,))
        for kind, memory, time in (("all kept", 2.0, 1.0), ("checkpointed", 1.0, 1.3))
        for depth in (20, 110)
    ]
    sentence = conclusions.scale(rows)
    assert "All kept, from 20 to 110 layers (6 times as many): memory 5.5 times, time 5.5 times." in sentence
    assert "At 110 layers checkpointing takes 0.50 of the memory and 1.30 of the time." in sentence


def test_a_difference_is_clear_by_welchs_test_and_its_size():
    first, second = row("a", {}, error=(0.10, 0.12)), row("b", {}, error=(0.20, 0.22))
    # t = 0.1 / sqrt(2 * 0.0002 / 2) = 7.07 with 2 degrees of freedom, for which p = 1 - t / sqrt(t^2 + 2)
    assert p_value(first, second, "error") == pytest.approx(1 - 50**0.5 / 52**0.5)
    same = [row("x", {}, error=(error,) * 2) for error in (0.0056, 0.0084, 0.02)]
    assert [compare(same[0], other, "error") for other in same] == ["equal", "equal", "better"]
    assert compare(same[2], same[0], "error") == "worse"
    assert "a is better by 10.00 points" in comparison_text(first, second, "error", names=("a", "b"))
    near = row("c", {}, error=(0.11, 0.13))
    assert "no difference that 2 seeds can show" in comparison_text(first, near, "error", names=("a", "c"))
    single = row("d", {}, error=(0.1,))
    assert "one seed says nothing" in comparison_text(single, second, "error", names=("d", "b"))
