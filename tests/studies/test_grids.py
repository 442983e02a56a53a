"""Grids: every study plans distinct runs, changes what it says, and refuses options that it doesn't have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reslab.cli.main import main
from reslab.run.assemble import build_network
from reslab.run.config import differences
from reslab.studies import STUDIES, StudySpec, create_study
from reslab.studies.grid import read_grid
from reslab.studies.runs import MeasurementRun
from reslab.tasks.classify import Classify

PRESETS = [(name, preset) for name in STUDIES for preset in read_grid(name).presets or [""]]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_study_has_distinct_runs_and_its_command(name, preset):
    study = create_study(StudySpec(name, preset, seeds=2))
    assert len(study.runs()) == 2 * len(study.settings)
    assert study.name in {f"{name}-{preset}", name}
    assert study.command.split()[:3] == ["reslab", "study", name]
    assert len({tuple(setting.factors) for setting in study.settings}) == 1  # one set of columns
    assert not any("{" in text for text in (*study.protocol, *study.runs()))
    assert study.conclude([])
    assert all(row.waiting == 2 for row in study.record(Path("nowhere")).rows)


def test_presets_are_those_that_the_docs_name():
    assert {name: list(read_grid(name).presets) for name in STUDIES} == {
        "degradation": ["digits", "quick", "paper"],
        "mnist": ["quick", "full"],
        "identity": [],
        "regularisation": ["digits", "quick"],
        "recipe": ["digits", "quick"],
        "variants": ["digits", "quick"],
        "scale": [],
    }


def test_other_choices_have_another_name_and_command():
    choices = ({}, {"seeds": 1}, {"depths": (8, 14)}, {"kinds": ("plain without norm",)}, {"epochs": 3})
    studies = [create_study(StudySpec("degradation", **chosen)) for chosen in choices]
    names = [study.name for study in studies]
    assert names[:2] == ["degradation-digits"] * 2  # fewer seeds of the same
    assert names[2:4] == ["degradation-digits-073a23", "degradation-digits-2c8e5b"]  # as they have always been
    assert len(set(names)) == 4
    command = "reslab study degradation --preset digits --seeds 3"
    assert [study.command.removeprefix(command) for study in studies[2:]] == [
        " --depths 8 14",
        ' --kinds "plain without norm"',
        " --epochs 3",
    ]


def test_every_run_of_degradation_has_one_recipe_and_its_own_seed():
    kinds = tuple(read_grid("degradation").kinds)
    runs = create_study(StudySpec("degradation", kinds=kinds)).runs()
    assert len(runs) == 3 * 3 * len(kinds)
    assert next(iter(runs)).startswith("plain110")  # the longest first
    assert {run.config.train.seed for run in runs.values()} == {0, 1, 2}
    first = next(iter(runs.values())).config
    same = [replace(run.config, model=first.model, train=replace(run.config.train, seed=0)) for run in runs.values()]
    assert all(config == same[0] for config in same)
    assert runs["plain56-without-norm-seed0"].config.model.norm == "none"


def test_regularisers_change_one_thing_of_one_network():
    runs = {one.factors["regulariser"]: one.run for one in create_study(StudySpec("regularisation")).settings}
    bare = runs["none"].config
    assert (bare.model.norm, bare.optim.weight_decay, bare.train.l1, bare.model.dropout) == ("none", 0, 0, 0)
    assert bare.data.augment == "none"
    num_changed = {name: len(differences(bare, run.config)) for name, run in runs.items()}
    of_two = {"batch norm": 2, "augmentation": 2}  # Fixup goes as the norm comes; a crop has its size
    every = sum({"dropout": 1, "L1": 1, "L2": 1, **of_two}.values())
    assert num_changed == dict.fromkeys(runs, 1) | of_two | {"none": 0, "all but early stopping": every}
    assert runs["L2"].config.optim.weight_decay > 0
    assert runs["batch norm"].config.model.norm == "batch"
    assert runs["augmentation"].config.data.augment == "crop"  # a mirrored digit is another one
    assert runs["early stopping"].config.train.patience == 10  # a sixth of 60 epochs
    assert [name for name, run in runs.items() if run.weights == "best"] == ["early stopping"]


@pytest.mark.parametrize("kind", read_grid("variants").kinds)
def test_every_variant_builds_and_gives_gradients(kind):
    (setting,) = create_study(StudySpec("variants", depths=(8,), kinds=(kind,))).settings
    torch.manual_seed(0)
    model = build_network(setting.run.config.model, Classify(10), in_channels=1)
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_measurements_get_their_settings_from_the_grid():
    runs = create_study(StudySpec("identity", depths=(4,), kinds=("residual, zero init",), seeds=1)).runs()
    assert list(runs) == [f"residual-zero-init-4-blocks-part-{part}-seed0" for part in ("0", "0.1")]
    settings = {"num_blocks": 4, "steps": 2000, "lr": 1e-3, "batch_size": 128, "kind": "residual, zero init"}
    assert runs.popitem()[1] == MeasurementRun("identity", settings | {"part": 0.1})
    scale = create_study(StudySpec("scale", depths=(20,), seeds=1))
    assert scale.exclusive
    assert list(scale.runs()) == ["resnet20-all-kept-seed0", "resnet20-checkpointed-seed0"]


def test_trainings_ask_for_a_gpu_only_where_they_may_use_one():
    uses_gpu = [
        create_study(StudySpec("degradation", preset)).settings[0].run.uses_gpu for preset in ("digits", "paper")
    ]
    assert uses_gpu == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["degradatoin"], "Did you mean 'degradation'"),
        (["--preset", "digits"], "Name the study first"),
        (["degradation", "--preset", "big"], "digits, quick, paper"),
        (["mnist", "--preset", "digits"], "quick, full"),
        (["degradation", "--depths", "21"], "6n+2"),
        (["scale", "--depths", "21"], "6n+2"),
        (["identity", "--depths", "0"], "Depths must be at least 1, got 0"),
        (["degradation", "--depths", "20", "20"], "--depths takes each value once, got 20, 20"),
        (["degradation", "--kinds", "plan"], "Did you mean 'plain'"),
        (["variants", "--kinds", "order pree"], "Did you mean 'order pre'"),
        (["degradation", "--seeds", "-1"], "seeds and epochs must be at least 0"),
        (["recipe", "--epochs", "1"], "needs at least 2 epochs, got 1"),
        (["degradation", "--budget", "-1"], "must be at least 0"),
        (["identity", "--preset", "digits"], "no option --preset"),
        (["scale", "--data-dir", "somewhere"], "no option --data-dir"),
        (["identity", "--epochs", "3"], "no option --epochs, got 3"),
        (["identity", "--download"], "no option --download. Leave it out."),
        (["regularisation", "--depths", "20"], "no option --depths"),
        (["scale", "--ray", "auto"], "of one machine"),
        (["degradation", "--ray", "auto", "--budget", "3"], "Leave one out"),
        (["degradation", "--ray", "auto", "--workers", "2"], "Leave one out"),
    ],
)
def test_bad_requests_are_refused(arguments, message, capsys):
    assert main(["study", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_list_of_studies_has_them_all(capsys):
    assert main(["study"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*STUDIES, "claims"))
