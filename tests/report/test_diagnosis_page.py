"""The page of a diagnosis and of several side by side: what it says, what it carries, and how it opens."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.report.blank_records import (
    FINDING,
    HEALTHY,
    SICK,
    block_record,
    depth_record,
    diagnosis_record,
    read,
    reading_record,
)
from tests.report.page_reader import PageReader

from reslab.errors import RequestError
from reslab.records.diagnosis import VerdictRecord
from reslab.report import write_diagnosis_page
from reslab.report._page import packed_vega, read_records
from reslab.report.diagnosis_page import (
    DiagnosisRecord,
    block_rows,
    check_rows,
    compared_facts,
    kept_readings,
    read_diagnoses,
    write_comparison_page,
)
from reslab.report.verdict import verdict_lines

MEGABYTE = 1_000_000


@pytest.fixture
def write(tmp_path):
    return lambda diagnosis: PageReader(write_diagnosis_page(diagnosis, tmp_path / "page.html"))


def test_the_verdict_comes_first_and_whole(write):
    page = write(diagnosis_record())
    for words in (
        "Sick",
        "1 problem: GRAD_EXP_GROWTH at layer1.1; 3 of 4 checks ran.",
        "Critical: The gradient grows 1.40 times per block.",
        "0.146 , threshold 0.1 (basis: measured)",
        "add shortcuts",
        "the same profile in a network that trains",
        "Not checked: 1 checks could not run",
        "no rectifier was seen",
    ):
        assert words in page.text
        assert page.text.index(words) < page.text.index("Norm of one sample's gradient")
    assert page.loaded == []


def test_a_healthy_network_and_what_was_clean(write):
    text = write(diagnosis_record(judged=HEALTHY)).text
    assert "No problem found; 2 of 2 checks ran." in text
    assert "NONFINITE, GRAD_EXP_GROWTH" in text
    assert "Not checked" not in text


def test_three_findings_are_told_at_once_and_the_others_folded(write):
    findings = tuple(dataclasses.replace(FINDING, id=f"RULE_{place}") for place in range(5))
    page = write(diagnosis_record(judged=VerdictRecord("sick", findings, (), {})))
    assert page.html.index("<code>RULE_2") < page.html.index("2 more findings") < page.html.index("<code>RULE_3")
    assert "5 problems: RULE_0 at layer1.1, RULE_1 at layer1.1 and 3 more" in page.text


def test_a_terminal_is_told_the_same():
    lines = verdict_lines("net", SICK)
    assert [line for line, is_heading in lines if is_heading] == ["net: sick", "critical  GRAD_EXP_GROWTH at layer1.1"]
    text = "\n".join(line for line, _ in lines)
    for words in ("Suggested fix: add shortcuts; take fewer layers.", "clean: NONFINITE", "because no rectifier"):
        assert words in text


def test_what_was_read_and_what_the_caller_adds(write):
    text = write(diagnosis_record(facts={"torch": "2.11.0", "probe cost": "12 ms", "seed": 0})).text
    read_facts = ("resnet20", "4 x 3 x 8 x 8 (float32)", "residual additions 9", "640 trained in 1 tensor")
    for words in (*read_facts, "torch 2.11.0", "probe cost 12 ms", "seed 0"):
        assert words in text


def test_every_figure_has_its_conclusion_or_its_reason(write):
    page = write(diagnosis_record(depth=depth_record(9)))
    assert set(page.specs) == {"flow", "split", "signal", "paths", "shattering", "lesions", "jacobian", "surface"}
    for spec in page.specs.values():
        assert spec["description"].replace("\u00a0", " ") in page.text
    for reason in ("one step was read", "no step of an optimiser was seen"):
        assert reason in page.text
    assert "svg" in page.tags


def test_words_of_the_page_are_explained(write):
    page = write(diagnosis_record())
    words = (
        "gradient norm|share|cosine|pass-through|slope|effective depth|shattering|lesion|Jacobian|update over weight"
    )
    glossary = page.text[page.text.rindex("Glossary") :]
    for word in (*words.split("|"), "layer response", "not checked", "basis"):
        assert word in glossary
    references = re.findall(r"<cite>(.*?)</cite>", page.html)
    assert references
    assert all(re.search(r"arXiv:\d{4}\.\d{5}", reference) for reference in references)


# ---- the records inside


def assert_same(record: Any, read: Any) -> None:
    """But for digits after the fifth."""
    if dataclasses.is_dataclass(record):
        record, read = dataclasses.asdict(record), dataclasses.asdict(read)
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


def test_all_records_can_be_read_back_from_the_page(tmp_path):
    readings = tuple(read([1.0 + step * index for index in range(9)], step=step) for step in range(4))
    diagnosis = diagnosis_record(readings=readings, depth=depth_record(9))
    path = write_diagnosis_page(diagnosis, tmp_path / "page.html")
    (found,) = read_diagnoses(path)
    assert_same(diagnosis, found)


def test_a_page_of_the_version_before_is_read(tmp_path):
    """Lists of records column by column, what comes often once, and columns that are as in the first reading once."""

    def table(**columns: Any) -> dict[str, Any]:
        cells = {key: {"words": None, "cells": list(values)} for key, values in columns.items()}
        return {"packed": {"length": 2, "columns": cells}}

    path = write_diagnosis_page(diagnosis_record(count=2), tmp_path / "page.html")
    first = read_records(path.read_text(encoding="utf-8"))["diagnoses"][0]
    reading = first["readings"][0]
    blocks, streams = reading["blocks"], [block["stream"] for block in reading["blocks"]]
    columns = table(**{key: [block[key] for block in blocks] for key in blocks[0]})
    columns["packed"]["columns"]["kind"] = {"words": ["identity"], "cells": [0, 0]}
    moments = table(**{key: [stream[key] for stream in streams] for key in streams[0]})
    columns["packed"]["columns"]["stream"] = {"fields": moments["packed"]}
    later = {"packed": {"length": 2, "columns": dict.fromkeys(blocks[0], "as in the first")}}
    later["packed"]["columns"]["grad_norm"] = {"words": None, "cells": ["NaN", 2]}
    readings = [reading | {"blocks": columns}, reading | {"step": 1, "blocks": later}]
    text = json.dumps({"schema_version": 1, "diagnoses": [first | {"readings": readings}]}).replace("<", "\\u003c")
    page = tmp_path / "old.html"
    page.write_text(f'<html><script type="application/json" id="diagnosis">{text}</script></html>', encoding="utf-8")
    (found,) = read_diagnoses(page)
    assert_same(diagnosis_record(count=2).readings[0], found.readings[0])
    assert [block.name for block in found.readings[1].blocks] == ["layer1.0", "layer2.0"]
    assert [str(block.grad_norm) for block in found.readings[1].blocks] == ["nan", "2.0"]
    assert found.judged == SICK


def test_of_very_many_readings_some_between_are_left_out_and_the_page_says_so(write):
    readings = tuple(read([1.0] * 300, step=step) for step in range(100))
    kept = kept_readings(readings, 120_000)
    assert (kept[0], kept[-1], len(kept)) == (0, 99, 16)
    assert kept_readings(readings, 1) == [0, 99]
    assert "84 readings between the first and the last are left out" in write(diagnosis_record(readings=readings)).text


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (None, "it contains no records"),
        (b'{"schema_version": 9, "diagnoses": []}', "upgrade reslab"),
        (b'{"schema_version": 2, "diagnoses": [{}]}', "are damaged"),
        (b"not JSON", "are damaged"),
    ],
)
def test_a_page_without_records_or_with_others_is_a_request_error(tmp_path, records, message):
    inside = b64encode(gzip.compress(records)).decode() if records else ""
    script = f'<script type="text/plain" id="records">{inside}</script>' if records else "no page at all"
    (tmp_path / "x.html").write_text(script, encoding="utf-8")
    with pytest.raises(RequestError, match=message):
        read_diagnoses(tmp_path / "x.html")


def test_a_page_that_is_torn_or_absent_is_a_request_error(tmp_path):
    path = write_diagnosis_page(diagnosis_record(), tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    at = html.index('id="records">') + 400
    path.write_text(html[:at] + "AAAA" + html[at + 4 :], encoding="utf-8")
    with pytest.raises(RequestError, match="are damaged"):
        read_diagnoses(path)
    with pytest.raises(RequestError, match="Can't read"):
        read_diagnoses(tmp_path / "nowhere.html")


def test_names_are_words_not_tags(write, tmp_path):
    evil = "</script><script>alert(1)</script>"
    reading = reading_record([block_record(place, f"{evil}.{place}") for place in range(9)])
    judged = VerdictRecord("sick", (dataclasses.replace(FINDING, where=evil, sentence=evil),), (), {"<b>": evil})
    page = write(DiagnosisRecord("<i>net", judged, (reading,), facts={"<u>": evil}))
    assert not {"b", "i", "u"} & set(page.tags)
    assert page.tags.count("script") == 5
    assert evil in page.text
    assert read_diagnoses(tmp_path / "page.html")[0].facts == {"<u>": evil}


# ---- the table of blocks


def test_the_table_has_one_row_per_block_with_findings_and_lesions():
    rows = block_rows(diagnosis_record(depth=depth_record(9)))
    assert [row["place"] for row in rows] == list(range(9))
    assert [row["finding"] for row in rows] == ["", "GRAD_EXP_GROWTH", *[""] * 7]
    assert rows[2]["lesion"] == pytest.approx(0.1)
    assert "lesion" not in block_rows(diagnosis_record())[0]


def test_a_network_without_blocks_has_a_table_of_layers_and_one_of_which_nothing_was_seen_none(write):
    plain = diagnosis_record("plain20", readings=(read(layer_norms=[1.0] * 20),))
    assert len(block_rows(plain)) == 20
    assert list(block_rows(plain)[0]) == ["place", "name", "shape", "gradient", "finding"]
    assert "All layers" in write(plain).text
    unseen = write(diagnosis_record(readings=(read(parameters=()),)))
    assert "neither a block nor a layer" in unseen.text
    assert "All layers" not in unseen.text
    assert "flow" not in unseen.specs


def test_a_diagnosis_without_a_reading_and_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(RequestError, match="no reading"):
        DiagnosisRecord("net", SICK, ())
    with pytest.raises(RequestError, match="Can't write"):
        write_diagnosis_page(diagnosis_record(), tmp_path / "nowhere" / "page.html")


# ---- side by side


@pytest.fixture
def pair():
    plain = diagnosis_record("plain20", readings=(read(layer_norms=[1.1 ** (19 - index) for index in range(20)]),))
    healthy = dataclasses.replace(HEALTHY, clean=(*HEALTHY.clean, "DEAD_RELU"))
    return [plain, diagnosis_record("resnet20", judged=healthy)]


def test_a_comparison_has_both_verdicts_findings_and_all_records(pair, tmp_path):
    page = PageReader(write_comparison_page(pair, tmp_path / "page.html"))
    for words in ("0.146 at layer1.1", "not checked: no rectifier was seen", "not checked: no such check then"):
        assert words in page.text
    assert page.html.count('class="verdict sick"') == page.html.count('class="verdict healthy"') == 1
    assert "add shortcuts" in page.text
    assert [found.name for found in read_diagnoses(tmp_path / "page.html")] == ["plain20", "resnet20"]
    assert {"together", "strips"} == set(page.specs)


def test_checks_that_found_something_come_first_and_those_that_agree_are_left_out(pair):
    rows = {row[0]: [cell["state"] for cell in row[1:]] for row in check_rows(pair)}
    assert next(iter(rows)) == "GRAD_EXP_GROWTH"
    assert rows["GRAD_EXP_GROWTH"] == ["critical", "clean"]
    assert "NONFINITE" not in rows  # clean in both
    assert rows["SHORTCUT_BLOCKED"] == ["clean", "not-checked"]
    assert [row[0] for row in check_rows([diagnosis_record("a"), diagnosis_record("b")])] == ["GRAD_EXP_GROWTH"]
    nothing = VerdictRecord("healthy", (), (), {})
    assert check_rows([diagnosis_record("a", judged=nothing), diagnosis_record("b", judged=nothing)]) == []


def test_facts_are_those_of_the_records(pair):
    plain, residual, deep = map(compared_facts, [*pair, diagnosis_record("deep", depth=depth_record(9))])
    assert [found["verdict"] for found in (plain, residual, deep)] == ["\u2716 Sick", "\u2714 Healthy", "\u2716 Sick"]
    assert plain["growth towards the input"] == "\N{MULTIPLICATION SIGN}1.21 per two layers, R\u00b2 1.00"
    assert residual["growth towards the input"] == "\N{MULTIPLICATION SIGN}1.20 per block, R\u00b2 1.00"
    assert plain["gradient at the first block or layer over the last"] == f"{1.1**19:.3g}"
    assert [found["effective depth"] for found in (plain, residual, deep)] == ["\N{EN DASH}", "\N{EN DASH}", "4.5 of 9"]


def test_how_many_and_which_names(tmp_path):
    for names, message in (["a"], "2 to 7 diagnoses, got 1"), ("abcdefgh", "got 8"), ("aa", "different names"):
        with pytest.raises(RequestError, match=message):
            write_comparison_page([diagnosis_record(name) for name in names], tmp_path / "page.html")


# ---- in a browser


def watched(count: int) -> DiagnosisRecord:
    readings = [read([(1 + 0.002 * step) ** index for index in range(count)], step=step) for step in range(3)]
    return diagnosis_record(readings=tuple(readings), depth=depth_record(count))


def under_the_mouse(page: Any, place: Any) -> str:
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#vg-tooltip-element.visible")
    return page.locator("#vg-tooltip-element").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_offline_and_names_what_is_under_the_mouse(browse, tmp_path, width, scheme):
    page = browse(write_diagnosis_page(watched(20), tmp_path / "page.html"), width=width, scheme=scheme)
    for key in ("flow", "split", "signal", "paths", "shattering", "lesions", "jacobian"):
        assert page.locator(f"#{key} svg.marks").count() == 1
    canvas = page.locator("#heatmap canvas[role=img][aria-label]")
    assert canvas.count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    told = under_the_mouse(page, page.locator("#flow svg g.mark-line.role-mark").first)
    assert re.search(r"layer[123]\.\d.*this network", told, re.S)
    told = under_the_mouse(page, canvas)
    assert re.search(r"layer[123]\.\d.*step", told, re.S)


@pytest.mark.slow
def test_the_theme_switch_turns_page_charts_and_drawings_and_is_kept(browse, tmp_path):
    page = browse(write_diagnosis_page(diagnosis_record(), tmp_path / "page.html"), scheme="light")

    def colours() -> list[str]:
        page.wait_for_selector("body[data-drawn]")
        return page.evaluate(
            """["body", "#flow svg.marks", ".drawing .ground"].map(selector => {
                 const style = getComputedStyle(document.querySelector(selector));
                 return selector === ".drawing .ground" ? style.fill : style.backgroundColor; })"""
        )

    light, dark = ["rgb(250, 250, 250)", *["rgb(255, 255, 255)"] * 2], ["rgb(23, 23, 26)", *["rgb(32, 32, 36)"] * 2]
    assert colours() == light
    for name, expected in (("light", light), ("dark", dark)):
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == f"Theme: {name}"
        assert colours() == expected
    page.reload()
    assert colours() == dark
    page.locator("#theme").click()
    assert colours() == light
    page.emulate_media(color_scheme="dark")  # auto follows the system
    page.wait_for_function("document.body.dataset.drawn && document.documentElement.hasAttribute('data-dark')")
    assert colours() == dark


@pytest.mark.slow
def test_a_run_of_the_spine_opens_on_a_click(browse, tmp_path):
    page = browse(write_diagnosis_page(diagnosis_record(readings=(read([1.0] * 300),)), tmp_path / "page.html"))
    part = page.locator("details.part").first
    assert not part.locator("svg").is_visible()
    part.locator("summary").click()
    assert part.locator("svg").is_visible()
    assert part.get_by_text("layer1.99", exact=True).count() == 1
    assert part.locator(".unfolded").bounding_box()["height"] < 600


@pytest.mark.slow
def test_the_table_sorts_filters_and_marks_findings(browse, tmp_path):
    norms = [1.0, float("nan"), 3.0, 0.0, float("inf"), 2.0]
    page = browse(write_diagnosis_page(diagnosis_record(readings=(read(norms),)), tmp_path / "page.html"))

    def cells(column: int) -> list[str]:
        return page.locator(f"[data-sortable] tbody tr:visible td:nth-child({column})").all_inner_texts()

    names = cells(2)
    assert names[:2] == ["layer1.0", "layer1.1"]
    assert page.locator("[data-sortable] tr.found").count() == 1
    assert cells(5) == ["1", "\N{EN DASH}", "3", "0", "\u221e", "2"]
    heading = page.locator("[data-sortable] th button[data-key=gradient]")
    heading.click()  # the largest first; what has no number comes last, either way
    assert cells(5) == ["\u221e", "3", "2", "1", "0", "\N{EN DASH}"]
    assert heading.locator("..").get_attribute("aria-sort") == "descending"
    heading.click()
    assert cells(5) == ["0", "1", "2", "3", "\u221e", "\N{EN DASH}"]
    page.locator(".filter").fill("layer2")
    assert sorted(cells(2)) == ["layer2.0", "layer2.1"]
    assert page.locator(".shown").inner_text() == "2 of 6"


@pytest.mark.slow
def test_the_numbers_of_a_chart_of_the_table_and_all_records_are_downloaded(browse, tmp_path):
    page = browse(write_diagnosis_page(diagnosis_record(), tmp_path / "page.html"))
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
def test_a_thousand_blocks_are_small(browse, tmp_path):
    path = write_diagnosis_page(watched(1000), tmp_path / "page.html")
    assert path.stat().st_size - len(packed_vega("6.1")) < 2 * MEGABYTE
    page = browse(path)
    assert page.locator("[data-sortable] tbody tr").count() == 1000


@pytest.mark.slow
def test_a_comparison_opens_offline(pair, browse, tmp_path):
    page = browse(write_comparison_page(pair, tmp_path / "page.html"))
    assert page.locator("#together svg.marks").count() == page.locator("#strips svg.marks").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    with page.expect_download() as download:
        page.locator("[data-csv='plain20']").click()
    assert len(Path(download.value.path()).read_text(encoding="utf-8").splitlines()) == 21
