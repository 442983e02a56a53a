from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.report.page_reader import PageReader

from reslab.errors import RequestError
from reslab.records import Evaluation
from reslab.report.curves import learning_curves
from reslab.report.flow import gradient_flow
from reslab.report.page import write_page
from reslab.report.tables import result_rows

MEGABYTE = 1_000_000  # of which the library that draws takes 900,000
LINES = "#curves svg g.mark-line path"
FADED = f"{LINES}[opacity='0.1']"


def test_page_of_six_twins(twins, tmp_path):
    path = write_page(twins, tmp_path / "page.html", title="Does depth help?", lead="Only with shortcuts.")
    page = PageReader(path)
    assert path.stat().st_size < MEGABYTE
    assert page.loaded == []
    assert set(page.specs) == {"curves", "flow"}
    for expected in ("Does depth help?", "Only with shortcuts.", "9.67 %", "9.51 %", "0.51 %", "269,722", "1 min 23 s"):
        assert expected in page.text
    for expected in (
        "lowest validation error",
        "validation split of 20 %",
        "sha256:0f3a9c",
        "x86-64",
        "2.11.0",
        "1,078",
    ):
        assert expected in page.text


def test_the_page_carries_the_charts_whole(twins, tmp_path):
    page = PageReader(write_page(twins, tmp_path / "page.html", title="t"))
    for key, chart in (("curves", learning_curves(twins)), ("flow", gradient_flow(twins))):
        assert list(page.specs[key]["datasets"].values()) == list(chart.to_dict()["datasets"].values())
        assert page.specs[key]["description"] in page.text


def test_page_of_one_run_has_its_steps(make_run, tmp_path):
    page = PageReader(write_page([make_run("resnet20")], tmp_path / "page.html", title="resnet20"))
    assert set(page.specs) == {"curves", "flow", "steps"}
    assert "The loss goes from" in page.text


def test_names_are_words_not_tags(make_run, tmp_path):
    evil = "</script><script>alert(1)</script>"
    run = make_run("run", model="net & <i>", deviations=[evil], data={"name": evil})
    run.root.rename(run.root.with_name("a<b>c"))
    moved = type(run)(run.root.with_name("a<b>c"))
    path = write_page([moved], tmp_path / "page.html", title="<b>x", lead="1 < 2 & 3")
    page = PageReader(path)
    assert "<b>x" in page.text
    assert "1 < 2 & 3" in page.text
    assert evil in page.text
    assert page.tags.count("script") == 3
    assert "b" not in page.tags
    assert "i" not in page.tags
    assert any(row.get("run") == "a<b>c" for rows in page.specs["curves"]["datasets"].values() for row in rows)


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_a_run_that_is_not_done_says_so_first(make_run, tmp_path, status):
    failure = {"reason": "loss is NaN", "step": 1211} if status == "failed" else None
    run = make_run("resnet20", status=status, failure=failure, last=None, best=None, epochs=3)
    path = write_page([run], tmp_path / "page.html", title="t")
    page = PageReader(path)
    assert f'class="notice {status}"' in path.read_text(encoding="utf-8")
    assert "3 epochs finished" in page.text
    assert page.text.index(status.capitalize()) < page.text.index("Results")
    if failure:
        assert "loss is NaN" in page.text
        assert "1,211" in page.text


def test_a_run_that_is_done_has_no_notice(make_run, tmp_path):
    assert 'class="notice' not in write_page([make_run("r")], tmp_path / "p.html", title="t").read_text(
        encoding="utf-8"
    )


def test_a_run_with_nothing_but_run_json(make_run, tmp_path):
    run = make_run("resnet20", status="running", last=None, best=None, model="resnet20")
    for path in (run.steps, run.epochs, run.readings):
        path.unlink()
    page = PageReader(write_page([run], tmp_path / "page.html", title="t"))
    assert page.specs == {}
    for reason in ("No epoch was finished", "No gradient was recorded", "No step was taken"):
        assert reason in page.text


def test_empty_dicts_in_run_json(make_run, tmp_path):
    run = make_run("r", data={}, protocol={}, machine={}, versions={}, deviations=[])
    record = run.read_run()
    record.model = {}
    run.run.write_text(record.to_json(), encoding="utf-8")
    page = PageReader(write_page([run], tmp_path / "page.html", title="t"))
    assert "Deviations" not in page.text
    assert "Not recorded." in page.text


def test_no_validation_split(make_run, tmp_path):
    run = make_run(
        "resnet20",
        val=False,
        best=None,
        last=Evaluation(29, {"train_loss": 0.1, "train_error": 0.02, "test_loss": 0.2, "test_error": 0.0712}),
    )
    assert "7.12 %" in PageReader(write_page([run], tmp_path / "page.html", title="t")).text


def test_runs_that_differ_get_a_column_each(make_run, tmp_path):
    runs = [make_run(name, model="resnet20", seed=seed) for name, seed in (("one", 11), ("two", 12))]
    page = PageReader(write_page(runs, tmp_path / "page.html", title="t"))
    assert re.search(r"seed\s+11\s+12", page.text)
    assert page.text.count("read once, at the end") == 1
    assert page.text.count("validation split of 20 %") == 1
    assert "All runs" not in page.text


def test_long_runs_stay_small(make_run, tmp_path):
    losses = [1 + 1 / (1 + step) for step in range(20_000)]
    path = write_page([make_run("resnet20", epochs=400, losses=losses)], tmp_path / "page.html", title="t")
    assert path.stat().st_size < MEGABYTE
    assert "120 of 20,000 rows" in PageReader(path).text


def test_result_rows(make_run):
    done, running = make_run("resnet20"), make_run("plain20", status="running", last=None, best=None)
    rows = result_rows([done, running])
    assert rows[0] == {
        "run": "resnet20",
        "model": "resnet20",
        "num_parameters": 269_722,
        "train_error": 0.0051,
        "val_error": 0.0912,
        "test_error": 0.0967,
        "best_train_error": 0.0072,
        "best_val_error": 0.0883,
        "best_test_error": 0.0951,
        "best_epoch": 25,
        "duration_s": 83.4,
        "status": "done",
    }
    assert rows[1].keys() == rows[0].keys()
    assert rows[1]["test_error"] is None


def test_no_run_is_a_request_error(tmp_path):
    with pytest.raises(RequestError, match="at least one run"):
        write_page([], tmp_path / "page.html", title="t")


def test_the_room_never_sees_torch():
    code = "import sys, reslab.report.page; sys.exit(any(name in sys.modules for name in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_offline(twins, browse, tmp_path, width, scheme):
    path = write_page(twins, tmp_path / "page.html", title="Does depth help?", lead="Only with shortcuts.")
    page = browse(path, width=width, scheme=scheme)
    for key, num_panels in (("curves", 2), ("flow", 3)):
        assert page.locator(f"#{key} svg g.mark-line.role-mark").count() >= num_panels
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(LINES).count() == 12
    assert page.locator(FADED).count() == 0
    page.locator("#curves svg .role-legend-label text", has_text="plain20").click(force=True)
    page.locator(FADED).first.wait_for(state="attached")
    assert page.locator(LINES).count() - page.locator(FADED).count() == 2  # training and validation of plain20
