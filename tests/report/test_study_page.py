"""The page of a study and its charts: from records, readable, honest about zeros and what is missing."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
from tests.report.page_reader import PageReader, find_all, rows_of, scales_of

from reslab.records import RunFolder, StudyRecord
from reslab.records.depth import DepthRecord, PathRecord, ShatteringRecord
from reslab.records.files import encode
from reslab.records.study import MeasureRecord, StudyRow
from reslab.report import study_means, write_study_page
from reslab.report._depth import shattering_of_runs
from reslab.report._style import RAMPS
from reslab.report.study_page import MAX_RUNS
from reslab.report.study_table import brief, cells_of, columns_of, markdown_of

TRAIN = MeasureRecord("train_error", "clean training error", "percent", charted=True)
TEST = MeasureRecord("test_error", "test error", "percent", charted=True)
HALF = MeasureRecord("start_half", "half distance, start", "distance", is_brief=False)


def study(rows: list[StudyRow], *measures: MeasureRecord) -> StudyRecord:
    """Of two seeds."""
    return StudyRecord(
        name="degradation-digits",
        title="Does depth help?",
        question="Do deeper networks fit better?",
        protocol=("One recipe.",),
        command="reslab study degradation --preset digits --seeds 2",
        seeds=(0, 1),
        measures=measures or (TRAIN, TEST, HALF),
        rows=tuple(rows),
        conclusion="Without shortcuts deeper is worse.",
        machine={"processor": "A processor", "cores": 2},
        versions={"torch": "2.11.0"},
    )


def degradation() -> StudyRecord:
    """Two depths of two kinds, one of them with a run that diverged."""
    rows = [
        StudyRow(
            f"{kind}{depth}",
            {"depth": depth, "kind": kind},
            {
                "train_error": (error, error + 0.02),
                "test_error": (error + 0.01, error + 0.05),
                "start_half": (1e-4, 2e-4),
            },
            {},
            0,
        )
        for kind in ("plain", "residual")
        for depth, error in ((20, 0.01), (56, 0.4 if kind == "plain" else 0.0))
    ]
    rows[1] = replace(rows[1], failed={"1": "Non-finite loss at step 7."}, waiting=1)
    return study(rows)


def add_depth(folder: RunFolder, *, half: float) -> None:
    """depth.json as a study leaves it."""
    distances = (0.001, 0.01, 0.1, 1.0)
    record = DepthRecord(
        paths=PathRecord((0.5, 0.5), 0.5, 0, 1, 0.5, 0.0, 8),
        shattering=ShatteringRecord(distances, (0.9, 0.6, 0.3, 0.0), half, 8),
    )
    folder.depth.write_text(encode({"start": asdict(record), "end": asdict(record)}), encoding="utf-8")


def test_the_table_has_means_spread_and_what_became_of_the_runs():
    record = degradation()
    assert columns_of(brief(record)) == ["depth", "kind", "n", "clean training error", "test error"]
    plus = "\N{PLUS-MINUS SIGN}"
    assert cells_of(record.rows[1], brief(record)) == [
        "56",
        "plain",
        "2, 1 diverged, 1 to come",
        f"41.00 % {plus} 1.41",
        f"43.00 % {plus} 2.83",
    ]
    assert "half distance, start" in markdown_of(record)
    assert "1.5e-04" in markdown_of(record)


def test_means_are_drawn_against_depth_on_one_axis_for_both_errors():
    figure = study_means(degradation())
    assert len(figure.spec["concat"]) == 2
    assert {tuple(scale["domain"]) for scale in scales_of(figure.spec, "y")} == {(0, 50)}
    assert len(figure.rows) == 16  # a ring for each seed
    assert figure.caption == (
        "Clean training error: from 1.00 % (56, residual) to 41.00 % (56, plain)."
        " Test error: from 3.00 % (56, residual) to 43.00 % (56, plain)."
    )
    colours = scales_of(figure.spec, "color")[0]
    assert dict(zip(colours["domain"], colours["range"], strict=True)) == {
        "plain": RAMPS["plain"][3],
        "residual": RAMPS["residual"][3],
    }


def test_settings_without_a_number_are_drawn_line_by_line():
    rows = [StudyRow(name, {"recipe": name}, {"test_error": (0.1, 0.2)}, {}, 0) for name in ("none", "warm-up")]
    spec = study_means(study(rows, TEST)).spec
    assert ["none", "warm-up"] in list(find_all(spec, "sort"))
    words = [row for row in rows_of(spec, "said") if row["said"].startswith("mean")]  # right of the last ring
    assert [(row["said"], row["value"]) for row in words] == [("mean 15.00 %", 20.0)] * 2


def test_many_kinds_at_a_few_depths_share_a_line_each_and_tell_depths_by_shade():
    rows = [
        StudyRow(f"{kind}-{depth}", {"variant": kind, "depth": depth}, {"test_error": (depth / 1000,)}, {}, 0)
        for kind in map(str, range(9))
        for depth in (20, 56, 110)
    ]
    spec = study_means(study(rows, TEST)).spec
    assert [str(kind) for kind in range(9)] in list(find_all(spec, "sort"))
    shades = {"domain": [20, 56, 110], "range": [RAMPS["residual"][place] for place in (0, 3, 6)]}
    assert shades in scales_of(spec, "color")
    assert {row["value"] for row in rows_of(spec, "value") if row["label"] == "3"} == {2.0, 5.6, 11.0}


def test_exact_zeros_are_named_where_a_logarithm_has_no_place_for_them():
    error = MeasureRecord("error", "error", "number", charted=True)
    rows = [
        StudyRow(kind, {"blocks": blocks, "kind": kind}, {"error": (value,) * 2}, {}, 0)
        for kind, value in (("plain", 1.0), ("residual", 1e-4), ("zero", 0.0))
        for blocks in (1, 4)
    ]
    figure = study_means(study(rows, error))
    assert "Exactly 0, for which a logarithmic axis has no place: 1, zero; 4, zero." in figure.caption
    assert scales_of(figure.spec, "y")[0]["type"] == "log"
    assert not any(row["value"] == 0 for row in rows_of(figure.spec, "value"))


def test_a_study_without_a_finished_run_says_so():
    figure = study_means(study([StudyRow("a", {"depth": 20}, {}, {}, 2)]))
    assert not figure.is_drawn
    assert "No run has ended yet" in figure.caption


def test_shattering_is_told_for_the_deepest_of_each_family(twins):
    for place, run in enumerate(twins):
        add_depth(run, half=0.001 if place == 2 else math.inf if place == 5 else 0.05)
    figure = shattering_of_runs(twins)
    assert "plain110: the cosine falls below a half within 0.1\N{NO-BREAK SPACE}% of the way" in figure.caption
    assert "resnet110: the cosine falls below a half nowhere on the way" in figure.caption
    assert len(figure.spec["concat"]) == 2
    assert list(figure.rows[0].values())[1:3] == ["0.05", "0.5 of 1 branches"]
    assert not shattering_of_runs([]).is_drawn


def test_what_was_not_measured_of_the_depth_is_said_and_not_drawn(twins):
    missing = {"paths": "too many blocks", "shattering": "the gradient is not finite"}
    record = asdict(DepthRecord(paths=None, shattering=None, not_measured=missing))
    twins[0].depth.write_text(encode({"start": record, "end": record}), encoding="utf-8")
    figure = shattering_of_runs(twins[:1])
    assert not figure.is_drawn
    assert [list(row.values()) for row in figure.rows] == [[twins[0].name, *["not measured", "one path"] * 2]]
    add_depth(twins[1], half=0.05)
    figure = shattering_of_runs(twins[:2])
    assert len(figure.rows) == 2
    assert {row["run"] for row in rows_of(figure.spec, "run")} == {twins[1].name}


def test_the_page_has_answer_table_notices_and_command(twins, tmp_path):
    path = write_study_page(degradation(), twins, tmp_path / "page.html")
    page = PageReader(path)
    assert page.loaded == []
    assert set(page.specs) == {"means", "curves", "flow"}
    for words in (
        "Without shortcuts deeper is worse.",
        "1 run diverged.",
        "plain56, seed 1",
        "1 run to come",
        "reslab study degradation --preset digits --seeds 2",
        "What else was measured",
    ):
        assert words in page.text
    assert path.stat().st_size < 1_000_000


def test_a_study_that_trains_nothing_has_its_machine_on_the_page(tmp_path):
    page = PageReader(write_study_page(degradation(), [], tmp_path / "page.html"))
    assert set(page.specs) == {"means"}
    assert "A processor" in page.text


def test_of_very_many_runs_the_page_draws_the_means_alone_and_says_so(twins, tmp_path):
    runs = (list(twins) * MAX_RUNS)[: MAX_RUNS + 1]
    page = PageReader(write_study_page(degradation(), runs, tmp_path / "page.html"))
    assert set(page.specs) == {"means"}
    assert f"{MAX_RUNS + 1} runs are too many for curves of each." in page.text
    assert "The table of 4 settings" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_offline(twins, browse, tmp_path, width, scheme):
    for run in twins:
        add_depth(run, half=0.05)
    page = browse(write_study_page(degradation(), twins, tmp_path / "page.html"), width=width, scheme=scheme)
    for key in ("means", "curves", "flow", "shattering"):
        assert page.locator(f"#{key} svg g.mark-line.role-mark").count() >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("summary", has_text="What else was measured").click()
    assert page.locator("text=half distance, start").is_visible()
