from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reslab.errors import RequestError
from reslab.records import VerdictRecord
from reslab.report.diagnosis.comparison import cell_of, facts_of, over_depth, rules_of, strips, write_comparison
from reslab.report.diagnosis.embedded import read_page


@pytest.fixture
def pair(make_case, make_reading, healthy):
    plain = make_case("plain20", readings=(make_reading(layer_norms=[1.1 ** (19 - index) for index in range(20)]),))
    return [plain, make_case("resnet20", judged=healthy)]


def test_the_page_has_both_verdicts_and_all_records(pair, tmp_path):
    path = write_comparison(pair, tmp_path / "page.html")
    text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
    assert text.count('class="verdict sick"') == 1
    assert text.count('class="verdict healthy"') == 1
    assert [told["name"] for told in read_page(path)["diagnoses"]] == ["plain20", "resnet20"]


def test_rules_that_found_something_come_first_and_those_that_agree_are_left_out(pair):
    rules = dict(rules_of(pair))
    assert next(iter(rules)) == "GRAD_EXP_GROWTH"
    assert [cell.state for cell in rules["GRAD_EXP_GROWTH"]] == ["critical", "clean"]
    assert "NONFINITE" not in rules  # clean in both
    assert [cell.state for cell in rules["SHORTCUT_BLOCKED"]] == ["clean", "not checked"]


def test_cells_say_what_the_rule_says(sick):
    assert cell_of(sick, "GRAD_EXP_GROWTH").text == "0.146 at layer1.1"
    assert cell_of(sick, "NONFINITE").state == "clean"
    assert cell_of(sick, "DEAD_RELU").text == "not checked: no rectifier was seen"
    assert cell_of(sick, "NEW").state == "not checked"


def test_facts_are_those_of_the_records(pair, make_case, make_depth):
    facts = dict(facts_of([*pair, make_case("deep", depth=make_depth(9))]))
    assert facts["verdict"] == ["\u2716 Sick", "\u2714 Healthy", "\u2716 Sick"]
    assert facts["growth towards the input"][0] == "\N{MULTIPLICATION SIGN}1.21 per two layers, R\u00b2 1.00"
    assert facts["growth towards the input"][1] == "\N{MULTIPLICATION SIGN}1.20 per block, R\u00b2 1.00"
    assert facts["gradient at the first place over the last"][0] == f"{1.1**19:.3g}"
    assert facts["effective depth"] == ["\N{EN DASH}", "\N{EN DASH}", "4.5 of 9"]


def test_both_are_on_one_axis_from_input_to_loss(pair):
    picture = over_depth(pair)
    rows = [row for rows in picture.spec["datasets"].values() for row in rows]
    for name, count in (("plain20", 20), ("resnet20", 9)):
        shares = [row["share"] for row in rows if row["line"] == name]
        assert (shares[0], shares[-1], len(shares)) == (0, 1, count)
    assert "6.12-fold in plain20" in picture.caption


def test_strips_share_their_vertical_axis(pair):
    spec = strips(pair).spec
    assert [panel["title"] for panel in spec["vconcat"]] == ["plain20", "resnet20"]
    domains = set(re.findall(r'"domain": (\[[^\[\]]*\]), "nice": false, "rangeM', json.dumps(spec)))
    assert len(domains) == 1


def test_a_dead_network_beside_a_living_one(pair, make_case, make_reading, tmp_path):
    dead = make_case("dead", readings=(make_reading([0.0] * 9),))
    empty = make_case("empty", readings=(make_reading(parameters=()),))
    write_comparison([*pair, dead, empty], tmp_path / "page.html")
    assert "dead" not in over_depth([pair[0], dead]).caption
    assert not strips([empty, empty]).is_drawn


def test_how_many_and_which_names(make_case, tmp_path):
    with pytest.raises(RequestError, match="2 to 7 diagnoses, got 1"):
        write_comparison([make_case()], tmp_path / "page.html")
    with pytest.raises(RequestError, match="got 8"):
        write_comparison([make_case(str(place)) for place in range(8)], tmp_path / "page.html")
    with pytest.raises(RequestError, match="different names"):
        write_comparison([make_case(), make_case()], tmp_path / "page.html")


def test_a_rule_that_agrees_and_found_something_stays(make_case):
    assert [rule for rule, _ in rules_of([make_case("a"), make_case("b")])] == ["GRAD_EXP_GROWTH"]
    nothing = VerdictRecord("healthy", (), (), {})
    assert rules_of([make_case("a", judged=nothing), make_case("b", judged=nothing)]) == []


@pytest.mark.slow
def test_the_page_opens_offline(pair, browse, tmp_path):
    page = browse(write_comparison(pair, tmp_path / "page.html"))
    assert page.locator("#together svg.marks").count() == page.locator("#strips svg.marks").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    with page.expect_download() as download:
        page.locator("[data-csv='places of plain20']").click()
    assert len(Path(download.value.path()).read_text(encoding="utf-8").splitlines()) == 21
