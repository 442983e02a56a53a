"""``reslab diagnose``: the verdict for people and for programs, of a network and of a run."""

from __future__ import annotations

import json
import shutil

from reslab.records import RunFolder

NETWORK = ["--data", "digits", "--threads", "1", "--device", "cpu"]


def test_a_plain_network_is_sick_and_its_twin_is_not(reslab):
    plain = reslab("diagnose", "--model", "plain56", *NETWORK)
    assert plain.code == 0, plain.err
    assert "plain56 on digits: sick" in plain.out
    assert "GRAD_EXP_GROWTH" in plain.out
    assert "Suggested fix: add shortcuts" in plain.out
    twin = reslab("diagnose", "--model", "resnet56", *NETWORK)
    assert "resnet56 on digits: healthy" in twin.out


def test_json_is_one_object(reslab):
    found = json.loads(reslab("diagnose", "--model", "resnet8", *NETWORK, "--json").out)
    assert found["verdict"] == "healthy"
    assert found["name"] == "resnet8 on digits"
    assert [block["name"] for block in found["readings"][0]["blocks"]] == ["layer1.0", "layer2.0", "layer3.0"]


def test_a_run_is_read_while_it_trains_and_afterwards(reslab, tiny_run):
    found = json.loads(reslab("diagnose", tiny_run, "--json").out)
    assert [reading["step"] for reading in found["readings"]] == [0, 1, 2]
    assert [record["step"] for record in found["losses"]] == [0, 1]
    assert "LOSS_RANGE" in found["clean"]


def test_a_run_may_come_after_the_flags(reslab, tiny_run):
    assert json.loads(reslab("diagnose", "--json", tiny_run).out)["readings"][-1]["step"] == 2
    assert json.loads(reslab("diagnose", "--device", "cpu", "--json", tiny_run).out)["readings"][-1]["step"] == 2


def test_a_network_of_ones_own(reslab, tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, num_classes), nn.Softmax(dim=1))\n"
    )
    monkeypatch.chdir(tmp_path)
    for flags in (["--import", "my_nets:build"], ["--import=my_nets:build"]):
        answer = reslab("diagnose", *flags, *NETWORK)
        assert answer.code == 0, answer.err
        assert "SOFTMAX_TWICE" in answer.out


def test_what_is_no_run_is_refused(reslab, tiny_run, tmp_path):
    answer = reslab("diagnose", tmp_path / "none")
    assert answer.code == 2
    assert "No folder" in answer.err
    shutil.copytree(tiny_run, tmp_path / "half")
    RunFolder(tmp_path / "half").card.unlink()
    answer = reslab("diagnose", tmp_path / "half")
    assert answer.code == 2
    assert "has no weights yet" in answer.err


def test_pages_and_their_comparison(reslab, tmp_path):
    pages = [tmp_path / f"{name}.html" for name in ("plain20", "resnet20")]
    for page in pages:
        answer = reslab("diagnose", "--model", page.stem, *NETWORK, "--twin", "-o", page)
        assert answer.code == 0, answer.err
        assert f"page: {page}" in answer.out
        assert f"Diagnosis of {page.stem} on digits" in page.read_text()
    answer = reslab("report", *pages, "-o", tmp_path / "both.html", "--json")
    found = json.loads(answer.out)
    assert [one["name"] for one in found["diagnoses"]] == ["plain20 on digits", "resnet20 on digits"]
    assert "resnet20 on digits" in (tmp_path / "both.html").read_text()


def test_full_measures_the_depth(reslab):
    found = json.loads(reslab("diagnose", "--model", "resnet8", *NETWORK, "--full", "--json").out)
    assert [lesion["name"] for lesion in found["depth"]["lesions"]] == ["layer1.0", "layer2.0", "layer3.0"]
    assert "SHATTERED" in found["clean"]


def test_a_page_that_cannot_be_written_or_compared(reslab, tiny_run, tmp_path):
    answer = reslab("diagnose", "--model", "resnet8", *NETWORK, "-o", tmp_path)
    assert answer.code == 2
    assert "is a folder; name a file" in answer.err
    page = tmp_path / "page.html"
    assert reslab("diagnose", tiny_run, "-o", page).code == 0
    answer = reslab("report", page, tiny_run, "-o", tmp_path / "out.html")
    assert answer.code == 2
    assert "is not a page: runs and pages" in answer.err
    (tmp_path / "other.html").write_text("<p>hello</p>")
    answer = reslab("report", page, tmp_path / "other.html", "-o", tmp_path / "out.html")
    assert answer.code == 2
    assert "is not a page of a diagnosis" in answer.err
