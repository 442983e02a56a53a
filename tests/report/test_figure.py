"""Figures: saved in any form, shown in a notebook, light and dark. Colours that everybody can see."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from importlib.resources import files

import pytest
from tests.report.blank_records import depth_record, diagnosis_record, read
from tests.report.page_reader import contrast, luminance

from reslab.errors import RequestError
from reslab.report import Figure, _style
from reslab.report._style import CARD, DARK, INK, RAMPS, RUN_COLOURS
from reslab.report._svg import STYLES
from reslab.report.diagnosis_page import FIGURES, diagnosis_figure

DEPTH = ["paths", "shattering", "lesions", "jacobian", "surface"]
NAMES = ["flow", "split", "heatmap", "signal", "units", "updates", "spine", *DEPTH]
HEX = re.compile(r"#[0-9A-Fa-f]{6}")


def everything(count: int = 9):
    readings = tuple(read([1.3 ** (index / 9) for index in range(count)], step=step) for step in range(3))
    return diagnosis_record(readings=readings, depth=depth_record(count))


# ---- figures


def test_the_names_are_a_contract_and_an_unknown_one_is_a_request_error():
    assert sorted(FIGURES) == sorted(NAMES)
    with pytest.raises(RequestError, match="Did you mean 'heatmap'"):
        diagnosis_figure("heatmp", everything())


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_something_has_its_key_and_survives_json(name):
    figure = diagnosis_figure(name, everything())
    assert figure.key == name
    assert figure.caption.endswith(".")
    assert len(figure.caption) < 400
    if figure.is_drawn:
        assert figure.rows
        assert len({tuple(row) for row in figure.rows}) == 1
    if figure.spec:
        json.dumps(figure.spec, allow_nan=False)
        assert figure.spec["description"] == figure.caption


@pytest.mark.parametrize("name", NAMES)
def test_a_dark_chart_has_no_light_colour_left(name):
    spec = diagnosis_figure(name, everything()).spec
    if spec is None:
        pytest.skip("no chart: a drawing, or a reason")
    light, dark = (set(HEX.findall(json.dumps({**one, "datasets": {}}))) for one in (spec, _style.in_dark(spec)))
    fixed = {"#111111", "#FEFEFE"}  # lie on bars
    assert light - fixed <= set(DARK)
    assert dark - fixed <= set(DARK.values())
    assert _style.in_dark(spec)["datasets"] == spec["datasets"]


def test_csv_is_exact_and_quotes_names():
    rows = [{"name": 'a,"b"', "value": 1 / 3}, {"name": "c", "value": math.inf}]
    found = list(csv.DictReader(io.StringIO(Figure("k", "t", "c", rows=rows).csv())))
    assert [row["name"] for row in found] == ['a,"b"', "c"]
    assert [float(row["value"]) for row in found] == [1 / 3, math.inf]
    assert Figure("k", "t", "c").csv() == ""


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*(("flow", each) for each in (".png", ".svg", ".json", ".CSV")), ("spine", ".svg"), ("spine", ".png")],
)
def test_a_figure_is_saved_in_any_form_light_and_dark(tmp_path, name, suffix):
    figure = diagnosis_figure(name, everything())
    for dark in (False, True):
        figure.save(tmp_path / f"{dark}{suffix}", dark=dark)
    light, dark = ((tmp_path / f"{dark}{suffix}").read_bytes() for dark in (False, True))
    assert (light == dark) == (suffix == ".CSV")
    assert b"prefers-color-scheme" not in dark


def test_other_forms_places_and_empty_figures_are_request_errors(tmp_path):
    drawn, absent = diagnosis_figure("flow", everything()), diagnosis_figure("heatmap", diagnosis_record())
    (tmp_path / "folder.png").mkdir()
    messages = {"flow.pdf": "ends in", "flow": "ends in", "nowhere/flow.png": "no folder", "folder.png": "is a folder"}
    for name, message in messages.items():
        with pytest.raises(RequestError, match=message):
            drawn.save(tmp_path / name)
    with pytest.raises(RequestError, match="one step was read"):
        absent.save(tmp_path / "heatmap.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_notebook_shows_chart_drawing_or_reason():
    kinds = list(diagnosis_figure("flow", everything())._repr_mimebundle_())
    assert kinds[0].startswith("application/vnd.vegalite.v")
    assert kinds[1:] == ["image/svg+xml", "text/plain"]
    assert set(diagnosis_figure("spine", everything())._repr_mimebundle_()) == {"image/svg+xml", "text/plain"}
    assert diagnosis_figure("heatmap", diagnosis_record())._repr_mimebundle_()["text/plain"].startswith("No picture")


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_at_20_and_at_1000_blocks(tmp_path, name, count):
    figure = diagnosis_figure(name, everything(count))
    if figure.is_drawn:
        figure.save(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


HEAVY = ["altair", "vl_convert", "jinja2", "numpy"]


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (["diagnosis_page", "run_page", "study_page", "structure"], ["torch", "pandas"]),
        (["", "figure", "structure", "verdict", "study_table", "tree", "text", "profile"], HEAVY),
    ],
)
def test_nothing_sees_torch_and_nothing_heavy_is_loaded_before_something_is_drawn(modules, absent):
    names = ", ".join(f"reslab.report.{module}".rstrip(".") for module in modules)
    code = f"import sys, {names}; sys.exit(str([name for name in {absent} if name in sys.modules] or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stderr.strip() == b""


# ---- colours: WCAG 2.1 asks for a contrast of 4.5 for words, of 3 for what is not text


def test_the_formula_is_the_one_of_wcag():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)


def test_words_and_marks_of_charts_stand_out_in_light_and_in_dark():
    words = (INK, _style.QUIET, _style.ALARM, _style.EXPECTED)
    marks = (_style.BLUE, _style.VERMILION, _style.BRANCH, _style.OTHER, *RAMPS["plain"], *RAMPS["residual"])
    for least, colours in ((4.5, words), (3, (*marks, *RUN_COLOURS))):
        low = {ink: (contrast(ink, CARD), contrast(DARK[ink], DARK[CARD])) for ink in colours}
        assert {ink: found for ink, found in low.items() if min(found) < least} == {}


def test_parts_differ_in_brightness_and_light_to_dark_is_one_to_one():
    assert contrast(_style.BLUE, _style.BRANCH) >= 2
    assert contrast(DARK[_style.BLUE], DARK[_style.BRANCH]) >= 2
    assert len(set(DARK.values())) == len(DARK)


def schemes() -> list[dict[str, str]]:
    css = files("reslab.report").joinpath("page.css").read_text(encoding="utf-8")
    return [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root.*? \{(.*?)\}", css, re.S)]


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_the_words_of_a_page_stand_out(scheme):
    grounds = {"page", "card", "raised"}
    pairs = [(text, ground) for text in scheme.keys() - grounds - {"line"} for ground in grounds]
    assert {pair for pair in pairs if contrast(*(scheme[name] for name in pair)) < 4.5} == set()


def test_pages_and_charts_have_the_same_cards():
    light, dark = schemes()
    assert light.keys() == dark.keys()
    assert (light["card"].upper(), dark["card"].upper()) == (CARD, DARK[CARD])
    assert luminance(light["page"]) > luminance(dark["page"])


GROUNDS = {
    "ink": ["ground", "band", "card", "conv", "linear", "norm", "activation", "pool", "attention", "other"],
    "quiet": ["ground", "band", "card"],
    "shortcut-ink": ["gap", "shortcut-box", "card"],
    "plain-ink": ["card"],
    "path-ink": ["card"],
}


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_words_and_paths_of_drawings_stand_out(side):
    def colour(name: str, kind: str) -> str:
        return re.search(rf"{kind}:(#\w{{6}})", STYLES[name][side])[1]

    pairs = [(ink, ground) for ink, grounds in GROUNDS.items() for ground in grounds]
    low = {pair: contrast(*(colour(name, "fill") for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    paths = [colour(name, "stroke") for name in ("path", "shortcut", "plain")]
    assert min(contrast(path, colour("card", "fill")) for path in paths) >= 3
