"""Studies beside degradation: they build, measure what they say, conclude what their numbers say, refuse the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reslab.cli.main import main
from reslab.errors import RequestError
from reslab.records import StudyRow
from reslab.run.config import differences
from reslab.studies import identity, recipe, regularisation, variants
from reslab.studies.catalog import STUDIES, create_study
from reslab.studies.grid import num_cores
from reslab.studies.identity import Identity, learn
from reslab.studies.measuring import Measuring
from reslab.studies.presets import Choices
from reslab.studies.scale import Scale, measure
from reslab.studies.stack import Stack, digits, target_of
from reslab.studies.training import Training
from reslab.studies.words import compared, difference_of, p_value

PRESETS = [
    (name, preset)
    for name in STUDIES
    for preset in {"degradation": ("digits", "quick", "paper"), "mnist": ("quick", "full")}.get(
        name, ("",) if name in ("identity", "scale") else ("digits", "quick")
    )
]

NO_LAYERS = sorted(set(STUDIES) - {"variants"})
"""Whose kinds are no layers, so that they can be read without torch."""


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_study_has_distinct_runs_and_a_command_that_makes_it(name, preset):
    study = create_study(name, Choices(preset, seeds=2))
    assert len(study.jobs()) == 2 * len(study.entries)
    assert study.name in {f"{name}-{preset}", name}
    words = study.chosen.command.split()
    assert words[:3] == ["reslab", "study", name]
    assert len({tuple(entry.factors) for entry in study.entries}) == 1  # one set of columns
    assert study.conclude([])
    assert all(row.waiting == 2 for row in study.rows(Path("nowhere")))


@pytest.mark.parametrize("kind", variants.KINDS)
def test_every_variant_builds_and_gives_gradients(kind):
    (entry,) = variants.variants(Choices("digits", depths=(8,), kinds=(kind,))).entries
    torch.manual_seed(0)
    model = build.model(entry.job.config.model, num_classes=10, in_channels=1)
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_regularisers_change_one_thing_of_one_network():
    entries = {entry.factors["regulariser"]: entry.job for entry in regularisation.regularisation(Choices()).entries}
    bare = entries["none"].config
    assert (bare.model.norm, bare.optim.weight_decay, bare.optim.l1, bare.model.dropout) == ("none", 0, 0, 0)
    assert bare.data.augment == "none"
    num_changed = {name: len(differences(bare, job.config)) for name, job in entries.items()}
    of_fixup = {"batch norm": 2, "augmentation": 2}  # Fixup goes as the norm comes; a crop has its size
    every = sum({"dropout": 1, "L1": 1, "L2": 1, **of_fixup}.values())
    assert num_changed == dict.fromkeys(entries, 1) | of_fixup | {"none": 0, "all but early stopping": every}
    assert entries["L2"].config.optim.weight_decay > 0
    assert entries["batch norm"].config.model.norm == "batch"
    assert entries["augmentation"].config.data.augment == "crop"  # a mirrored digit is another one
    assert entries["early stopping"].weights == "best"
    assert {job.weights for name, job in entries.items() if name != "early stopping"} == {"last"}


def row(name: str, factors: dict, **values: tuple[float, ...]) -> StudyRow:
    """One line of a table."""
    return StudyRow(name, factors, values, {}, 0)


def test_conclusions_name_what_helps_and_what_does_not():
    rows = [
        row(name, {"regulariser": name}, test_error=errors, gap=(0.1, 0.1))
        for name, errors in {"none": (0.2, 0.21), "L2": (0.1, 0.11), "L1": (0.3, 0.31)}.items()
    ]
    said = regularisation.conclude(rows)
    assert "L2 is better by 10.00 points" in said
    assert "No better than none by mean test error: L1" in said
    rows = [
        row(
            name,
            {"depth": 20, "recipe": name},
            test_error=(0.1, 0.12),
            step_ratio=(time,) * 2,
            kept_mib=(memory,) * 2,
        )
        for name, time, memory in (("none", 1.0, 10.0), ("mixed precision", 0.5, 5.0))
    ]
    said = recipe.conclude(rows)
    assert "no difference that 2 seeds can show; time 0.50x, memory 0.50x" in said
    rows = [
        row(kind, {"variant": kind, "depth": 20}, train_error=(error,)) for kind, error in (("a", 0.01), ("b", 0.9))
    ]
    assert "1 of 2 kinds fit them; not b (90.00 %)" in variants.conclude(rows)


def test_a_difference_is_clear_by_welchs_test_and_its_size():
    first, second = row("a", {}, error=(0.10, 0.12)), row("b", {}, error=(0.20, 0.22))
    # t = 0.1 / sqrt(2 * 0.0002 / 2) = 7.07 with 2 degrees of freedom, for which p = 1 - t / sqrt(t^2 + 2)
    assert p_value(first, second, "error") == pytest.approx(1 - 50**0.5 / 52**0.5)
    same = [row("x", {}, error=(error,) * 2) for error in (0.0056, 0.0084, 0.02)]
    assert [difference_of(same[0], other, "error") for other in same] == ["equal", "equal", "better"]
    assert "a is better by 10.00 points" in compared(first, second, "error", names=("a", "b"))
    near = row("c", {}, error=(0.11, 0.13))
    assert "no difference that 2 seeds can show" in compared(first, near, "error", names=("a", "c"))
    assert "one seed says nothing" in compared(row("d", {}, error=(0.1,)), second, "error", names=("d", "b"))


# ---- identity


def test_blocks_with_zero_branches_are_the_identity_and_others_are_not():
    inputs, _ = digits()
    torch.manual_seed(0)
    zero, whole = (Stack(64, 3, shortcut=True, zero=start) for start in (True, False))
    assert torch.equal(zero(inputs), inputs)
    assert not torch.allclose(whole(inputs), inputs)
    assert torch.equal(Stack(64, 3, shortcut=False, zero=True)(inputs), torch.zeros_like(inputs))


def test_the_target_is_the_input_and_a_part_of_something_else():
    inputs, _ = digits()
    assert inputs.square().mean() == pytest.approx(1.0, rel=0.02)
    assert torch.equal(target_of(0.0, width=64)(inputs), inputs)
    away = target_of(0.1, width=64)(inputs) - inputs
    assert away.square().mean().sqrt() == pytest.approx(0.1, rel=1e-4)


def test_learning_lowers_the_error_and_repeats_itself():
    settings = Identity("residual", 1, 0.1, steps=60)
    first = learn(settings, 3)
    assert first == learn(settings, 3)
    assert first != learn(settings, 4)
    assert first["train_error"] < 0.2 * first["start_error"]


# ---- jobs that measure


def test_a_measuring_job_is_kept_read_and_refused_when_changed(tmp_path):
    job = Measuring(learn, Identity("plain", 1, 0.0, steps=2), identity.expect, seed=1)
    assert job.status(tmp_path / "a") == "new"
    assert job.changes(tmp_path / "a") == []
    assert job.run(tmp_path / "a", resume=True) == ""
    assert job.status(tmp_path / "a") == "done"
    assert set(job.values(tmp_path / "a")) == {"start_error", "train_error", "test_error"}
    machine, versions = job.made_on(tmp_path / "a")
    assert machine["processor"]
    assert versions["torch"] == torch.__version__
    longer = replace(job, settings=replace(job.settings, steps=3))
    assert longer.changes(tmp_path / "a") == ["steps was 2, now 3"]
    assert job.seeded(2).changes(tmp_path / "a") == ["seed was 1, now 2"]
    (tmp_path / "a" / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RequestError, match="is damaged"):
        job.values(tmp_path / "a")


def test_a_job_that_raises_says_why():
    job = Measuring(fails, Identity("plain", 1, 0.0), identity.expect)
    assert job.run(Path("nowhere"), resume=True) == "RuntimeError: no luck with seed 0"


def fails(settings, seed):
    """A measurement that goes wrong."""
    raise RuntimeError(f"no luck with seed {seed}")


@pytest.mark.parametrize(("threads", "recorded"), [(1, 1), (0, num_cores())])
def test_a_measurement_names_the_threads_it_computed_with(tmp_path, threads, recorded):
    before = torch.get_num_threads()
    job = Measuring(learn, Identity("plain", 1, 0.0, steps=2), identity.expect, threads=threads)
    try:
        assert job.run(tmp_path, resume=True) == ""
    finally:
        torch.set_num_threads(before)
    assert job.made_on(tmp_path)[0]["threads"] == recorded


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_deeper_takes_more_memory_and_checkpointing_less():
    shallow, deep, dropped = (
        measure(Scale(depth, checkpointed, batch_size=64, steps=1), 0)
        for depth, checkpointed in ((8, False), (56, False), (56, True))
    )
    assert shallow["peak_mib"] < deep["peak_mib"]
    assert dropped["peak_mib"] < deep["peak_mib"]
    assert shallow["step_s"] > 0
    assert deep["num_parameters"] == dropped["num_parameters"] == 853_018


@pytest.mark.slow
def test_recipe_measures_time_and_memory_of_each_part(tmp_path, capsys):
    arguments = ["study", "recipe", "--depths", "8", "--epochs", "2", "--seeds", "1", "--out", str(tmp_path), "--json"]
    assert main([*arguments, "--kinds", "none", "mixed precision"]) == 0
    rows = {line["name"]: line["values"] for line in json.loads(capsys.readouterr().out)["rows"]}
    bare, mixed = rows["resnet8-none"], rows["resnet8-mixed-precision"]
    assert 0.4 < mixed["kept_mib"][0] / bare["kept_mib"][0] < 0.8
    assert bare["step_ratio"] == [1.0]
    assert mixed["step_ratio"][0] > 0
    assert (tmp_path / "means.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["identity", "--preset", "digits"], "no --preset"),
        (["scale", "--data-dir", "somewhere"], "no --data-dir"),
        (["identity", "--epochs", "3"], "no --epochs to choose, got 3"),
        (["identity", "--download"], "no --download to choose. Leave it out."),
        (["regularisation", "--depths", "20"], "no --depths"),
        (["variants", "--kinds", "order pree"], "Did you mean 'order pre'"),
        (["scale", "--depths", "21"], "6n+2"),
        (["mnist", "--preset", "digits"], "quick, full"),
    ],
)
def test_choices_that_a_study_lacks_are_refused(arguments, message, capsys):
    assert main(["study", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_list_of_studies_has_them_all(capsys):
    assert main(["study"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*STUDIES, "claims"))


def test_a_study_that_is_only_read_waits_for_no_torch():
    code = (
        "import sys; from reslab.studies.catalog import create_study; from reslab.studies.presets import Choices\n"
        f"print(len([create_study(name, Choices()) for name in {NO_LAYERS}]), 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == f"{len(NO_LAYERS)} False\n"


def test_trainings_ask_for_a_gpu_only_where_they_may_use_one():
    config = create_study("degradation", Choices("paper")).entries[0].job.config
    assert Training(config).wants_gpu
    assert not create_study("degradation", Choices("digits")).entries[0].job.wants_gpu
