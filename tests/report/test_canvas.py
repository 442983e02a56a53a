"""The looks of a picture: words and ways stand out on light and on dark, and the font is that of all charts."""

from __future__ import annotations

import inspect
import re

import pytest
from tests.report.contrast import contrast

from reslab.report import theme
from reslab.report.canvas import FONT, LOOKS, with_times


def test_only_the_x_between_numbers_is_a_multiplication_sign():
    assert with_times("3x3 max-pool") == "3\N{MULTIPLICATION SIGN}3 max-pool"
    assert with_times("branch x 0.2") == "branch \N{MULTIPLICATION SIGN} 0.2"
    assert with_times("mix of x") == "mix of x"


GROUNDS = {
    "ink": ["ground", "band", "card", "conv", "linear", "norm", "activation", "pool", "attention", "other"],
    "quiet": ["ground", "band", "card"],
    "past-ink": ["hole", "past-box", "card"],
    "plain-ink": ["card"],
    "way-ink": ["card"],
}


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ink", GROUNDS)
def test_words_stand_out(ink, side):
    fill = {
        name: re.search(r"fill:(#\w{6})", style[side])[1] for name, style in LOOKS.items() if "fill:#" in style[side]
    }
    low = {ground: contrast(fill[ink], fill[ground]) for ground in GROUNDS[ink]}
    assert {ground: ratio for ground, ratio in low.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_the_ways_stand_out(side):
    """WCAG 2.1, 1.4.11: 3 for what is no text."""
    strokes = {name: re.search(r"stroke:(#\w{6})", LOOKS[name][side])[1] for name in ("way", "past", "plain")}
    card = re.search(r"fill:(#\w{6})", LOOKS["card"][side])[1]
    assert min(contrast(stroke, card) for stroke in strokes.values()) >= 3


def test_the_font_is_that_of_all_charts():
    assert FONT in inspect.getsource(theme)
