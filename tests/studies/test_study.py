"""Studies: what is left to run, how runs are shared out, what becomes of those that fail, and the command itself."""

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
from reslab.records import Evaluation, RunFolder, RunRecord
from reslab.records.files import encode
from reslab.records.study import MeasureRecord, StudyRow, read_study
from reslab.report.study_table import markdown_of, measure_text
from reslab.run.config import override
from reslab.studies import StudySpec, create_study, execution, run_locally
from reslab.studies.execution import check_reasons, core_shares, estimate, makespan_s
from reslab.studies.runs import TrainingRun
from reslab.studies.study import Setting, run_name, unfinished

SMALL = create_study(StudySpec("degradation", seeds=2, depths=(8, 14), epochs=1))
RUN = SMALL.runs()["plain8-seed0"]
WILD = {"model.name": "plain8", "optim.lr": 1e12, "optim.clip_grad_norm": 0.0}
"""A recipe that diverges."""


def leave(folder: RunFolder, run: TrainingRun, *, error: float = 0.0, status: str = "done", failure=None) -> None:
    """Write what training leaves of what a study reads."""
    folder.root.mkdir(parents=True)
    folder.config.write_text(run.config.to_toml(), encoding="utf-8")
    record = RunRecord({"num_parameters": 1000}, {}, {}, [], {}, {}, run.config.train.seed, status, "", duration_s=12.0)
    if status == "done":
        record.last = Evaluation(0, {"train_error": error, "test_error": 2 * error})
    else:
        record.failure = failure or {"step": 7, "sentence": "The loss is NaN at step 7."}
    folder.run.write_text(record.to_json(), encoding="utf-8")
    folder.depth.write_text(encode({}), encoding="utf-8")


# ---- what there is in the folder


def test_rows_are_means_of_what_has_ended(tmp_path):
    runs = SMALL.runs()
    for name, error in (("plain8-seed0", 0.1), ("plain8-seed1", 0.2)):
        leave(RunFolder(tmp_path / name), runs[name], error=error)
    leave(RunFolder(tmp_path / "resnet14-seed1"), runs["resnet14-seed1"], status="failed")
    rows = {row.name: row for row in SMALL.record(tmp_path).rows}
    assert rows["plain8"].values["train_error"] == (0.1, 0.2)
    assert rows["plain8"].values["test_error"] == (0.2, 0.4)
    assert rows["plain8"].deviation("train_error") == pytest.approx(0.1 / math.sqrt(2))
    assert rows["resnet14"].failed == {"1": "The loss is NaN at step 7."}
    assert [rows[name].waiting for name in ("plain8", "plain14", "resnet8", "resnet14")] == [0, 2, 2, 1]
    left = unfinished(runs, tmp_path)
    assert len(left) == 5
    assert not {"plain8-seed0", "resnet14-seed1"} & set(left)  # it would diverge again


def test_another_config_under_the_same_name_is_refused(tmp_path):
    leave(RunFolder(tmp_path / "plain8-seed0"), RUN)
    longer = create_study(StudySpec("degradation", seeds=2, depths=(8, 14), epochs=3))
    with pytest.raises(RequestError, match=r"train\.epochs was 1, now 3"):
        unfinished(longer.runs(), tmp_path)


def test_a_run_that_broke_off_is_open_and_one_that_diverged_has_failed(tmp_path):
    leave(RunFolder(tmp_path / "full"), RUN, status="failed", failure={"what": "OSError: no space left"})
    leave(RunFolder(tmp_path / "wild"), RUN, status="failed")
    leave(RunFolder(tmp_path / "stopped"), RUN, status="interrupted")
    found = [RUN.read(tmp_path / name).status for name in ("full", "wild", "stopped", "none")]
    assert found == ["open", "failed", "open", "new"]


def test_progress_names_the_runs_that_have_begun(tmp_path):
    runs = SMALL.runs()
    leave(RunFolder(tmp_path / "plain8-seed0"), RUN)
    leave(RunFolder(tmp_path / "plain8-seed1"), runs["plain8-seed1"], status="interrupted")
    left = unfinished(runs, tmp_path)
    assert progress_text(left, tmp_path, num_runs=8) == "1 of 8 runs done; plain8-seed1 epoch 1 of 1"
    assert progress_text({}, tmp_path, num_runs=8) == "8 of 8 runs done"


def test_a_measure_that_is_not_finite_is_written_and_read(tmp_path):
    half = MeasureRecord("end_half", "half distance, end", "distance")
    rows = (
        StudyRow("a", {"depth": 8}, {"end_half": (math.inf, math.inf)}, {}, 0),
        StudyRow("b", {"depth": 14}, {"end_half": (math.nan, 0.1)}, {"1": "NaN"}, 0),
    )
    assert [measure_text(half, row) for row in rows] == ["never", ""]
    record, path = replace(SMALL.record(tmp_path), rows=rows, measures=(half,)), tmp_path / "study.json"
    assert "| 14 | 2, 1 diverged |" in markdown_of(record)
    path.write_text(record.to_json(), encoding="utf-8")
    assert read_study(path).rows[0] == rows[0]
    path.write_text(record.to_json().replace('"schema_version": 1', '"schema_version": 99'), encoding="utf-8")
    with pytest.raises(RequestError, match="from a newer reslab"):
        read_study(path)


WITHOUT_TORCH = """
import sys

class NoTorch:  # not None in sys.modules: tyro would import what is named there
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was imported")

sys.meta_path.insert(0, NoTorch())
from reslab.cli.main import main
from reslab.studies import STUDIES, StudySpec, create_study
for name in STUDIES:
    create_study(StudySpec(name))
sys.exit(main(sys.argv[1:]))
"""


def test_a_finished_study_is_read_without_torch(tmp_path):
    for name, run in SMALL.runs().items():
        leave(RunFolder(tmp_path / name), run, error=0.1)
    text = SMALL.record(tmp_path).to_json()
    for name in ("index.html", "table.md", "study.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    arguments = SMALL.command.split()[1:]
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments, "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["conclusion"] == read_study(tmp_path / "study.json").conclusion
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == text, "a finished study is not written again"


# ---- how runs are shared out


@pytest.mark.parametrize(("workers", "expected"), [(1, 7.0), (2, 4.0), (3, 3.0)])
def test_makespan_gives_each_run_to_the_first_free_worker(workers, expected):
    assert makespan_s([3.0, 2.0, 2.0], workers=workers) == expected


@dataclass(frozen=True)
class Minute:
    """A run that would take a minute."""

    uses_gpu: bool

    def expected_s(self) -> float:
        return 60.0


@pytest.mark.parametrize(
    ("has_gpu", "uses_gpu", "minutes", "where"),
    [(False, True, 2.0, "2 of this machine's cores"), (True, False, 2.0, "2 of"), (True, True, 4.0, "GPU")],
)
def test_runs_that_share_a_gpu_take_as_long_as_one_after_the_other(monkeypatch, has_gpu, uses_gpu, minutes, where):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    expected = estimate({name: Minute(uses_gpu) for name in "abcd"}, workers=2)
    assert expected.minutes == minutes
    assert where in expected.where


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no processes")
def test_each_process_has_cores_of_its_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})
    assert core_shares(2) == [{0, 2}, {1, 5}]
    assert core_shares(5) == [{0, 1, 2, 5}] * 5


def test_a_stopped_study_begins_no_other_run(monkeypatch, tmp_path):
    stop = threading.Event()
    monkeypatch.setattr(execution, "STOPS", [stop])
    stop.set()
    assert execution.execute(RUN, tmp_path / "a", True) == "interrupted"
    assert not (tmp_path / "a").exists()


# ---- runs that fail


def test_equal_reasons_are_told_once(tmp_path):
    runs = dict.fromkeys(["a", "b", "c"], RUN)
    with pytest.raises(WorkFailed) as failed:
        check_reasons({"a": "no disk", "b": "", "c": "no disk"}, runs, tmp_path, may_diverge=False)
    assert str(failed.value) == "2 of 3 runs failed. a, c: no disk"


def test_missing_data_is_refused_before_anything_begins(tmp_path, capsys):
    assert main(["study", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "study")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"reslab: error: No mnist below {tmp_path}")
    assert "--download" in error
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_run_that_diverges_is_a_row_and_one_that_fails_otherwise_an_error(tmp_path):
    wild = TrainingRun(override(RUN.config, WILD, where="the test"))
    lost = TrainingRun(override(wild.config, {"data.name": str(tmp_path / "nowhere")}, where="the test"))
    runs = {"wild-seed0": wild, "lost": lost}
    with pytest.raises(WorkFailed, match=r"1 of 2 runs failed\. lost: RequestError"):
        list(run_locally(runs, tmp_path, workers=1, resume=True))
    study = replace(SMALL, settings=(Setting("wild", {"depth": 8, "kind": "plain"}, wild),), seeds=(0,))
    (row,) = study.record(tmp_path).rows
    assert row.num_ended == 0
    assert row.failed["0"].startswith("Non-finite loss at step")
    assert "Verdict: " in row.failed["0"]
    assert unfinished(study.runs(), tmp_path) == {}


@pytest.mark.slow
def test_a_run_that_diverges_before_its_first_reading_is_a_row_too(tmp_path):
    run = replace(RUN, config=override(RUN.config, WILD | {"train.probe": False}, where="the test"))
    assert run.execute(tmp_path / "wild", resume=True).startswith("NonFiniteError")
    state = run.read(tmp_path / "wild")
    assert state.status == "failed"
    assert state.detail.startswith("Non-finite loss")


def test_ctrl_c_says_what_is_left_and_how_to_continue(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("reslab.cli.study.run_locally", interrupted)
    arguments = ["study", "degradation", "--seeds", "1", "--depths", "8", "14", "--out", str(tmp_path / "study")]
    assert main([*arguments, "--json"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted, with 4 of 4 runs to come." in err
    assert "run the same command again to continue" in json.loads(out)["error"]


KILLED = """
import os, signal
from pathlib import Path
from reslab.studies import StudySpec, create_study, run_locally

out = Path({out!r})
study = create_study(StudySpec("degradation", seeds=1, depths=(8, 14), kinds=("plain",), epochs=8))
for _ in run_locally(study.runs(), out, workers=1, resume=True):
    if (out / "plain14-seed0" / "steps.jsonl").exists():
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_study_leaves_no_process_behind_and_resumes(tmp_path):
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
    runs = create_study(StudySpec("degradation", seeds=1, depths=(8, 14), kinds=("plain",), epochs=8)).runs()
    assert set(unfinished(runs, tmp_path)) == {"plain14-seed0", "plain8-seed0"}
    name = run_name(SMALL.settings[1], 0)
    assert runs[name].execute(tmp_path / name, resume=True) == ""
    assert set(unfinished(runs, tmp_path)) == {"plain8-seed0"}


# ---- the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of four short runs: its arguments, its folder, and what it printed as JSON."""
    out = tmp_path_factory.mktemp("finished") / "study"
    arguments = ["study", "degradation", "--depths", "8", "14", "--epochs", "1", "--seeds", "1", "--out", str(out)]
    command = [sys.executable, "-m", "reslab", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return arguments, out, json.loads(done.stdout)


@pytest.mark.slow
def test_a_study_leaves_record_table_and_page(finished):
    _, out, printed = finished
    assert [row["name"] for row in printed["rows"]] == ["plain8", "plain14", "resnet8", "resnet14"]
    assert all(len(row["values"]["train_error"]) == 1 for row in printed["rows"])
    assert all(row["values"]["end_growth"][0] > 0 for row in printed["rows"])
    assert printed["conclusion"] in (out / "table.md").read_text(encoding="utf-8")
    assert read_study(out / "study.json").conclusion == printed["conclusion"]
    assert (out / "index.html").stat().st_size > 100_000
    assert (out / "means.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_finished_study_is_only_read(finished, capsys):
    arguments, out, printed = finished
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == printed
    assert main(arguments) == 0
    assert "4 runs were all done before." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.slow
def test_a_finished_study_refuses_another_config(finished, capsys):
    arguments, _, _ = finished
    assert main([*arguments, "--json", "--epochs", "2"]) == 2
    assert "train.epochs was 1, now 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_and_a_budget_estimate_and_begin_nothing(tmp_path, capsys):
    arguments = ["study", "degradation", "--depths", "8", "--out", str(tmp_path / "s")]
    assert main([*arguments, "--seeds", "1", "--json", "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["runs"]) == ["plain8-seed0", "resnet8-seed0"]
    assert printed["minutes"] > 0
    assert main([*arguments, "--budget", "0.01"]) == 2
    error = capsys.readouterr().err
    assert "6 runs would take about" in error
    assert "more than --budget 0.01" in error
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_recipe_measures_time_and_memory_of_each_part(tmp_path):
    spec = StudySpec("recipe", depths=(8,), epochs=2, seeds=1, kinds=("none", "mixed precision"))
    found = {}
    for name, run in create_study(spec).runs().items():
        assert run.execute(tmp_path / name, resume=True) == ""
        found[name] = run.read(tmp_path / name).values
    bare, mixed = found["resnet8-none-seed0"], found["resnet8-mixed-precision-seed0"]
    assert 0.4 < mixed["kept_mib"] / bare["kept_mib"] < 0.8
    assert bare["step_ratio"] == 1.0
    assert mixed["step_ratio"] > 0
