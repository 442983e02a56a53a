"""Throw-away tasks train, resume, stop, are evaluated, predicted with and drawn by the unchanged loop and command."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tasks.throwaway import Mimic, Nested, Ranked

from reslab.cli.main import main
from reslab.records import RunFolder
from reslab.run.config import RunConfig, override
from reslab.run.load import load
from reslab.run.train import run_training

TASKS = {"Nested": Nested, "Mimic": Mimic, "Ranked": Ranked}


def config(task: str, **values) -> RunConfig:
    options = {"task.name": f"tests.tasks.throwaway:{task}", "model.name": "resnet8", "data.batch_size": 128}
    options |= {"train.device": "cpu", "train.threads": 1, "train.epochs": 2, "data.workers": 0, "optim.lr": 0.05}
    return override(RunConfig(), options | values, where="the test")


@pytest.fixture(scope="module", params=TASKS)
def done(request, tmp_path_factory):
    """A run of each task, by the command."""
    out = tmp_path_factory.mktemp("tasks") / request.param
    words = f"train --task tests.tasks.throwaway:{request.param} --model resnet8 --data digits --epochs 3 --lr 0.05"
    assert main([*words.split(), "--threads", "1", "--device", "cpu", "--workers", "0", "--out", str(out)]) == 0
    return RunFolder(out)


def test_records_have_the_score_by_its_name(done):
    record = done.read_run()
    task = TASKS[done.name]
    assert (record.task, record.score, record.status) == (task.name, task.score, "done")
    name = task.score.name
    epochs = done.read_epochs()
    assert len(epochs) == 3
    for epoch in epochs:
        assert math.isfinite(epoch.scores[f"val_{name}"])
        assert (f"train_{name}" in epoch.scores) is (name != "top2")  # which one batch doesn't have
        assert not [key for key in epoch.scores if "error" in key]
    assert epochs[-1].scores["train_loss"] < epochs[0].scores["train_loss"]
    assert {f"{split}_{name}" for split in ("train", "val", "test")} <= set(record.last.scores)


def test_the_best_weights_are_those_with_the_best_score(done):
    record, score = done.read_run(), TASKS[done.name].score
    values = [epoch.scores[f"val_{score.name}"] for epoch in done.read_epochs()]
    best = (min if score.better == "lower" else max)(values)
    assert record.best.scores[f"val_{score.name}"] == pytest.approx(best, rel=1e-6)


def test_the_command_evaluates_predicts_and_draws(done, tmp_path, capsys):
    record, name = done.read_run(), TASKS[done.name].score.name
    assert main(["evaluate", str(done.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[name] == pytest.approx(record.best.scores[f"test_{name}"], rel=1e-6)
    assert main(["report", str(done.root), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert name in page
    assert "validation error" not in page
    from PIL import Image

    Image.new("L", (8, 8), 100).save(tmp_path / "one.png")
    [answer] = load(done.root).predict(tmp_path / "one.png")
    assert answer.to_plain()["image"] == str(tmp_path / "one.png")


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    for name in TASKS:
        whole = run_training(config(name), tmp_path / f"{name}-whole").folder
        cut = tmp_path / f"{name}-cut"
        shutil.copytree(whole.root, cut)
        folder = RunFolder(cut)
        record = folder.read_run()
        record.status, record.last, record.best = "running", None, None
        folder.run.write_text(record.to_json())
        newest = sorted(folder.checkpoints.glob("step-*.pt"))[-1]
        newest.unlink()
        folder.weights.unlink()
        again = run_training(config(name), cut, resume=True)
        assert again.record.status == "done"
        assert folder.last_weights.read_bytes() == whole.last_weights.read_bytes()


def test_patience_follows_the_direction_of_the_score(tmp_path):
    """At a rate of nearly nothing nothing gets better, whichever way that is."""
    for name in ("Nested", "Ranked"):
        still = config(name, **{"train.epochs": 9, "train.patience": 2, "optim.lr": 1e-9, "data.val_split": 0.3})
        run = run_training(still, tmp_path / name)
        assert "stopped early" in run.record.protocol["length"], name


def test_parts_of_a_batch_are_parts_of_its_nest(tmp_path):
    parts = replace(config("Nested"), train=replace(config("Nested").train, accumulate=3, steps=2))
    assert run_training(parts, tmp_path / "r").record.status == "done"


def test_a_second_network_is_asked_and_left_alone():
    task = Mimic(["a", "b", "c"], teacher=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    task.step(student, (torch.randn(5, 1, 2, 2), torch.zeros(5).long())).loss.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in task.teacher.parameters())
    assert all(torch.equal(value, task.before[key]) for key, value in task.teacher.state_dict().items())


def test_a_task_that_cannot_be_imported_is_refused_in_one_sentence(tmp_path):
    words = ["train", "--task", "no_such.tasks:Build", "--model", "resnet8", "--out", str(tmp_path / "r")]
    done = subprocess.run([sys.executable, "-m", "reslab", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Can't import the task 'no_such.tasks:Build'" in done.stderr
    assert not (tmp_path / "r").exists()


def test_each_is_under_sixty_lines():
    source = (Path(__file__).parent / "throwaway.py").read_text()
    classes = source.split("\n\n\nclass ")[1:]
    assert all(len(text.splitlines()) < 60 for text in classes)
