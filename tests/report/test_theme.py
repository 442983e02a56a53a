"""Whoever sees little can read every word: WCAG 2.1, success criterion 1.4.3, asks for a contrast of 4.5."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from tests.report.contrast import contrast, luminance

from reslab.report.theme import ALARM, CARD, INK, QUIET

TEMPLATE = files("reslab.report").joinpath("page.html.j2").read_text(encoding="utf-8")
SCHEMES = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", TEMPLATE, re.S)]
GROUNDS, NOT_TEXT = {"page", "card"}, {"line"}


def test_the_formula_is_the_one_of_wcag():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)


def test_there_is_a_light_and_a_dark_scheme_of_the_same_names():
    light, dark = SCHEMES
    assert light.keys() == dark.keys() > GROUNDS | NOT_TEXT
    assert luminance(light["page"]) > luminance(dark["page"])


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark"])
def test_the_words_of_the_page_stand_out(scheme):
    ratios = {
        (text, ground): contrast(scheme[text], scheme[ground])
        for text in scheme.keys() - GROUNDS - NOT_TEXT
        for ground in GROUNDS
    }
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def test_the_words_of_the_charts_stand_out():
    assert min(contrast(colour, CARD) for colour in (INK, QUIET, ALARM)) >= 4.5
    assert f".chart {{ background: {CARD.lower()}; color: {INK};" in TEMPLATE
