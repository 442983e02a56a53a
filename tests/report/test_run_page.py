"""The page of runs: what it says, what it carries, and how it opens."""

from __future__ import annotations

import json
import re

import pytest
from tests.report.page_reader import PageReader

from reslab.errors import RequestError
from reslab.records import Evaluation, Score
from reslab.records.training import ERROR
from reslab.report import gradient_flow, learning_curves, result_rows, write_run_page
from reslab.report.run_page import MAX_COLUMNS, about_sections, run_lead

HALF_A_MEGABYTE = 500_000  # of which the library that draws takes 400,000
LINES = "#curves svg g.mark-line path"
FADED = f"{LINES}[opacity='0.1']"
DICE, BLEU = Score("dice", better="higher"), Score("bleu", "higher", "number")
SHARED = ["validation split of 20 %", "batch size 64 instead of 128"]


def sections_of(runs):
    return {section.title: section.content for section in about_sections(runs, [run.read_run() for run in runs])}


def test_the_page_of_six_twins_has_facts_charts_and_numbers_whole(twins, tmp_path):
    path = write_run_page(twins, tmp_path / "page.html", title="Does depth help?", lead="Only with shortcuts.")
    page = PageReader(path)
    assert path.stat().st_size < HALF_A_MEGABYTE
    assert page.loaded == []
    assert set(page.specs) == {"curves", "flow"}
    told = ("Does depth help?", "Only with shortcuts.", "9.67 %", "9.51 %", "0.51 %", "269,722", "1 min 23 s")
    facts = ("lowest validation error", "validation split of 20 %", "sha256:0f3a9c", "x86-64", "2.11.0", "1,078")
    for words in told + facts:
        assert words in page.text
    for figure in (learning_curves(twins), gradient_flow(twins)):
        assert page.specs[figure.key] == json.loads(json.dumps(figure.spec))
        assert len(page.rows[figure.key]) == len(figure.rows)
        assert page.specs[figure.key]["description"] in page.text


def test_page_of_one_run_has_its_steps_and_settings(make_run, tmp_path):
    run = make_run("resnet20")
    run.config.write_text('[optim]\nlr = 0.1\nkind = "sgd"\nnesterov = false\n[train]\nepochs = 30\nsteps = 0\n')
    page = PageReader(write_run_page([run], tmp_path / "page.html", title="resnet20"))
    assert set(page.specs) == {"curves", "flow", "steps"}
    assert "The loss goes from" in page.text
    assert "train.epochs 30 optim.kind sgd optim.lr 0.1" in page.text
    assert "nesterov" not in page.text  # what is off is left out


def test_names_are_words_not_tags(make_run, tmp_path):
    evil = "</script><script>alert(1)</script>"
    run = make_run("run", model="net & <i>", deviations=[evil], data={"name": evil})
    run.root.rename(run.root.with_name("a<b>c"))
    moved = type(run)(run.root.with_name("a<b>c"))
    page = PageReader(write_run_page([moved], tmp_path / "page.html", title="<b>x", lead="1 < 2 & 3"))
    for words in ("<b>x", "1 < 2 & 3", evil):
        assert words in page.text
    assert page.tags.count("script") == 4
    assert not {"b", "i"} & set(page.tags)
    assert any(row["run"] == "a<b>c" for row in page.rows["curves"])


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "done"])
def test_a_run_that_is_not_done_says_so_first(make_run, tmp_path, status):
    failure = {"reason": "loss is NaN", "step": 1211} if status == "failed" else None
    run = make_run("resnet20", status=status, failure=failure, last=None, best=None, epochs=3)
    page = PageReader(write_run_page([run], tmp_path / "page.html", title="t"))
    assert (f'class="notice {status}"' in page.html) == (status != "done")
    if status != "done":
        assert "3 epochs finished" in page.text
        assert page.text.index(status.capitalize()) < page.text.index("Learning curves")
    if failure:
        assert "loss is NaN" in page.text
        assert "1,211" in page.text


def test_a_run_with_nothing_but_run_json(make_run, tmp_path):
    run = make_run("resnet20", status="running", last=None, best=None, data={}, protocol={}, machine={}, versions={})
    for path in (run.steps, run.epochs, run.readings):
        path.unlink()
    record = run.read_run()
    record.model, record.deviations = {}, []
    run.run.write_text(record.to_json(), encoding="utf-8")
    page = PageReader(write_run_page([run], tmp_path / "page.html", title="t"))
    assert page.specs == {}
    for words in ("No epoch was finished", "No gradient was recorded", "No step was taken", "Not recorded."):
        assert words in page.text
    assert "Deviations" not in page.text


def test_runs_that_differ_get_a_column_each(make_run, tmp_path):
    runs = [make_run(name, model="resnet20", seed=seed) for name, seed in (("one", 11), ("two", 12))]
    page = PageReader(write_run_page(runs, tmp_path / "page.html", title="t"))
    assert re.search(r"seed\s+11\s+12", page.text)
    assert page.text.count("read once, at the end") == 1
    assert page.text.count("validation split of 20 %") == 1


def test_facts_of_many_runs_are_listed_and_what_is_not_known_of_any_is_left_out(make_run):
    unknown = {"path": "", "augment": "auto"}
    runs = [make_run(f"run{seed}", model="resnet20", seed=seed % 7, data=unknown) for seed in range(9)]
    few = {row[0]: row[1:] for row in sections_of(runs[:MAX_COLUMNS])["Protocol"][0].rows}
    assert few["test set"] == ["read once, at the end"]
    assert few["seed"] == ["0", "1", "2", "3", "4", "5"]
    assert {row[0]: row[1:] for row in sections_of(runs)["Protocol"][0].rows}["seed"] == ["0, 1, 2, 3, 4, 5, 6"]
    assert sections_of(runs)["Data"][0].rows == []


def test_deviations_stand_once_under_the_runs_that_have_them(make_run):
    runs = [make_run("one"), make_run("two", deviations=[*SHARED, "other"]), make_run("three", deviations=["other"])]
    title = "Deviations from the paper"
    assert sections_of(runs)[title] == [("one, two", SHARED), ("two, three", ["other"])]
    assert sections_of(runs[:1])[title] == [("", SHARED)]
    assert title not in sections_of([make_run("four", deviations=[])])


def test_long_runs_stay_small(make_run, tmp_path):
    losses = [1 + 1 / (1 + step) for step in range(20_000)]
    path = write_run_page([make_run("resnet20", epochs=400, losses=losses)], tmp_path / "page.html", title="t")
    assert path.stat().st_size < 2 * HALF_A_MEGABYTE
    assert len(PageReader(path).rows["steps"]) == 20_000


@pytest.mark.parametrize(
    ("score", "cell"),
    [(ERROR, "9.67 %"), (DICE, "9.67 %"), (BLEU, "0.0967")],
)
def test_results_are_read_by_the_name_of_the_score(make_run, tmp_path, score, cell):
    def scored(epoch, **values):
        return Evaluation(epoch, {f"{split}_{score.name}": value for split, value in values.items()})

    last, best = scored(29, train=0.0051, val=0.0912, test=0.0967), scored(24, train=0.0072, val=0.0883, test=0.0951)
    done = make_run("resnet20", score=score, last=last, best=best)
    running = make_run("plain20", status="running", score=score, last=None, best=None)
    rows = result_rows([done, running])
    name = score.name
    assert rows[0] == {
        "run": "resnet20",
        "model": "resnet20",
        "num_parameters": 269_722,
        f"train_{name}": 0.0051,
        f"val_{name}": 0.0912,
        f"test_{name}": 0.0967,
        f"best_train_{name}": 0.0072,
        f"best_val_{name}": 0.0883,
        f"best_test_{name}": 0.0951,
        "best_epoch": 25,
        "duration_s": 83.4,
        "status": "done",
    }
    assert rows[1].keys() == rows[0].keys()
    assert rows[1][f"test_{name}"] is None
    page = PageReader(write_run_page([done, running], tmp_path / "page.html", title="t"))
    for words in (f"{name} of the last weights", cell, f"{name} ({score.better} is better)"):
        assert words in page.text
    lead = run_lead(done.read_run())
    assert lead.startswith(f"resnet20 on digits ends with {score.format(0.0072)} clean training {name}, ")
    assert lead.endswith(f"{score.format(0.0951)} test {name} (best weights, epoch 25).")


def test_no_run_is_a_request_error(tmp_path):
    with pytest.raises(RequestError, match="at least one run"):
        write_run_page([], tmp_path / "page.html", title="t")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_offline(twins, browse, tmp_path, width, scheme):
    page = browse(write_run_page(twins, tmp_path / "page.html", title="Does depth help?"), width=width, scheme=scheme)
    for key, num_panels in (("curves", 2), ("flow", 3)):
        assert page.locator(f"#{key} svg g.mark-line.role-mark").count() >= num_panels
    ground = "getComputedStyle(document.querySelector('#curves svg.marks')).backgroundColor"
    assert page.evaluate(ground) == ("rgb(32, 32, 36)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(LINES).count() == 12
    assert page.locator(FADED).count() == 0
    page.locator("#curves svg .role-legend-label text", has_text="plain20").click(force=True)
    page.locator(FADED).first.wait_for(state="attached")
    assert page.locator(LINES).count() - page.locator(FADED).count() == 2  # training and validation of plain20


@pytest.mark.slow
def test_the_mouse_tells_of_all_runs_and_the_numbers_unfold(twins, browse, tmp_path):
    page = browse(write_run_page(twins, tmp_path / "page.html", title="t"))
    box = page.locator("#curves svg g.mark-line.role-mark").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#vg-tooltip-element.visible")
    told = page.locator("#vg-tooltip-element").inner_text()
    for name in ("plain20, validation", "plain110, training (as it ran)", "epoch"):
        assert name in told
    page.locator("[data-numbers=curves] summary").click()
    assert page.locator("[data-numbers=curves] tbody tr").count() == 200
    assert "200 of 360 rows" in page.locator("[data-numbers=curves]").inner_text()
    page.locator("nav a", has_text="Machine").click()
    assert page.url.endswith("#about-machine")
