from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys

import pytest
from tests.report.contrast import contrast

from reslab.errors import RequestError
from reslab.report.diagnosis.charts import CHARTS, draw
from reslab.report.diagnosis.palette import DARK, in_dark
from reslab.report.diagnosis.picture import Picture

NAMES = {
    "flow",
    "split",
    "heatmap",
    "signal",
    "units",
    "updates",
    "paths",
    "shattering",
    "lesions",
    "jacobian",
    "surface",
    "spine",
}
HEX = re.compile(r"#[0-9A-Fa-f]{6}")


def test_the_names_are_a_contract():
    assert set(CHARTS) == NAMES


def test_an_unknown_name_and_no_reading_are_request_errors(make_reading):
    with pytest.raises(RequestError, match="Did you mean 'heatmap'"):
        draw("heatmp", [make_reading([1.0])])
    with pytest.raises(RequestError, match="no reading"):
        draw("flow", [])


@pytest.mark.parametrize("name", CHARTS)
def test_every_picture_says_something_has_its_key_and_survives_json(make_reading, make_depth, name):
    readings = [make_reading([1.3**index for index in range(9)], step=step) for step in range(3)]
    picture = draw(name, readings, make_depth(9))
    assert picture.key == name
    assert picture.caption.endswith(".")
    assert len(picture.caption) < 400
    if picture.is_drawn:
        assert picture.rows
        assert len({tuple(row) for row in picture.rows}) == 1
    if picture.spec:
        json.dumps(picture.spec, allow_nan=False)
        assert picture.spec["description"] == picture.caption


@pytest.mark.parametrize("name", CHARTS)
def test_a_dark_chart_has_no_light_colour_left(make_reading, make_depth, name):
    readings = [make_reading([1.3**index for index in range(9)], step=step) for step in range(3)]
    spec = draw(name, readings, make_depth(9)).spec
    if spec is None:
        pytest.skip("no chart: a drawing, or a reason")
    light, dark = (set(HEX.findall(json.dumps({**one, "datasets": {}}))) for one in (spec, in_dark(spec)))
    fixed = {"#111111", "#FEFEFE", "#BDBDBD"}  # lie on bars, or are grey in both
    assert light - fixed <= set(DARK)
    assert dark - fixed <= set(DARK.values())
    assert in_dark(spec)["datasets"] == spec["datasets"]


def test_words_stand_out_in_the_dark_as_in_the_light():
    from reslab.report.diagnosis.palette import EXPECTED
    from reslab.report.theme import ALARM, CARD, INK, QUIET

    for ink in (INK, QUIET, ALARM, EXPECTED):
        assert contrast(ink, CARD) >= 4.5
        assert contrast(DARK[ink], DARK[CARD]) >= 4.5


def test_lines_and_bars_stand_out_and_parts_differ_in_brightness():
    from reslab.report.diagnosis.palette import BRANCH, LINE, SHORTCUT, TWIN
    from reslab.report.theme import CARD

    for ink in (LINE, TWIN, SHORTCUT):
        assert contrast(ink, CARD) >= 3
        assert contrast(DARK[ink], DARK[CARD]) >= 3
    assert contrast(SHORTCUT, BRANCH) >= 2
    assert contrast(DARK[SHORTCUT], DARK[BRANCH]) >= 2


def test_light_to_dark_is_one_to_one():
    assert len(set(DARK.values())) == len(DARK)


def test_csv_is_exact_and_quotes_names(tmp_path):
    rows = [{"name": 'a,"b"', "value": 1 / 3}, {"name": "c", "value": math.inf}]
    picture = Picture("k", "t", "c", None, rows)
    read = list(csv.DictReader(io.StringIO(picture.csv())))
    assert [row["name"] for row in read] == ['a,"b"', "c"]
    assert [float(row["value"]) for row in read] == [1 / 3, math.inf]
    assert Picture("k", "t", "c", None).csv() == ""


@pytest.mark.parametrize("suffix", [".png", ".svg", ".json", ".csv"])
def test_a_chart_is_saved_in_any_form(make_reading, tmp_path, suffix):
    path = tmp_path / f"flow{suffix}"
    draw("flow", [make_reading([1.0] * 9)]).save(path, dark=True)
    assert path.stat().st_size > 100


def test_other_forms_and_empty_pictures_are_request_errors(make_reading, tmp_path):
    drawn, absent = draw("flow", [make_reading([1.0] * 9)]), draw("heatmap", [make_reading([1.0] * 9)])
    with pytest.raises(RequestError, match="ends in"):
        drawn.save(tmp_path / "flow.pdf")
    with pytest.raises(RequestError, match="one step was read"):
        absent.save(tmp_path / "heatmap.png")
    with pytest.raises(RequestError, match="Can't write"):
        drawn.save(tmp_path / "nowhere" / "flow.png")
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_chart_drawing_or_reason(make_reading):
    reading = make_reading([1.0] * 9)
    kinds = list(draw("flow", [reading])._repr_mimebundle_())
    assert kinds[0].startswith("application/vnd.vegalite")
    assert kinds[1:] == ["image/svg+xml", "text/plain"]
    assert set(draw("spine", [reading])._repr_mimebundle_()) == {"image/svg+xml", "text/plain"}
    assert draw("heatmap", [reading])._repr_mimebundle_()["text/plain"].startswith("No picture over time")


def test_the_pictures_never_see_torch():
    code = "import sys, reslab.report.diagnosis.page, reslab.report.diagnosis.comparison;"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'reslab.probe')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 1000])
@pytest.mark.parametrize("name", CHARTS)
def test_every_picture_is_drawn_at_20_and_at_1000_blocks(make_reading, make_depth, tmp_path, name, count):
    readings = [make_reading([1.003**index for index in range(count)], step=step) for step in range(3)]
    picture = draw(name, readings, make_depth(count))
    if picture.is_drawn:
        picture.save(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
