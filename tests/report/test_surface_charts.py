"""Charts of the loss around the weights, what they say, and their numbers, on surfaces made by hand."""

import json
import math

import pytest

from reslab.errors import RequestError
from reslab.records import PlaneRecord, SliceRecord
from reslab.report.loss_plane import bands_of, line_at, plane_caption, plane_chart, plane_rows
from reslab.report.loss_slice import bowl_of, loss_at, slice_caption, slice_chart, slice_rows
from reslab.report.theme import save_png


def row_of(count=41, span=1.0):
    half = count // 2
    return tuple(span * place / half for place in range(-half, half + 1))


def slice_of(curve, *, name="resnet56", norms="batch", seed=0, span=1.0):
    positions = row_of(span=span)
    return SliceRecord(name, positions, tuple(curve(x) for x in positions), norms, seed)


def plane_of(surface, *, name="resnet56", norms="batch", seed=0, count=21):
    at = row_of(count)
    return PlaneRecord(name, at, tuple(tuple(surface(x, y) for x in at) for y in at), norms, seed)


def parabola(x):
    return 1 + 4 * x * x


def bowl(x, y):
    return 1 + 4 * (x * x + y * y)


def spec_of(chart):
    spec = chart.to_dict()
    json.dumps(spec, allow_nan=False)  # a browser can read it
    return spec


def find_all(node, key):
    if isinstance(node, dict):
        here = [node[key]] if key in node else []
        return here + [hit for value in node.values() for hit in find_all(value, key)]
    return [hit for item in node for hit in find_all(item, key)] if isinstance(node, list) else []


def rows_of(spec, *keys):
    rows = [row for rows in spec.get("datasets", {}).values() for row in rows]
    rows += [row for data in find_all(spec, "values") if isinstance(data, list) for row in data]
    return [row for row in rows if isinstance(row, dict) and set(keys) <= row.keys()]


def scales_of(spec, channel):
    return [found["scale"] for found in find_all(spec, channel) if isinstance(found, dict) and found.get("scale")]


# ---- slices


def test_all_points_are_drawn():
    spec = spec_of(slice_chart([slice_of(parabola), slice_of(lambda x: 2.0, name="plain56")]))
    rows = rows_of(spec, "network", "position", "loss")
    assert len(rows) == 82
    assert {row["network"] for row in rows} == {"resnet56", "plain56"}
    drawn = {row["position"]: row["loss"] for row in rows if row["network"] == "resnet56"}
    assert drawn[0.5] == 2.0
    assert drawn[0.0] == 1.0


def test_plain_is_warm_and_residual_is_cool():
    spec = spec_of(slice_chart([slice_of(parabola), slice_of(parabola, name="plain56")]))
    scale = next(scale for scale in scales_of(spec, "color") if "domain" in scale)
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {"resnet56": "#0072B2", "plain56": "#D55E00"}


def test_directions_of_one_network_share_a_colour_and_are_not_joined():
    spec = spec_of(slice_chart([slice_of(parabola), slice_of(parabola, seed=1)]))
    assert next(scale for scale in scales_of(spec, "color") if "domain" in scale)["domain"] == ["resnet56"]
    assert {row["line"] for row in rows_of(spec, "network")} == {0, 1}
    assert "2 seeds." in json.dumps(spec)


@pytest.mark.parametrize(
    ("curve", "is_log"), [(parabola, False), (lambda x: math.exp(5 * abs(x)), True), (lambda x: x * 99, False)]
)
def test_the_axis_is_logarithmic_where_the_losses_ask_for_it(curve, is_log):
    scale = scales_of(spec_of(slice_chart([slice_of(curve)])), "y")[0]
    assert (scale.get("type") == "log") == is_log
    low, high = scale["domain"]
    losses = [curve(x) for x in row_of()]
    assert low < min(losses)
    assert high > max(losses)


def test_an_explosion_does_not_flatten_the_rest():
    spec = spec_of(slice_chart([slice_of(lambda x: 1e30 if x > 0.9 else parabola(x))]))
    assert scales_of(spec, "y")[0]["domain"][1] < 1e5
    assert "above 10,000 not shown" in json.dumps(spec)


def test_points_that_are_not_finite_have_crosses():
    broken = slice_of(lambda x: math.inf if x < -0.8 else math.nan if x > 0.9 else parabola(x))
    spec = spec_of(slice_chart([broken]))
    assert sum(row["loss"] is None for row in rows_of(spec, "network")) == 4 + 2
    assert "not finite" in json.dumps(spec)
    assert "not finite" not in json.dumps(spec_of(slice_chart([slice_of(parabola)])))


def test_the_slice_is_told_in_numbers():
    assert slice_caption([slice_of(parabola)]) == (
        "resnet56: at a distance of 0.5 the loss goes from 1 to 2 (mean of both sides), 2 \N{MULTIPLICATION SIGN};"
        " it is below twice its value from -0.5 to 0.5."
    )


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (lambda x: 1 + x * x / 2, "it stays below twice its value up to 1."),
        (lambda x: 2 + x, "it is lower elsewhere, 1 at -1."),
        (
            lambda x: math.inf if abs(x) > 0.3 else 1.0,
            "to values that are not finite; it is below twice its value from -0.3",
        ),
        (lambda x: math.nan, "the loss of the network itself is not finite."),
        (lambda x: x * x - 1, "the loss goes from -1 to -0.75 (mean of both sides)."),
    ],
)
def test_the_slice_is_told_also_where_it_is_odd(curve, words):
    assert words in slice_caption([slice_of(curve)])


def test_a_short_slice_is_told_at_its_ends():
    assert "at a distance of 0.1 the loss goes from 1 to 1.04" in slice_caption([slice_of(parabola, span=0.1)])


def test_the_bowl_is_as_wide_as_the_parabola_says():
    for steepness in (0.5, 2.0, 30.0):
        expected = min(1.0, math.sqrt(1 / steepness))  # where 1 + s x x is 2
        left, right = bowl_of(slice_of(lambda x, s=steepness: 1 + s * x * x))
        assert right == pytest.approx(expected, abs=0.01)
        assert left == pytest.approx(-expected, abs=0.01)


def test_only_the_bowl_around_the_network_counts():
    record = slice_of(lambda x: 5.0 if 0.3 < abs(x) < 0.5 else 1.0)
    assert 0.3 <= bowl_of(record)[1] <= 0.35


def test_between_points_the_loss_is_linear():
    record = SliceRecord("", (-1.0, 0.0, 1.0), (3.0, 1.0, math.inf), "batch", 0)
    assert loss_at(record, -0.25) == 1.5
    assert loss_at(record, 0.0) == 1.0
    assert loss_at(record, 0.5) == math.inf


def test_rows_have_every_number():
    rows = slice_rows([slice_of(parabola, seed=3)])
    assert len(rows) == 41
    assert rows[0] == {"network": "resnet56", "norms": "batch", "seed": 3, "position": -1.0, "loss": 5.0}


# ---- planes


def test_every_map_has_the_same_colours():
    spec = spec_of(plane_chart([plane_of(bowl), plane_of(lambda x, y: 100 * bowl(x, y), name="plain56")]))
    colours = [scale for scale in scales_of(spec, "color") if scale.get("type") == "threshold"]
    assert len(colours) == 2
    assert colours[0] == colours[1]
    assert colours[0]["scheme"]["count"] == len(colours[0]["domain"]) + 1
    assert len(rows_of(spec, "x", "y", "loss")) == 2 * 21 * 21


def test_a_row_of_the_record_lies_along_the_first_direction():
    spec = spec_of(plane_chart([plane_of(lambda x, y: 3 + x + 0.1 * y)]))
    losses = {(row["x"], row["y"]): row["loss"] for row in rows_of(spec, "x", "y", "loss")}
    assert losses[1.0, 0.0] == 4.0
    assert losses[0.0, 1.0] == 3.1


def test_colours_do_not_heed_the_extremes():
    usual = [1 + place / 100 for place in range(1000)]
    assert bands_of([*usual, 1e30, 1e-30]) == bands_of(usual)
    assert min(bands_of(usual)) >= 1
    assert max(bands_of(usual)) <= 11


def test_an_explosion_on_one_map_leaves_colours_for_the_rest():
    wild = plane_of(lambda x, y: min(1e30, bowl(x, y) * 10 ** (99 * (abs(x) + abs(y)))), name="plain56")
    spec = spec_of(plane_chart([plane_of(bowl), wild]))
    bands = next(scale for scale in scales_of(spec, "color") if scale.get("type") == "threshold")["domain"]
    assert 1e3 <= bands[-1] <= 1e4
    assert sum(1 <= band <= 9 for band in bands) >= 2  # the bowl goes from 1 to 9


@pytest.mark.parametrize(
    "losses",
    [
        [10 ** (place / 100) for place in range(1000)],
        [10 ** (place / 10) for place in range(300)],
        [2 + place / 1e4 for place in range(100)],
        [place - 50.0 for place in range(100)],
        [place**9 - 50.0 for place in range(100)],
        [3.0] * 10,
    ],
)
def test_there_is_a_readable_number_of_bands(losses):
    bands = bands_of(losses)
    assert bands == sorted(set(bands))
    assert 1 <= len(bands) <= 12
    assert len(set(losses)) == 1 or len(bands) >= 5


def test_the_contour_of_a_bowl_is_a_circle():
    pieces = line_at(plane_of(bowl), 2.0)  # 1 + 4 r r is 2 at r of a half
    assert all(abs(math.hypot(x, y) - 0.5) < 0.01 for piece in pieces for x, y in (piece[:2], piece[2:]))
    length = sum(math.dist(piece[:2], piece[2:]) for piece in pieces)
    assert length == pytest.approx(math.pi, rel=0.01)
    ends = [end for piece in pieces for end in (piece[:2], piece[2:])]
    assert all(ends.count(end) % 2 == 0 for end in ends)  # it is closed


def test_a_saddle_has_two_pieces_and_a_broken_square_none():
    record = PlaneRecord("", (0.0, 1.0), ((2.0, 0.0), (0.0, 2.0)), "batch", 0)
    assert len(line_at(record, 1.0)) == 2
    assert line_at(PlaneRecord("", (0.0, 1.0), ((math.inf, 0.0), (0.0, 2.0)), "batch", 0), 1.0) == []


def test_points_of_the_plane_that_are_not_finite_are_crossed_out():
    broken = plane_of(lambda x, y: math.nan if x > 0.75 else math.inf if y > 0.95 else bowl(x, y))
    spec = spec_of(plane_chart([broken]))
    crossed = [row for row in rows_of(spec, "x", "y", "loss") if row["loss"] == "not finite"]
    assert len(crossed) == 3 * 21 + 18
    assert "Crossed out" in json.dumps(spec)
    assert f"{3 * 21 + 18} of 441 points are not finite." in plane_caption([broken])


def test_the_plane_is_told_in_numbers():
    area = float(plane_caption([plane_of(bowl, count=101)]).split(" on ")[1].split(" %")[0])
    assert area == pytest.approx(100 * math.pi / 4 / 4, rel=0.05)  # a circle of radius a half in a square of 2
    assert plane_caption([plane_of(bowl)]).startswith("resnet56: the loss is below twice that of the network (1) on ")
    assert "itself is not finite" in plane_caption([plane_of(lambda x, y: math.nan)])
    words = "the loss of the network is -1, the highest on the plane 0."
    assert words in plane_caption([plane_of(lambda x, y: max(abs(x), abs(y)) - 1)])


def test_rows_of_the_plane_have_every_number():
    rows = plane_rows([plane_of(lambda x, y: 3 + x + 0.1 * y)])
    assert len(rows) == 441
    first = {"network": "resnet56", "norms": "batch", "seed": 0, "first": -1.0, "second": -1.0, "loss": 1.9}
    assert rows[0] == pytest.approx(first)
    assert (rows[1]["first"], rows[1]["second"]) == (-0.9, -1.0)


# ---- both


def test_titles_and_names():
    assert slice_caption([slice_of(parabola)], titles=["mine"]).startswith("mine: ")
    assert slice_rows([slice_of(parabola, name="")])[0]["network"] == "network 1"
    both = [slice_of(parabola), slice_of(parabola, norms="frozen")]
    assert {row["network"] for row in slice_rows(both)} == {"resnet56, batch", "resnet56, frozen"}


def test_nothing_to_draw_is_said():
    for draw in (slice_chart, plane_chart, slice_caption, plane_caption):
        with pytest.raises(RequestError, match="nothing to draw"):
            draw([])
    with pytest.raises(RequestError, match="No loss of resnet56 is finite"):
        slice_chart([slice_of(lambda x: math.nan)])
    with pytest.raises(RequestError, match="No loss of resnet56 is finite"):
        plane_chart([plane_of(lambda x, y: math.inf)])
    with pytest.raises(RequestError, match="one title for each of 1 records, got 2"):
        slice_chart([slice_of(parabola)], titles=["a", "b"])


@pytest.mark.parametrize("losses", ["usual", "flat", "broken", "negative"])
def test_pictures_can_be_made(tmp_path, losses):
    shapes = {
        "usual": bowl,
        "flat": lambda x, y: 2.0,
        "broken": lambda x, y: math.nan if x > 0.5 else 10 ** (9 * abs(y)),
        "negative": lambda x, y: x - 1,
    }
    shape = shapes[losses]
    save_png(plane_chart([plane_of(shape)]), tmp_path / "plane.png", scale=1)
    save_png(slice_chart([slice_of(lambda x: shape(x, 0.0))]), tmp_path / "slice.png", scale=1)
    assert all((tmp_path / f"{kind}.png").read_bytes()[:4] == b"\x89PNG" for kind in ("plane", "slice"))
