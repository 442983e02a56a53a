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
    assert "What helps: add shortcuts" in plain.out
    twin = reslab("diagnose", "--model", "resnet56", *NETWORK)
    assert "resnet56 on digits: healthy" in twin.out


def test_json_is_one_object(reslab):
    found = json.loads(reslab("diagnose", "--model", "resnet8", *NETWORK, "--json").out)
    assert found["verdict"] == "healthy"
    assert found["name"] == "resnet8 on digits"
    assert [block["name"] for block in found["readings"][0]["blocks"]] == ["layer1.0", "layer2.0", "layer3.0"]


def test_a_run_is_read_after_its_training(reslab, tiny_run):
    found = json.loads(reslab("diagnose", tiny_run, "--json").out)
    assert found["readings"][0]["step"] == 2
    assert "LOSS_RANGE" in found["not_checked"]


def test_a_run_may_come_after_the_flags(reslab, tiny_run):
    assert json.loads(reslab("diagnose", "--json", tiny_run).out)["readings"][0]["step"] == 2
    assert json.loads(reslab("diagnose", "--device", "cpu", "--json", tiny_run).out)["readings"][0]["step"] == 2


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
    RunFolder(tmp_path / "half").weights_card.unlink()
    answer = reslab("diagnose", tmp_path / "half")
    assert answer.code == 2
    assert "has no weights yet" in answer.err
