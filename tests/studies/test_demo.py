"""The demo's sentence follows from the numbers; the demo itself runs."""

import json

import pytest

from reslab.cli.main import main
from reslab.records import RunFolder
from reslab.studies.demo import Row, conclude, demo_configs


def rows(plain, residual):
    return [
        Row(f"{kind}{depth}", depth, word, train_error=error)
        for kind, word, errors in (("plain", "plain", plain), ("resnet", "residual", residual))
        for depth, error in zip((20, 110), errors, strict=True)
    ]


@pytest.mark.parametrize(
    ("plain", "residual", "expected"),
    [
        ((0.0, 0.9), (0.0, 0.01), "Without shortcuts deeper is worse, with them it is not"),
        ((0.0, 0.9), (0.0, 0.5), "with and without shortcuts"),
        ((0.0, 0.01), (0.0, 0.5), "residual networks that get worse"),
        ((0.0, 0.01), (0.0, 0.0), "No degradation shows"),
    ],
)
def test_the_sentence_says_what_the_numbers_say(plain, residual, expected):
    sentence = conclude(rows(plain, residual))
    assert expected in sentence
    assert f"{100 * plain[1]:.2f} %" in sentence
    assert f"{100 * residual[1]:.2f} %" in sentence


def test_one_depth_concludes_nothing():
    assert "Two depths" in conclude(rows((0.0, 0.9), (0.0, 0.0))[::2])


def test_all_networks_train_by_one_recipe():
    configs = demo_configs([20, 56], epochs=3, seed=0)
    assert list(configs) == ["plain56", "resnet56", "plain20", "resnet20"]
    assert (
        len(
            {
                config.model_copy(update={"model": None}).model_dump_json(exclude={"model"})
                for config in configs.values()
            }
        )
        == 1
    )


@pytest.mark.slow
def test_the_demo_runs_and_writes_runs_page_and_table(tmp_path, capsys):
    arguments = ["demo", "--depths", "8", "14", "--epochs", "2", "--out", str(tmp_path / "d"), "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in result["rows"]] == ["plain8", "resnet8", "plain14", "resnet14"]
    for row in result["rows"]:
        record = RunFolder(tmp_path / "d" / row["name"]).read_run()
        assert row["train_error"] == record.last.scores["train_error"]
        assert row["test_error"] == record.last.scores["test_error"]
    assert (tmp_path / "d" / "index.html").stat().st_size > 100_000
    assert main(arguments) == 0  # again, over the first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--depths", "21"], "6n+2"), (["--epochs", "0"], "epochs"), (["--workers", "-1"], "workers")],
)
def test_bad_requests_are_refused(arguments, message, capsys):
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err
