from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from reslab.report.diagnosis.spine import SPINE_LOOKS, bump_width, ratio_of, runs_of, spine

SVG = "{http://www.w3.org/2000/svg}"


def classes_of(svg: str) -> list[str]:
    return [element.get("class", "") for element in ET.fromstring(svg).iter()]


def test_equal_neighbours_are_one_run(make_reading):
    runs = runs_of(make_reading([1.0] * 999).blocks)
    assert [(run.label, len(run.blocks)) for run in runs] == [
        ("333 \N{MULTIPLICATION SIGN} identity, 16 x 8 x 8", 333)
    ] * 3


def test_another_kind_or_shape_is_another_run(make_block):
    blocks = [
        make_block(0, "a.0"),
        make_block(1, "a.1"),
        make_block(2, "a.2", kind="zero_pad"),
        make_block(3, "a.3", shape=(4, 32, 4, 4)),
    ]
    assert [run.label for run in runs_of(blocks)] == [
        "2 \N{MULTIPLICATION SIGN} identity, 16 x 8 x 8",
        "zero pad, 16 x 8 x 8",
        "identity, 32 x 4 x 4",
    ]


@pytest.mark.parametrize("count", [1, 9, 1000])
def test_a_thousand_blocks_are_as_small_as_nine(make_reading, count, tmp_path):
    picture = spine([make_reading([1.0] * count)])
    assert len(picture.svg) < 40_000
    assert classes_of(picture.svg).count("bump") == min(count, 3)
    picture.save(tmp_path / "spine.png")
    assert len(picture.rows) == count


def test_every_look_has_a_style_and_every_number_is_one(make_reading, make_block):
    blocks = (
        make_block(0, "a.0", kind="projection"),
        make_block(1, "a.1", shortcut_norm=0.0),
        make_block(2, "a.2", shortcut_norm=0.0, branch_norm=0.0),
        make_block(3, "a.3", kind="pool"),
    )
    svg = spine([make_reading(blocks=blocks)]).svg
    assert {name for name in classes_of(svg) if name} <= set(SPINE_LOOKS)
    assert "nan" not in svg
    assert "inf" not in svg


def test_projections_are_diamonds_and_others_circles(make_reading, make_block):
    blocks = tuple(make_block(index, f"a.{index}", kind=kind) for index, kind in enumerate(["projection", "zero_pad"]))
    tags = [element.tag for element in ET.fromstring(spine([make_reading(blocks=blocks)]).svg).iter()]
    assert tags.count(f"{SVG}polygon") == 2  # and the tip of the arrow
    assert tags.count(f"{SVG}circle") == 3  # and two signs of addition


def test_the_bump_is_as_wide_as_the_ratio(make_reading, make_block):
    def width(branch: float) -> float:
        svg = spine([make_reading(blocks=(make_block(0, "a.0", shortcut_norm=1.0, branch_norm=branch),))]).svg
        return next(
            float(each.get("stroke-width")) for each in ET.fromstring(svg).iter() if each.get("class") == "bump"
        )

    assert width(1.0) == pytest.approx(2 * width(0.5))
    assert width(1e-9) == bump_width(0.0)
    assert width(100.0) == bump_width(1e9)


def test_ratio_of_nothing(make_block):
    assert ratio_of(make_block(0, "a", shortcut_norm=2.0, branch_norm=1.0)) == 0.5
    assert ratio_of(make_block(0, "a", shortcut_norm=0.0, branch_norm=1.0)) == math.inf
    assert math.isnan(ratio_of(make_block(0, "a", shortcut_norm=0.0, branch_norm=0.0)))


def test_names_are_words_not_tags(make_reading, make_block):
    svg = spine([make_reading(blocks=(make_block(0, "<b>&.0"), make_block(1, "<b>&.1")))]).svg
    assert any("<b>&" in (element.text or "") for element in ET.fromstring(svg).iter())


def test_a_drawing_is_dark_where_that_is_asked_for(make_reading, tmp_path):
    picture = spine([make_reading([1.0] * 9)])
    for name, dark in (("light", False), ("dark", True)):
        picture.save(tmp_path / f"{name}.svg", dark=dark)
        picture.save(tmp_path / f"{name}.png", dark=dark)
    assert (tmp_path / "light.svg").read_text(encoding="utf-8") == picture.svg
    assert "prefers-color-scheme" not in (tmp_path / "dark.svg").read_text(encoding="utf-8")
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()


def test_no_block_is_a_reason(make_reading):
    picture = spine([make_reading(layer_norms=[1.0] * 9)])
    assert not picture.is_drawn
    assert "no spine" in picture.caption


def test_the_caption_says_where_branches_carry_most(make_reading, make_block):
    blocks = tuple(make_block(i, f"a.{i}", shortcut_norm=1.0, branch_norm=0.1 * (i + 1)) for i in range(12))
    caption = spine([make_reading(blocks=blocks)]).caption
    assert "12 residual additions in 1 run of equal ones" in caption
    assert "most at a.11 (1.2); 2 of 12 hand back more" in caption


def test_a_run_unfolds_into_its_blocks(make_block, make_reading):
    blocks = [make_block(place, f"layer1.{place}", branch_norm=0.1 * place) for place in range(4)]
    picture = spine([make_reading(blocks=(*blocks, make_block(4, "layer2.0", kind="projection")))])
    ((title, part),) = picture.parts
    assert title == "layer1.0 to layer1.3: 4 \N{MULTIPLICATION SIGN} identity, 16 x 8 x 8"
    assert [part.count(f">layer1.{place}<") for place in range(4)] == [1] * 4
    bars = [float(width) for width in re.findall(r'class="bar"[^>]* width="([\d.]+)"', part)]
    assert bars[0] == 0
    assert bars[3] == max(bars) > 0
    assert bars[1] == pytest.approx(bars[3] / 3, abs=0.1)
