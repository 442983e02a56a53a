"""Records that hold records come back as they were written: types, NaN, and all."""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

import reslab
from reslab.errors import RequestError
from reslab.probe.diagnosis import diagnose
from reslab.records import ReadingRecord, RunFolder
from reslab.records.files import encode, from_plain, read_lines


@pytest.fixture(scope="module")
def reading():
    torch.manual_seed(0)
    model = reslab.create_model("resnet8", 3)
    return diagnose(model, (torch.randn(4, 3, 8, 8), torch.arange(4) % 3), F.cross_entropy).readings[0]


def test_a_reading_comes_back_equal(reading, tmp_path):
    folder = RunFolder(tmp_path)
    assert not any(math.isnan(value) for _, value in reading.responses)
    folder.readings.write_text(encode(asdict(reading)) + "\n")
    [back] = folder.read_readings()
    assert repr(back) == repr(reading)  # NaN is equal to NaN there
    assert (type(back.blocks), type(back.blocks[0].shape)) == (tuple, tuple)


def test_numbers_that_are_none_have_their_names_everywhere(reading, tmp_path):
    block = replace(reading.blocks[0], cosine=math.nan, shortcut_gain=math.inf)
    broken = replace(
        reading,
        loss=-math.inf,
        blocks=(block,),
        responses=(("conv1", math.nan), ("NaN", 1.0)),
        parameters=(replace(reading.parameters[0], grad_norm=math.nan),),
    )
    text = encode(asdict(broken))
    assert "NaN" not in text.replace('"NaN"', "")
    back = from_plain(ReadingRecord, json.loads(text))
    assert back.loss == -math.inf
    assert math.isnan(back.blocks[0].cosine)
    assert back.blocks[0].shortcut_gain == math.inf
    assert math.isnan(back.responses[0][1])
    assert back.responses[1] == ("NaN", 1.0)  # a module of that name stays one
    assert math.isnan(back.parameters[0].grad_norm)


@dataclass(frozen=True)
class Inner:
    value: float


@dataclass(frozen=True)
class Outer:
    step: int
    parts: tuple[Inner, ...] = ()
    named: dict[str, float] | None = None
    kind: Literal["a", "b"] = "a"


def test_unknown_keys_are_left_out_and_whole_numbers_are_numbers():
    found = from_plain(Outer, {"step": 1, "parts": [{"value": 2, "more": 3}], "named": {"x": "Infinity"}, "new": 0})
    assert found == Outer(1, (Inner(2.0),), {"x": math.inf})


@pytest.mark.parametrize(
    "line",
    ['{"step": 1, "parts": [{"value": "x"}]}', '{"step": 1.5}', '{"step": "one"}', '{"parts": []}',
     '{"step": 1, "parts": 3}', '{"step": 1, "parts": [3]}', '{"step": 1, "kind": "c"}', '{"step": 1, "kind": []}',
     '{"step": 1, "named": {"x": null}}', '{"step": 1, "parts": [{"value": []}]}'],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "outer.jsonl"
    path.write_text('{"step": 0}\n' + line + "\n")
    with pytest.raises(RequestError, match=r"outer\.jsonl, line 2, is damaged"):
        read_lines(path, Outer, key=lambda record: record.step)
