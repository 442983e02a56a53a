"""Studies: what is trained, what is left to train, what the table and the sentence say."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace

import pytest

from reslab.cli.main import main
from reslab.cli.study import progress_text
from reslab.errors import RequestError, WorkFailed
from reslab.records import Evaluation, MeasureRecord, RunFolder, RunRecord, StudyRow, encode, read_study
from reslab.report.study_table import markdown_of, measure_text
from reslab.run.config import override
from reslab.studies import grid
from reslab.studies.degradation import KINDS, conclude, degradation
from reslab.studies.estimate import estimate, makespan_s
from reslab.studies.grid import check_reasons, core_shares, run_grid
from reslab.studies.presets import Choices
from reslab.studies.study import Entry, run_name, unfinished
from reslab.studies.training import Training

SMALL = degradation(Choices("digits", seeds=2, depths=(8, 14), epochs=1))


def row(kind, depth, errors, *, failed=None):
    (entry,) = degradation(Choices(depths=(depth,), kinds=(kind,))).entries
    values = {key: tuple(errors) for key in ("train_error", "test_error") if errors}
    return StudyRow(entry.name, entry.factors, values, failed or {}, 0)


@pytest.mark.parametrize(
    ("plain", "residual", "expected"),
    [
        (0.9, 0.01, "Without shortcuts deeper is worse, with them it is not."),
        (0.9, 0.5, "with and without shortcuts"),
        (0.01, 0.5, "residual networks that get worse"),
        (0.01, 0.0, "No degradation shows"),
    ],
)
def test_the_sentence_says_what_the_numbers_say(plain, residual, expected):
    rows = [
        row(kind, depth, [error, error + 0.02])
        for kind, errors in (("plain", (0.0, plain)), ("residual", (0.0, residual)))
        for depth, error in zip((20, 110), errors, strict=True)
    ]
    sentence = conclude(rows)
    assert expected in sentence
    assert f"to {100 * plain + 1:.2f} % (\N{PLUS-MINUS SIGN} 1.41, n = 2)" in sentence


def test_what_has_diverged_is_in_the_sentence_and_in_the_table(tmp_path):
    rows = [row("plain", 20, [0.1]), row("plain", 56, [0.2], failed={"1": "the loss is NaN at step 7"})]
    assert "Diverged: plain56 (1 of 2)." in conclude(rows)
    assert "| 56 | plain | 1, 1 diverged |" in markdown_of(replace(SMALL.record(tmp_path), rows=tuple(rows)))


def test_what_diverges_every_time_is_worse_than_anything():
    twins = [row("residual", depth, [0.0, 0.0]) for depth in (20, 110)]
    lost = row("plain", 110, [], failed={"0": "the loss is NaN at step 7", "1": "the loss is NaN at step 9"})
    said = conclude([row("plain", 20, [0.1, 0.1]), lost, *twins])
    assert said.startswith("Without shortcuts deeper is worse, with them it is not. Diverged: plain110 (2 of 2).")
    assert "deeper is worse" not in conclude([replace(lost, factors={"depth": 20, "kind": "plain"}), lost, *twins])


def test_of_single_runs_five_points_are_worse_and_of_several_what_seeds_cannot_explain():
    residual = [row("residual", depth, [0.0]) for depth in (20, 110)]
    for error, is_told in ((0.04, False), (0.06, True)):
        said = conclude([row("plain", 20, [0.0]), row("plain", 110, [error]), *residual])
        assert said.startswith("Without shortcuts deeper is worse") == is_told
    noisy = [row("plain", 20, [0.0, 0.1, 0.2]), row("plain", 110, [0.0, 0.2, 0.4])]
    assert conclude(noisy + [row("residual", depth, [0.0] * 3) for depth in (20, 110)]).startswith("No degradation")


def test_one_depth_concludes_nothing():
    assert "Two depths" in conclude([row("plain", 20, [0.1])])


def test_every_run_has_one_recipe_and_its_own_seed():
    study = degradation(Choices("digits", kinds=tuple(KINDS)))
    configs = {name: job.config for name, job in study.jobs().items()}
    assert len(configs) == 3 * 3 * len(KINDS)
    assert next(iter(configs)).startswith("plain110")
    assert {config.train.seed for config in configs.values()} == {0, 1, 2}
    same = {
        config.model_copy(update={"model": None}).model_dump_json(exclude={"train": {"seed"}})
        for config in configs.values()
    }
    assert len(same) == 1
    assert configs["plain56-without-norm-seed0"].model.norm == "none"


def finish(folder: RunFolder, job: Training, *, error: float, status: str = "done", failure=None) -> None:
    """A run's folder as training leaves it, but for what no study reads."""
    config = job.config
    folder.root.mkdir(parents=True)
    folder.config.write_text(config.to_toml(), encoding="utf-8")
    record = RunRecord({"num_parameters": 1000}, {}, {}, [], {}, {}, config.train.seed, status, "", duration_s=12.0)
    if status == "done":
        record.last = Evaluation(0, {"train_error": error, "test_error": 2 * error})
    else:
        record.failure = failure or {"step": 7, "sentence": "The loss is NaN at step 7."}
    folder.run.write_text(record.to_json(), encoding="utf-8")
    folder.depth.write_text(encode({}), encoding="utf-8")


def test_rows_are_means_of_what_has_ended(tmp_path):
    configs = SMALL.jobs()
    for name, error in (("plain8-seed0", 0.1), ("plain8-seed1", 0.2)):
        finish(RunFolder(tmp_path / name), configs[name], error=error)
    finish(RunFolder(tmp_path / "resnet14-seed1"), configs["resnet14-seed1"], error=0, status="failed")
    rows = {row.name: row for row in SMALL.rows(tmp_path)}
    assert rows["plain8"].values["train_error"] == (0.1, 0.2)
    assert rows["plain8"].values["test_error"] == (0.2, 0.4)
    assert rows["plain8"].deviation("train_error") == pytest.approx(0.1 / math.sqrt(2))
    assert rows["resnet14"].failed == {"1": "The loss is NaN at step 7."}
    assert [rows[name].waiting for name in ("plain8", "plain14", "resnet8", "resnet14")] == [0, 2, 2, 1]
    assert "plain8-seed0" not in unfinished(configs, tmp_path)
    assert "resnet14-seed1" not in unfinished(configs, tmp_path)  # it would diverge again
    assert len(unfinished(configs, tmp_path)) == 5


def test_another_config_under_the_same_name_is_refused(tmp_path):
    configs = SMALL.jobs()
    finish(RunFolder(tmp_path / "plain8-seed0"), configs["plain8-seed0"], error=0.1)
    with pytest.raises(RequestError, match=r"train\.epochs was 1, now 3"):
        unfinished(degradation(Choices("digits", seeds=2, depths=(8, 14), epochs=3)).jobs(), tmp_path)


def test_names_tell_entries_and_seeds_apart():
    names = [run_name(entry, seed) for entry in degradation(Choices(kinds=tuple(KINDS))).entries for seed in (0, 1)]
    assert len(set(names)) == len(names)


def test_a_run_that_broke_off_goes_on_and_one_that_diverged_does_not(tmp_path):
    job = SMALL.jobs()["plain8-seed0"]
    finish(RunFolder(tmp_path / "full"), job, error=0, status="failed", failure={"what": "OSError: no space left"})
    finish(RunFolder(tmp_path / "wild"), job, error=0, status="failed")
    finish(RunFolder(tmp_path / "stopped"), job, error=0, status="interrupted")
    assert [job.status(tmp_path / name) for name in ("full", "wild", "stopped", "none")] == [
        "open",
        "failed",
        "open",
        "new",
    ]


@pytest.mark.parametrize(("workers", "expected"), [(1, 7.0), (2, 4.0), (3, 3.0)])
def test_runs_are_dealt_out_in_turn(workers, expected):
    assert makespan_s([3.0, 2.0, 2.0], workers=workers) == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no processes")
@dataclass(frozen=True)
class Minute:
    """A job that would take a minute."""

    wants_gpu: bool

    def expected_s(self) -> float:
        return 60.0


@pytest.mark.parametrize(
    ("has_gpu", "wants_gpu", "minutes", "where"),
    [(False, True, 2.0, "2 of this machine's cores"), (True, False, 2.0, "2 of"), (True, True, 4.0, "GPU")],
)
def test_runs_that_share_a_gpu_take_as_long_as_one_after_the_other(monkeypatch, has_gpu, wants_gpu, minutes, where):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    expected = estimate({name: Minute(wants_gpu) for name in "abcd"}, workers=2)
    assert expected.minutes == minutes
    assert where in expected.where


def test_each_process_has_cores_of_its_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})
    assert core_shares(2) == [{0, 2}, {1, 5}]
    assert core_shares(5) == [{0, 1, 2, 5}] * 5


def test_missing_data_is_told_before_anything_begins(tmp_path, capsys):
    assert main(["study", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "study")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"reslab: error: No mnist below {tmp_path}")
    assert "--download" in told
    assert not (tmp_path / "study").exists()


def test_what_several_runs_failed_of_is_told_once(tmp_path):
    jobs = dict.fromkeys(["a", "b", "c"], Training(next(iter(SMALL.jobs().values())).config))
    with pytest.raises(WorkFailed) as failed:
        check_reasons({"a": "no disk", "b": "", "c": "no disk"}, jobs, tmp_path, may_diverge=False)
    assert str(failed.value) == "2 of 3 runs failed. a, c: no disk"


@pytest.mark.slow
def test_a_run_that_diverges_is_a_row_and_one_that_fails_otherwise_an_error(tmp_path):
    config = override(
        next(iter(SMALL.jobs().values())).config,
        {"model.name": "plain8", "optim.lr": 1e12, "optim.clip_grad_norm": 0.0},
        where="the test",
    )
    entry = Entry("wild", {"depth": 8, "kind": "plain"}, Training(config))
    study = replace(SMALL, entries=(entry,), chosen=replace(SMALL.chosen, seeds=(0,)))
    for _ in run_grid(study.jobs(), tmp_path, resume=True):
        pass
    (found,) = study.rows(tmp_path)
    assert found.num_ended == 0
    assert found.failed["0"].startswith("Non-finite loss at step")
    assert "Verdict: " in found.failed["0"]
    assert unfinished(study.jobs(), tmp_path) == {}
    missing = override(config, {"data.name": str(tmp_path / "nowhere")}, where="the test")
    with pytest.raises(WorkFailed, match=r"1 of 1 runs failed\. lost: RequestError"):
        list(run_grid({"lost": Training(missing)}, tmp_path, resume=True))


@pytest.mark.slow
def test_a_study_runs_goes_on_where_it_was_and_is_only_read_when_done(tmp_path, capsys):
    out = tmp_path / "study"
    arguments = [
        "study",
        "degradation",
        "--depths",
        "8",
        "14",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--out",
        str(out),
        "--json",
    ]
    assert main([*arguments, "--dry-run"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 4
    assert not out.exists()
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in first["rows"]] == ["plain8", "plain14", "resnet8", "resnet14"]
    assert all(len(line["values"]["train_error"]) == 1 for line in first["rows"])
    assert first["conclusion"] in (out / "table.md").read_text(encoding="utf-8")
    assert read_study(out / "study.json").conclusion == first["conclusion"]
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main([one for one in arguments if one != "--json"]) == 0
    assert "4 runs, all done before." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    assert main([*arguments, "--epochs", "2"]) == 2
    assert "train.epochs was 1, now 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["degradatoin"], "Did you mean 'degradation'"),
        (["--preset", "digits"], "Name the study first"),
        (["degradation", "--preset", "big"], "digits, quick, paper"),
        (["degradation", "--depths", "21"], "6n+2"),
        (["degradation", "--kinds", "plan"], "Did you mean 'plain'"),
        (["degradation", "--seeds", "-1"], "seeds and epochs start at 1"),
        (["degradation", "--depths", "20", "20"], "named once"),
        (["identity", "--depths", "0"], "Depths start at 1"),
        (["scale", "--ray", "auto"], "of one machine"),
        (["degradation", "--ray", "auto", "--budget", "3"], "Leave one out"),
        (["recipe", "--epochs", "1"], "takes two at least"),
        (["degradation", "--budget", "-1"], "start at 0"),
    ],
)
def test_bad_requests_are_refused(arguments, message, capsys):
    assert main(["study", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_what_takes_too_long_is_refused_with_the_estimate(tmp_path, capsys):
    assert main(["study", "degradation", "--budget", "0.01", "--depths", "8", "14", "--out", str(tmp_path / "s")]) == 2
    told = capsys.readouterr().err
    assert "12 runs would take about" in told
    assert "more than --budget 0.01" in told


KILLED = """
import os, signal
from pathlib import Path
from reslab.studies.degradation import degradation
from reslab.studies.grid import run_grid
from reslab.studies.presets import Choices

out = Path({out!r})
study = degradation(Choices("digits", seeds=1, depths=(8, 14), kinds=("plain",), epochs=8))
for _ in run_grid(study.jobs(), out, workers=1, resume=True):
    if (out / "plain14-seed0" / "steps.jsonl").exists():
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_study_that_is_killed_leaves_no_process_behind_and_goes_on(tmp_path):
    """Two studies would write the same records otherwise."""
    code = KILLED.format(out=str(tmp_path))
    # its processes share its stdout, which is at its end only when the last of them is
    killed = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    folder = RunFolder(tmp_path / "plain14-seed0")
    assert folder.read_run().status == "interrupted"  # with a checkpoint
    assert list(folder.checkpoints.glob("step-*.pt"))
    assert not (tmp_path / "plain8-seed0").exists()  # the next one was not begun
    study = degradation(Choices("digits", seeds=1, depths=(8, 14), kinds=("plain",), epochs=8))
    assert set(unfinished(study.jobs(), tmp_path)) == {"plain14-seed0", "plain8-seed0"}
    for _ in run_grid(study.jobs(), tmp_path, resume=True):
        pass
    assert unfinished(study.jobs(), tmp_path) == {}


def test_progress_tells_how_far_the_runs_are_that_have_begun(tmp_path):
    jobs = SMALL.jobs()
    finish(RunFolder(tmp_path / "plain8-seed0"), jobs["plain8-seed0"], error=0.1)
    finish(RunFolder(tmp_path / "plain8-seed1"), jobs["plain8-seed1"], error=0.1, status="interrupted")
    waiting = unfinished(jobs, tmp_path)
    assert progress_text(waiting, tmp_path, num_runs=8) == "1 of 8 runs done; plain8-seed1 epoch 1 of 1"
    assert progress_text({}, tmp_path, num_runs=8) == "8 of 8 runs done"


def test_a_measure_that_is_not_finite_is_told_and_stops_nothing(tmp_path):
    half = MeasureRecord("end_half", "half distance, end", "distance")
    rows = (StudyRow("a", {"depth": 8}, {"end_half": (math.inf, math.inf)}, {}, 0),)
    rows += (StudyRow("b", {"depth": 14}, {"end_half": (math.nan, 0.1)}, {}, 0),)
    assert [measure_text(half, row) for row in rows] == ["never", ""]
    record = replace(SMALL.record(tmp_path), rows=rows, measures=(half,))
    (tmp_path / "study.json").write_text(record.to_json(), encoding="utf-8")
    assert read_study(tmp_path / "study.json").rows[0] == rows[0]
    newer = record.to_json().replace('"schema_version": 1', '"schema_version": 99')
    (tmp_path / "study.json").write_text(newer, encoding="utf-8")
    with pytest.raises(RequestError, match="of a newer reslab"):
        read_study(tmp_path / "study.json")


def test_other_choices_have_another_name_and_folder():
    names = [
        degradation(Choices("digits", **choices)).name
        for choices in ({}, {"seeds": 1}, {"depths": (8, 14)}, {"kinds": ("plain",)}, {"epochs": 3})
    ]
    assert names[:2] == ["degradation-digits"] * 2  # more seeds of the same
    assert len(set(names)) == 4


def test_ctrl_c_says_what_is_to_come_and_that_it_goes_on(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("reslab.cli.study.follow", interrupted)
    arguments = ["study", "degradation", "--seeds", "1", "--depths", "8", "14", "--out", str(tmp_path / "study")]
    assert main([*arguments, "--json"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted, with 4 of 4 runs to come." in err
    assert "the same command goes on" in json.loads(out)["error"]


def test_once_a_study_is_told_to_stop_its_processes_begin_no_other_job(monkeypatch, tmp_path):
    job, stop = SMALL.jobs()["plain8-seed0"], threading.Event()
    monkeypatch.setattr(grid, "STOPS", [stop])
    stop.set()
    assert grid.perform(job, tmp_path / "a", True) == "interrupted"
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_run_that_diverges_before_its_first_reading_is_a_row_too(tmp_path):
    job = SMALL.jobs()["plain8-seed0"]
    wild = {"optim.lr": 1e12, "optim.clip_grad_norm": 0.0, "train.probe": False}
    job = replace(job, config=override(job.config, wild, where="the test"))
    assert job.run(tmp_path / "wild", resume=True).startswith("NonFiniteError")
    assert job.status(tmp_path / "wild") == "failed"
    assert job.failure(tmp_path / "wild").startswith("Non-finite loss")
