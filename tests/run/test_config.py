"""Configs: from files of today and of older versions, overridden by path, compared."""

import tomllib
from dataclasses import replace

import pytest

from reslab.errors import RequestError
from reslab.run.config import (
    FLAGS,
    RunConfig,
    as_before,
    as_flag,
    differences,
    load_config,
    option_paths,
    override,
    parse_config,
    value_at,
)
from reslab.tasks.options import ClassifyOptions, OwnTaskOptions


def test_a_config_goes_round_through_toml():
    config = override(RunConfig(), {"optim.lr": 0.25, "schedule.milestones": [0.2], "recipe.sides": [8, 64]}, where="")
    assert parse_config(tomllib.loads(config.to_toml()), where="text") == config


def test_every_option_has_help_and_every_flag_an_option():
    assert set(FLAGS.values()) <= set(option_paths())
    assert not [path for path, option in option_paths().items() if not option.help]


def test_configs_of_older_versions_are_read(tmp_path):
    (tmp_path / "old.toml").write_text(
        "[recipe]\ntask = 'classify'\nsides = [1, 100000]\n[train]\nlabel_smoothing = 0.1\nloss = 'bce'\nepochs = 3\n"
        "[optim]\nl1 = 1e-5\nclip_grad_norm = 2.0\n"
    )
    config = load_config(tmp_path / "old.toml")
    assert config.task == ClassifyOptions(label_smoothing=0.1, loss="bce")
    assert (config.train.l1, config.train.clip_grad_norm, config.train.epochs) == (1e-5, 2.0, 3)


def test_a_task_of_ones_own_has_its_own_options():
    own = override(RunConfig(), {"task.name": "mine:Task", "task.options": {"alpha": 3}}, where="")
    assert own.task == OwnTaskOptions(name="mine:Task", options={"alpha": 3})
    assert value_at(own, "task.label_smoothing") is None
    assert override(own, {"optim.lr": 0.5}, where="").task == own.task
    back = override(own, {"task.name": "classify"}, where="")
    assert back.task == ClassifyOptions()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"optim.lrr": 1}, "Unknown option in --set 'optim.lrr'. Did you mean 'optim.lr'"),
        ({"lr": 1}, "Unknown option in --set 'lr'"),
        ({"task.name": "classfy"}, "Unknown task 'classfy'. Did you mean 'classify'?"),
        ({"task.label_smoothing": 2}, "--set: task.label_smoothing must be below 1, got 2"),
    ],
)
def test_wrong_paths_and_values_are_one_sentence(values, sentence):
    with pytest.raises(RequestError) as caught:
        override(RunConfig(), values, where="--set")
    assert sentence in str(caught.value)


def test_where_the_data_lies_is_no_difference():
    before = RunConfig()
    assert differences(before, override(before, {"data.dir": "elsewhere", "data.workers": 3}, where="")) == []
    assert differences(before, override(before, {"train.seed": 3}, where="")) == ["train.seed was 0, now 3"]


def test_what_a_trial_settled_stays():
    settled = override(RunConfig(), {"train.amp": "bf16", "train.threads": 2, "train.compile": "on"}, where="")
    again = as_before(replace(RunConfig(), optim=replace(RunConfig().optim, lr=0.5)), settled)
    assert (again.train.amp, again.train.threads, again.train.compile, again.optim.lr) == ("bf16", 2, "on", 0.5)


def test_options_are_written_as_flags_where_they_have_one():
    assert as_flag("train.epochs") == "--epochs"
    assert as_flag("optim.side_lr") == "--set optim.side_lr"
