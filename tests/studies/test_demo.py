"""The demo: networks of one recipe, a sentence that follows from the numbers, and the command itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reslab.cli.main import main
from reslab.records import RunFolder
from reslab.studies.demo import plan_demo


def test_all_networks_train_by_one_recipe():
    study = plan_demo([20, 56], epochs=3)
    assert [one.name for one in study.settings] == ["plain20", "resnet20", "plain56", "resnet56"]
    configs = [one.run.config for one in study.settings]
    assert all(replace(config, model=configs[0].model) == configs[0] for config in configs)
    assert configs[0].train.epochs == 3
    assert not any(one.run.extras for one in study.settings)


@pytest.mark.slow
def test_the_demo_writes_runs_page_and_table(tmp_path, capsys):
    arguments = ["demo", "--depths", "8", "--epochs", "1", "--out", str(tmp_path / "d"), "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in result["rows"]] == ["plain8", "resnet8"]
    for row in result["rows"]:
        record = RunFolder(tmp_path / "d" / row["name"]).read_run()
        assert row["train_error"] == record.last.scores["train_error"]
        assert row["test_error"] == record.last.scores["test_error"]
    assert (tmp_path / "d" / "index.html").stat().st_size > 100_000
    assert (tmp_path / "d" / "gradient-flow.png").stat().st_size > 1000
    assert main(arguments) == 0  # again, over the first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--depths", "21"], "6n+2"), (["--epochs", "0"], "epochs"), (["--workers", "-1"], "workers")],
)
def test_bad_requests_are_refused(arguments, message, capsys):
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err
