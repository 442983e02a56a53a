"""The picture of a network: well-formed, legible, nothing on top of anything, and it says what the record says."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace

import pytest
from PIL import Image

from reslab.errors import RequestError
from reslab.records.structure import BlockRecord, LayerKind, LayerRecord, StageRecord, StructureRecord
from reslab.report import figure, structure_figure
from reslab.report._svg import MAX_WIDTH, SMALL, STYLES, text_width

SVG = "{http://www.w3.org/2000/svg}"


# ---- records to draw


def layer(kind: LayerKind, text: str) -> LayerRecord:
    return LayerRecord(kind, text)


NORM, RELU = layer("norm", "batch norm"), layer("activation", "ReLU")
CONV = layer("conv", "3x3 conv, 64")
POINTWISE = layer("conv", "1x1 conv, 2048")
GROUPED = layer("conv", "3x3 conv, 2048, 32 groups, /2")

BASIC = BlockRecord(
    name="layer1.0",
    last="layer1.0",
    count=1,
    kind="BasicBlock",
    in_shape=(64, 56, 56),
    out_shape=(64, 56, 56),
    entry=(),
    branch=(CONV, NORM, RELU, CONV, NORM),
    shortcut="identity",
    shortcut_layers=(),
    junction="add",
    after=(RELU,),
    num_parameters=73_984,
    macs=231_211_008,
)
BLOCKS = {
    "identity": BASIC,
    "folded": replace(BASIC, count=9),
    "thousand": replace(BASIC, count=1000),
    "zero_pad": replace(BASIC, shortcut="zero_pad", shortcut_layers=(layer("other", "zero-pad, /2"),)),
    "projection": replace(
        BASIC,
        kind="Bottleneck",
        branch=(POINTWISE, NORM, RELU, GROUPED, NORM, RELU, POINTWISE, NORM, layer("attention", "squeeze-excite")),
        shortcut="projection",
        shortcut_layers=(layer("conv", "1x1 conv, 2048, /2"), NORM),
    ),
    "wide shortcut": replace(
        BASIC,
        kind="SingleBlock",
        branch=(CONV,),
        shortcut="projection_pool",
        shortcut_layers=(layer("pool", "2x2 avg-pool, /2"), layer("conv", "1x1 conv, 2048"), NORM),
    ),
    "shared entry": replace(BASIC, entry=(NORM, RELU), branch=(CONV, NORM, RELU, CONV), after=()),
    "scaled": replace(BASIC, junction="add, shortcut x 0.5, branch x learned scale"),
    "plain": replace(BASIC, shortcut="none", junction="", count=8),
    "plain single": replace(BASIC, kind="SingleBlock", branch=(CONV,), shortcut="none", junction="", after=()),
    "inside": replace(BASIC, kind="DenseBlock", branch=(CONV, NORM) * 40, shortcut="inside", junction="", after=()),
    "layers": replace(BASIC, kind="layers", branch=(CONV, RELU), shortcut="none", junction="", after=()),
    "folded layers": replace(BASIC, kind="layers", branch=(CONV, RELU), shortcut="none", junction="", count=2),
    "endless": replace(BASIC, kind="Endless", branch=(CONV, NORM, RELU) * 30),
    "no parameters": replace(BASIC, kind="layers", branch=(layer("pool", "max-pool"),), shortcut="none", junction=""),
}


def part(name: str, layers: tuple[LayerRecord, ...], in_shape=(64, 56, 56), out_shape=(64, 56, 56)) -> StageRecord:
    return StageRecord(name, in_shape, out_shape, layers, (), 9_536, 118_013_952)


def stage_of(name: str, *blocks: BlockRecord) -> StageRecord:
    return StageRecord(name, (64, 56, 56), (64, 56, 56), (), blocks, 147_968, 462_422_016)


def network(*stages: StageRecord, name: str = "resnet") -> StructureRecord:
    stem = part(
        "stem", (layer("conv", "7x7 conv, 64, /2"), NORM, RELU, layer("pool", "3x3 max-pool, /2")), (3, 224, 224)
    )
    head = part("head", (layer("pool", "global avg-pool"), layer("linear", "linear, 1000")), out_shape=(1000,))
    return StructureRecord(name, (3, 224, 224), 50, 25_557_032, 4_089_184_256, (stem, *stages, head))


NETWORKS = {key: network(stage_of("layer1", block)) for key, block in BLOCKS.items()}
NETWORKS["everything"] = network(*(stage_of(key, block, block) for key, block in BLOCKS.items()))
NETWORKS["many in a stage"] = network(stage_of("layer1", *BLOCKS.values()))
NETWORKS["only layers"] = network()
NETWORKS["long words"] = network(
    stage_of("features.denseblock1-transition12", replace(BASIC, kind="SqueezedInvertedResidualBlock", count=3)),
    name="my_company_resnet_with_a_long_name_32x4d_small_images",
)
NETWORKS["long head"] = network(
    part("head", (layer("linear", "linear, 4096"), RELU, layer("other", "dropout 0.5")) * 9)
)


# ---- where the words stand


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float
    what: str

    def meets(self, other: Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: Box) -> bool:
        across = self.left <= other.left + 0.01 and other.right <= self.right + 0.01
        return across and self.top <= other.top + 0.01 and other.bottom <= self.bottom + 0.01


def parse(record: StructureRecord) -> ElementTree.Element:
    """The drawing, its groups moved to where they lie: every x, y, point and turn is that on the page."""
    root = ElementTree.fromstring(structure_figure(record).svg)
    move(root, 0.0, 0.0)
    return root


def move(element: ElementTree.Element, dx: float, dy: float) -> None:
    if element.tag == f"{SVG}g":
        x, y = map(float, re.findall(r"-?[\d.]+", element.attrib["transform"]))
        dx, dy = dx + x, dy + y
    for keys, change in ((("x", "cx"), dx), (("y", "cy"), dy)):
        for key in keys:
            if key in element.attrib:
                element.set(key, str(float(element.attrib[key]) + change))
    if "d" in element.attrib:
        pairs = re.sub(
            r"(-?[\d.]+) (-?[\d.]+)", lambda at: f"{float(at[1]) + dx:g} {float(at[2]) + dy:g}", element.attrib["d"]
        )
        element.set("d", pairs)
    for child in element:
        move(child, dx, dy)


def box_of_words(text: ElementTree.Element) -> Box:
    """From the base line: letters rise by 0.75 and fall by 0.2 of their size."""
    x, y, size = (float(text.attrib[key]) for key in ("x", "y", "font-size"))
    width = text_width(text.text or "", size=size, bold="font-weight" in text.attrib)
    start = {"start": 0.0, "middle": width / 2, "end": width}[text.attrib["text-anchor"]]
    if "transform" in text.attrib:
        assert text.attrib["transform"].startswith("rotate(-90 ")
        return Box(x - 0.75 * size, y - width + start, x + 0.2 * size, y + start, text.text or "")
    return Box(x - start, y - 0.75 * size, x - start + width, y + 0.2 * size, text.text or "")


def boxes_of_words(root: ElementTree.Element) -> list[Box]:
    return [box_of_words(text) for text in root.iter(f"{SVG}text")]


def rectangles(root: ElementTree.Element) -> list[Box]:
    found = []
    for rect in root.iter(f"{SVG}rect"):
        x, y = (float(rect.attrib.get(key, 0)) for key in ("x", "y"))
        width, height = (float(rect.attrib[key]) for key in ("width", "height"))
        found.append(Box(x, y, x + width, y + height, rect.attrib["class"]))
    return found


def words(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def styles(root: ElementTree.Element) -> list[str]:
    return [element.attrib["class"] for element in root.iter() if "class" in element.attrib]


@pytest.fixture(scope="module", params=NETWORKS)
def drawn(request) -> ElementTree.Element:
    return parse(NETWORKS[request.param])


def test_words_do_not_touch(drawn):
    boxes = boxes_of_words(drawn)
    assert len(boxes) > 8
    assert [(one.what, other.what) for one, other in itertools.combinations(boxes, 2) if one.meets(other)] == []


def test_words_are_inside_the_picture_and_large_enough(drawn):
    width, height = (float(drawn.attrib[key]) for key in ("width", "height"))
    picture = Box(0, 0, width, height, "")
    assert drawn.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
    assert [box.what for box in boxes_of_words(drawn) if not picture.holds(box)] == []
    assert min(float(text.attrib["font-size"]) for text in drawn.iter(f"{SVG}text")) >= SMALL == 11


def test_the_words_of_a_box_are_inside_it(drawn):
    rects = rectangles(drawn)
    for text in drawn.iter(f"{SVG}text"):
        if text.attrib["text-anchor"] == "middle" and text.attrib["class"] != "plain-ink":
            assert any(rect.what != "band" and rect.holds(box_of_words(text)) for rect in rects[1:]), text.text


def test_boxes_stay_in_their_band(drawn):
    rects = rectangles(drawn)
    bands = [rect for rect in rects if rect.what == "band"]
    for rect in rects:
        if rect.what not in ("ground", "band", "card"):
            assert any(band.holds(rect) for band in bands), rect


def test_every_look_has_a_style_on_light_and_on_dark(drawn):
    assert set(styles(drawn)) <= set(STYLES)
    style = drawn.find(f"{SVG}style").text
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    for name in set(styles(drawn)):
        assert f".{name}{{{STYLES[name][0]}}}" in light
        assert f".{name}{{{STYLES[name][1]}}}" in dark


def test_the_picture_fits_a_page(drawn):
    assert float(drawn.attrib["width"]) <= MAX_WIDTH


# ---- what it says


def draw(*names: str) -> ElementTree.Element:
    return parse(network(*(stage_of(f"layer{place}", BLOCKS[name]) for place, name in enumerate(names))))


def test_title_and_totals_are_the_records():
    root = draw("identity")
    assert words(root)[:2] == ["resnet", "50 layers \N{MIDDLE DOT} 25,557,032 parameters \N{MIDDLE DOT} 4.09 G MACs"]
    assert root.find(f"{SVG}title").text == "resnet"
    assert "25,557,032" in root.find(f"{SVG}desc").text
    assert {"input 3 \N{MULTIPLICATION SIGN} 224 \N{MULTIPLICATION SIGN} 224", "output 1000"} <= set(words(root))


def test_a_residual_block_has_a_way_past_its_branch_and_a_plain_one_has_none():
    residual, plain = draw("identity"), draw("plain")
    assert styles(residual).count("shortcut") == 3  # the way, and the two strokes of the plus
    assert "identity" in words(residual)
    assert not {"shortcut", "shortcut-arrow", "shortcut-box"} & set(styles(plain))
    assert "no shortcut" in words(plain)
    assert "plain" in styles(plain)
    assert words(plain)[1].startswith("plain: no shortcuts")


def test_the_way_past_goes_above_the_branch_and_ends_in_the_plus():
    root = draw("identity")
    line = next(path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib["class"] == "shortcut")
    points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", line)]
    plus = next(circle for circle in root.iter(f"{SVG}circle") if circle.attrib["class"] == "shortcut-box")
    card = max((r for r in rectangles(root) if r.what == "card"), key=lambda r: r.bottom - r.top)
    boxes = [r for r in rectangles(root) if r.what in ("conv", "norm") and card.holds(r)]
    assert min(y for _, y in points) < min(box.top for box in boxes)
    assert points[0][0] < min(box.left for box in boxes)
    assert points[-1][0] == pytest.approx(float(plus.attrib["cx"]))
    assert points[-1][0] > max(box.right for box in boxes)


def test_what_stands_on_the_shortcut_is_drawn_on_it():
    root = draw("projection")
    blue = [text for text in root.iter(f"{SVG}text") if text.attrib["class"] == "shortcut-ink"]
    on_it = [text.text for text in blue if "font-weight" not in text.attrib]
    assert on_it == ["1\N{MULTIPLICATION SIGN}1 conv, 2048, /2", "batch norm"]
    assert "zero-pad, /2" in words(draw("zero_pad"))


def test_folded_blocks_lie_in_a_stack_with_their_number():
    count = {
        name: len([rect for rect in rectangles(draw(name)) if rect.what == "card"]) for name in ("identity", "folded")
    }
    assert count["folded"] == count["identity"] + 2
    times = "\N{MULTIPLICATION SIGN}"
    assert "BasicBlock" in words(draw("identity"))
    assert f"BasicBlock {times}9" in words(draw("folded"))
    assert f"BasicBlock {times}1000" in words(draw("thousand"))
    assert draw("thousand").attrib["height"] == draw("folded").attrib["height"]  # depth makes it no larger
    assert f"{times}2" in words(draw("folded layers"))


def test_a_junction_that_is_no_bare_addition_says_so():
    times = "\N{MULTIPLICATION SIGN}"
    assert f"shortcut {times} 0.5, branch x learned scale" in words(draw("scaled"))


def test_a_block_whose_ways_are_unknown_claims_nothing():
    root = draw("inside")
    assert {"80 layers", "paths unknown"} <= set(words(root))
    assert "no shortcut" not in words(root)
    assert not {"shortcut", "plain"} & set(styles(root))


def test_a_row_too_long_for_the_page_says_what_it_leaves_out():
    shown = words(draw("endless"))
    left_out = int(shown[shown.index("more layers") - 1])
    drawn_layers = sum(word in ("3\N{MULTIPLICATION SIGN}3 conv", "batch norm", "ReLU") for word in shown)
    assert left_out + drawn_layers == 90 + len(["batch norm", "ReLU"]) + len(["ReLU"])  # branch, stem, after


def test_names_are_escaped_and_kept():
    root = parse(network(stage_of("<&>", BASIC), name='my "net" <1> & 32x4d'))
    assert words(root)[0] == 'my "net" <1> & 32x4d'
    assert "<&>" in words(root)


# ---- files


def test_both_kinds_of_file_show_the_same_picture(tmp_path):
    drawn = structure_figure(NETWORKS["folded"])
    drawn.save(tmp_path / "net.svg")
    drawn.save(tmp_path / "net.PNG")
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == drawn.svg
    width, height = (float(ElementTree.fromstring(drawn.svg).attrib[key]) for key in ("width", "height"))
    with Image.open(tmp_path / "net.PNG") as image:
        assert image.size == (pytest.approx(2 * width, abs=1), pytest.approx(2 * height, abs=1))
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert {(255, 255, 255), (0x00, 0x5F, 0x96)} <= colours  # light, and the shortcut's blue
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.PNG", "net.svg"]


def test_a_file_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "write_atomic", full)
    with pytest.raises(RequestError, match=r"Can't write .*net\.svg: No space left on device"):
        structure_figure(NETWORKS["identity"]).save(tmp_path / "net.svg")
