from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from tests.report.contrast import contrast
from tests.report.page_reader import PageReader

from reslab.errors import RequestError
from reslab.records import VerdictRecord
from reslab.report.diagnosis.block_table import block_rows
from reslab.report.diagnosis.case import Case
from reslab.report.diagnosis.embedded import kept_readings, packed, plain, read_page
from reslab.report.diagnosis.page import write_diagnosis
from reslab.report.diagnosis.picture import Picture
from reslab.report.embedding import vega_script

MEGABYTE = 1_000_000


def test_the_verdict_comes_first_and_whole(make_case, tmp_path):
    page = PageReader(write_diagnosis(make_case(), tmp_path / "page.html"))
    for told in (
        "Sick",
        "GRAD_EXP_GROWTH at layer1.1; 3 of 4 rules could look.",
        "0.146 , threshold 0.1 (basis: measured)",
        "add shortcuts",
        "the same profile in a network that trains",
        "DEAD_RELU",
        "no rectifier was seen",
    ):
        assert told in page.text
        assert page.text.index(told) < page.text.index("Gradient flow")
    assert page.loaded == []


def test_a_healthy_network_and_what_was_clean(make_case, healthy, tmp_path):
    text = PageReader(write_diagnosis(make_case(judged=healthy), tmp_path / "page.html")).text
    assert "No illness found; 2 of 2 rules could look." in text
    assert "NONFINITE, GRAD_EXP_GROWTH" in text
    assert "Not checked" not in text


def test_three_findings_are_told_at_once_and_the_others_folded(make_case, finding, tmp_path):
    findings = tuple(dataclasses.replace(finding, id=f"RULE_{place}") for place in range(5))
    path = write_diagnosis(make_case(judged=VerdictRecord("sick", findings, (), {})), tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    assert "2 more findings" in html
    assert html.index("RULE_2") < html.index("2 more findings") < html.index("<code>RULE_3")
    assert "and 4 more" in PageReader(path).text


def test_the_card_of_the_run_has_what_was_read_and_what_the_caller_adds(make_case, tmp_path):
    case = make_case(facts={"torch": "2.11.0", "probe cost": "12 ms", "seed": 0})
    text = PageReader(write_diagnosis(case, tmp_path / "page.html")).text
    for told in (
        "resnet20",
        "4 x 3 x 8 x 8 (float32)",
        "residual additions 9",
        "torch 2.11.0",
        "probe cost 12 ms",
        "seed 0",
    ):
        assert told in text


def test_every_picture_has_its_conclusion_or_its_reason(make_case, make_depth, tmp_path):
    page = PageReader(write_diagnosis(make_case(depth=make_depth(9)), tmp_path / "page.html"))
    assert set(page.specs) == {"flow", "split", "signal", "paths", "shattering", "lesions", "jacobian", "surface"}
    for spec in page.specs.values():
        assert spec["description"].replace("\u00a0", " ") in page.text
    for reason in ("one step was read", "no step of an optimiser was seen"):
        assert reason in page.text
    assert "svg" in page.tags


def test_more_pictures_come_after(make_case, tmp_path):
    more = Picture("surface", "Loss surface", "A bowl.", None)
    assert "A bowl." in PageReader(write_diagnosis(make_case(), tmp_path / "page.html", more=[more])).text


def test_all_records_can_be_read_back_from_the_page(make_case, make_depth, tmp_path):
    case = make_case(depth=make_depth(9))
    page = read_page(write_diagnosis(case, tmp_path / "page.html"))
    assert page["schema_version"] == 1
    told = page["diagnoses"][0]
    assert told["name"] == "resnet20"
    assert told["verdict"] == "sick"
    assert told["findings"][0]["id"] == "GRAD_EXP_GROWTH"
    assert told["not_checked"] == {"DEAD_RELU": "no rectifier was seen"}
    assert_same(dataclasses.asdict(case.readings[0]), told["readings"][0])
    assert_same(dataclasses.asdict(case.depth), told["depth"])


def assert_same(record: Any, read: Any) -> None:
    """But for digits after the fifth, and for tuples, which JSON doesn't know."""
    if isinstance(record, dict):
        assert record.keys() == read.keys()
        for key in record:
            assert_same(record[key], read[key])
    elif isinstance(record, list | tuple):
        assert len(record) == len(read)
        for one, other in zip(record, read, strict=True):
            assert_same(one, other)
    elif isinstance(record, float):
        assert read == pytest.approx(record, rel=1e-4, nan_ok=True)
    else:
        assert record == read


def test_later_readings_share_names_with_the_first_and_are_read_back_whole(make_case, make_reading, tmp_path):
    readings = tuple(make_reading([1.0 + step * index for index in range(9)], step=step) for step in range(4))
    case = make_case(readings=readings)
    told = read_page(write_diagnosis(case, tmp_path / "page.html"))["diagnoses"][0]
    for reading, read in zip(readings, told["readings"], strict=True):
        assert_same(dataclasses.asdict(reading), read)


def test_of_very_many_readings_some_between_are_left_out_and_the_page_says_so(make_case, make_reading, tmp_path):
    readings = tuple(make_reading([1.0] * 300, step=step) for step in range(100))
    case = make_case(readings=readings)
    kept = kept_readings(case, 120_000)
    assert (kept[0], kept[-1]) == (0, 99)
    assert len(kept) == 16
    assert kept_readings(case, 1) == [0, 99]
    page = write_diagnosis(case, tmp_path / "page.html")
    assert "84 readings between the first and the last are left out" in PageReader(page).text


@pytest.mark.parametrize("text", ["<html></html>", "no page at all"])
def test_a_file_without_records_is_a_request_error(tmp_path, text):
    (tmp_path / "x.html").write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match="no records"):
        read_page(tmp_path / "x.html")
    with pytest.raises(RequestError, match="Can't read"):
        read_page(tmp_path / "y.html")


def test_a_newer_page_is_refused(make_case, tmp_path):
    path = write_diagnosis(make_case(), tmp_path / "page.html")
    text = path.read_text(encoding="utf-8").replace('"schema_version":1', '"schema_version":2')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match="upgrade"):
        read_page(path)


def test_plain_numbers():
    assert plain([1 / 3, 2.0, math.nan, -math.inf, True, None, "a", 7]) == [
        0.33333,
        2,
        "NaN",
        "-Infinity",
        True,
        None,
        "a",
        7,
    ]
    assert isinstance(plain(2.0), int)


def test_packed_rows_write_what_comes_often_once():
    rows = [{"kind": "identity", "shape": (1, 2), "x": 0.1 * place} for place in range(4)]
    columns = packed(rows)["columns"]
    assert columns["kind"] == {"words": ["identity"], "cells": [0, 0, 0, 0]}
    assert columns["shape"] == {"words": [[1, 2]], "cells": [0, 0, 0, 0]}
    assert columns["x"] == {"words": None, "cells": [0, 0.1, 0.2, 0.3]}


def test_names_are_words_not_tags(make_case, make_reading, make_block, finding, tmp_path):
    evil = "</script><script>alert(1)</script>"
    reading = make_reading(blocks=tuple(make_block(place, f"{evil}.{place}") for place in range(9)))
    judged = VerdictRecord("sick", (dataclasses.replace(finding, where=evil, sentence=evil),), (), {"<b>": evil})
    case = Case("<i>net", judged, (reading,), facts={"<u>": evil})
    path = write_diagnosis(case, tmp_path / "page.html")
    page = PageReader(path)
    assert not {"b", "i", "u"} & set(page.tags)
    assert page.tags.count("script") == 8
    assert evil in page.text
    assert read_page(path)["diagnoses"][0]["facts"] == {"<u>": evil}


def test_a_network_without_blocks_has_a_table_of_layers(make_case, make_reading, tmp_path):
    case = make_case(name="plain20", readings=(make_reading(layer_norms=[1.0] * 20),))
    rows = block_rows(case)
    assert len(rows) == 20
    assert set(rows[0]) == {"place", "name", "shape", "gradient", "finding"}
    assert "All layers" in PageReader(write_diagnosis(case, tmp_path / "page.html")).text


def test_a_network_of_which_nothing_was_seen(make_case, make_reading, tmp_path):
    case = make_case(readings=(make_reading(parameters=()),))
    text = PageReader(write_diagnosis(case, tmp_path / "page.html")).text
    assert "neither a block nor a layer" in text
    assert "All layers" not in text


def test_the_table_has_one_row_a_block_with_findings_and_lesions(make_case, make_depth):
    rows = block_rows(make_case(depth=make_depth(9)))
    assert [row["place"] for row in rows] == list(range(9))
    assert [row["finding"] for row in rows] == ["", "GRAD_EXP_GROWTH", *[""] * 7]
    assert rows[2]["lesion"] == pytest.approx(0.1)
    assert "lesion" not in block_rows(make_case())[0]


def test_a_case_without_a_reading_and_a_place_that_cannot_be_written(make_case, sick, tmp_path):
    with pytest.raises(RequestError, match="no reading"):
        Case("net", sick, ())
    with pytest.raises(RequestError, match="Can't write"):
        write_diagnosis(make_case(), tmp_path / "nowhere" / "page.html")


def schemes() -> list[dict[str, str]]:
    from importlib.resources import files

    template = files("reslab.report.diagnosis").joinpath("diagnosis_base.html.j2").read_text(encoding="utf-8")
    dark, light = re.search(r'set dark = "(.*?)"', template, re.S), re.search(r":root \{ (--ink.*?)\}", template, re.S)
    assert dark
    assert light
    return [dict(re.findall(r"--(\w+): (#\w{6})", found[1])) for found in (light, dark)]


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_the_words_of_the_page_stand_out(scheme):
    grounds = {"page", "card", "raised"}
    ratios = {}
    for text in scheme.keys() - grounds - {"line"}:
        for ground in grounds:
            ratios[text, ground] = contrast(scheme[text], scheme[ground])
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def test_the_page_and_the_charts_have_the_same_cards():
    from reslab.report.diagnosis.palette import DARK
    from reslab.report.theme import CARD

    light, dark = schemes()
    assert (light["card"].upper(), dark["card"].upper()) == (CARD, DARK[CARD])


# ---- in a browser


def watched(make_case: Any, make_reading: Any, make_depth: Any, count: int) -> Case:
    readings = tuple(
        make_reading([(1 + 0.002 * step) ** index for index in range(count)], step=step) for step in range(3)
    )
    return make_case(readings=readings, depth=make_depth(count))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_offline(make_case, make_reading, make_depth, browse, tmp_path, width, scheme):
    path = write_diagnosis(watched(make_case, make_reading, make_depth, 20), tmp_path / "page.html")
    page = browse(path, width=width, scheme=scheme)
    for key in ("flow", "split", "signal", "paths", "shattering", "lesions", "jacobian"):
        assert page.locator(f"#{key} svg.marks").count() == 1
    assert page.locator("#heatmap canvas[role=img][aria-label]").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_the_theme_switch_turns_page_charts_and_drawings_and_is_kept(make_case, browse, tmp_path):
    page = browse(write_diagnosis(make_case(), tmp_path / "page.html"), scheme="light")

    def colours() -> list[str]:
        page.wait_for_selector("body[data-drawn]")
        return page.evaluate(
            """["body", "#flow svg.marks", ".drawing .ground"].map(selector => {
                 const style = getComputedStyle(document.querySelector(selector));
                 return selector === ".drawing .ground" ? style.fill : style.backgroundColor; })"""
        )

    switch = page.get_by_role("button", name="Theme: auto")
    light = colours()
    assert light == ["rgb(250, 250, 250)", "rgb(255, 255, 255)", "rgb(255, 255, 255)"]
    switch.click()
    assert page.locator("#theme").inner_text() == "Theme: light"
    assert colours() == light
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: dark"
    dark = colours()
    assert dark == ["rgb(23, 23, 26)", "rgb(32, 32, 36)", "rgb(32, 32, 36)"]
    page.reload()
    assert colours() == dark
    page.locator("#theme").click()
    assert colours() == light


@pytest.mark.slow
def test_auto_follows_the_system(make_case, browse, tmp_path):
    page = browse(write_diagnosis(make_case(), tmp_path / "page.html"), scheme="dark")
    ground = "getComputedStyle(document.querySelector('#flow svg.marks')).backgroundColor"
    assert page.evaluate(ground) == "rgb(32, 32, 36)"
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"document.body.dataset.drawn && {ground} === 'rgb(255, 255, 255)'")


@pytest.mark.slow
def test_a_tooltip_names_the_block_under_the_mouse(make_case, browse, tmp_path):
    page = browse(write_diagnosis(make_case(), tmp_path / "page.html"))
    page.locator("#flow").scroll_into_view_if_needed()
    box = page.locator("#flow svg .mark-rule, #flow svg g.mark-line").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#vg-tooltip-element.visible")
    told = page.locator("#vg-tooltip-element").inner_text()
    assert "layer2.1" in told
    assert "gradient norm" in told


@pytest.mark.slow
def test_the_heatmap_which_is_no_svg_names_block_and_step_under_the_mouse(
    make_case, make_reading, make_depth, browse, tmp_path
):
    page = browse(write_diagnosis(watched(make_case, make_reading, make_depth, 9), tmp_path / "page.html"))
    canvas = page.locator("#heatmap canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#vg-tooltip-element.visible")
    told = page.locator("#vg-tooltip-element").inner_text()
    assert re.search(r"layer[123]\.[012]", told)
    assert "step" in told


@pytest.mark.slow
def test_a_run_of_the_spine_opens_on_a_click(make_case, make_reading, browse, tmp_path):
    page = browse(write_diagnosis(make_case(readings=(make_reading([1.0] * 300),)), tmp_path / "page.html"))
    part = page.locator("details.part").first
    assert not part.locator("svg").is_visible()
    part.locator("summary").click()
    assert part.locator("svg").is_visible()
    assert part.get_by_text("layer1.99", exact=True).count() == 1
    assert part.locator(".unfolded").bounding_box()["height"] < 600


@pytest.mark.slow
def test_the_table_sorts_filters_and_marks_findings(make_case, browse, tmp_path):
    page = browse(write_diagnosis(make_case(), tmp_path / "page.html"))

    def names() -> list[str]:
        return page.locator("#rows tbody tr:not(.pad) td:nth-child(2)").all_inner_texts()

    ordered = names()
    assert ordered[:2] == ["layer1.0", "layer1.1"]
    assert page.locator("#rows tr.found").count() == 1
    heading = page.locator("#rows th button[data-key=gradient]")
    heading.click()  # the largest first
    assert names() == ordered
    assert heading.locator("..").get_attribute("aria-sort") == "descending"
    heading.click()
    assert names() == ordered[::-1]
    page.locator("#filter").fill("layer2")
    assert sorted(names()) == ["layer2.0", "layer2.1", "layer2.2"]
    assert page.locator("#shown").inner_text() == "3 of 9"


@pytest.mark.slow
def test_what_has_no_number_sorts_last_either_way(make_case, make_reading, browse, tmp_path):
    norms = [1.0, float("nan"), 3.0, 0.0, float("inf"), 2.0]
    page = browse(write_diagnosis(make_case(readings=(make_reading(norms),)), tmp_path / "page.html"))

    def cells() -> list[str]:
        return page.locator("#rows tbody tr:not(.pad) td:nth-child(5)").all_inner_texts()

    assert cells() == ["1", "\N{EN DASH}", "3", "0", "∞", "2"]
    heading = page.locator("#rows th button[data-key=gradient]")
    heading.click()
    assert cells() == ["∞", "3", "2", "1", "0", "\N{EN DASH}"]
    heading.click()
    assert cells() == ["0", "1", "2", "3", "∞", "\N{EN DASH}"]


@pytest.mark.slow
def test_the_numbers_of_a_chart_and_of_the_table_are_downloaded(make_case, browse, tmp_path):
    page = browse(write_diagnosis(make_case(), tmp_path / "page.html"))
    for key, columns in (("flow", "index,name,grad_norm"), ("spine", "index,name,kind"), ("blocks", "place,name,kind")):
        with page.expect_download() as download:
            page.locator(f"[data-csv={key}]").click()
        lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
        assert download.value.suggested_filename == f"{key}.csv"
        assert lines[0].startswith(columns)
        assert len(lines) == 10
    with page.expect_download() as download:
        page.locator("#json").click()
    told = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert told["diagnoses"][0]["verdict"] == "sick"


@pytest.mark.slow
def test_a_thousand_blocks_are_small_and_only_rows_in_sight_exist(
    make_case, make_reading, make_depth, browse, tmp_path
):
    path = write_diagnosis(watched(make_case, make_reading, make_depth, 1000), tmp_path / "page.html")
    assert path.stat().st_size - len(vega_script()) < 3 * MEGABYTE
    page = browse(path)
    rows = page.locator("#rows tbody tr:not(.pad)")
    assert rows.count() < 60
    page.evaluate("document.getElementById('rows').scrollTop = 1e9")
    page.wait_for_function("document.querySelector('#rows tbody').textContent.includes('layer3.331')")
    assert rows.count() < 60
    height = page.evaluate("document.getElementById('rows').scrollHeight")
    assert abs(height - 28 * 1000) < 60
