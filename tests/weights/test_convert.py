"""``reslab convert``: what it prints, what it writes, and what it never overwrites."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from their_networks import images, save, scramble

from reslab.models.architecture import Architecture
from reslab.models.catalog import create_model
from reslab.weights import open_weights, read_bundle
from reslab.weights.bundle import digest, load_state
from reslab.weights.convert import convert

FLAGS = "--model --to --out --num-classes --adapt-head --ema --keys --dry-run --force --json"  # frozen


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """What a training script leaves: torchvision's resnet18, in DDP, among other things."""
    network = scramble(torchvision.models.resnet18(weights=None, num_classes=7))
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    average = {key: value * 2 if value.is_floating_point() else value for key, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average, "epoch": 9}, tmp_path / "model_best.pth.tar")
    return tmp_path / "model_best.pth.tar"


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_help_names_the_frozen_flags_and_does_not_import_torch():
    script = (
        "import sys\nfrom reslab.cli.main import main\n"
        "try: main(['convert', '--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", result.stdout)) - {"--help"}
    assert {flag for flag in found if not flag.startswith("--no-")} == set(FLAGS.split())
    assert re.search(r"--out STR, -o STR|-o STR, --out STR", result.stdout)


def test_a_checkpoint_becomes_safetensors_with_a_card(reslab, checkpoint):
    answer = reslab("convert", checkpoint)
    assert (answer.code, answer.err) == (0, "")
    assert "entry state_dict, prefix module.) -> resnet18: 122 loaded, 2 ignored" in answer.out
    assert "build it: reslab.create_model('resnet18', num_classes=7)" in answer.out
    assert re.search(r"module.layer1.\* +layer1.\* +24 +loaded", answer.out)
    assert re.search(r"epoch +- +1 +ignored +9", answer.out)
    assert answer.out.splitlines()[-1] == "written: model_best-reslab.safetensors, model_best-reslab.json"

    card, stored = read_bundle("model_best-reslab.safetensors")
    assert card.model == {"name": "resnet18", "num_classes": 7, "in_channels": 3}
    assert (card.task, card.provenance["layout"]) == ({"name": "classify"}, "reslab")
    assert card.provenance["source"]["entry"] == "state_dict"
    assert card.provenance["source"]["sha256"] == digest(checkpoint)
    assert card.digests == {"model_best-reslab.safetensors": digest(Path("model_best-reslab.safetensors"))}
    original = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, original[f"module.{key}"]) for key, value in stored.items())
    load_state(create_model("resnet18", 7), stored, where="converted")
    with safetensors.safe_open("model_best-reslab.safetensors", "pt") as file:
        assert json.loads(file.metadata()["reslab"])["model"] == card.model
        assert file.metadata()["format"] == "pt"


def test_every_key_is_printed_when_asked(reslab, checkpoint):
    answer = reslab("convert", checkpoint, "--keys", "--dry-run")
    assert re.search(r"module.layer3.1.bn2.running_var +layer3.1.bn2.running_var +1 +loaded", answer.out)
    assert answer.out.splitlines()[-1] == "nothing written"
    assert not list(Path().iterdir())


def test_json_is_one_object(reslab, checkpoint):
    answer = reslab("convert", checkpoint, "--json")
    found = json.loads(answer.out)
    assert answer.out.count("\n") == 1
    assert found["call"] == "create_model('resnet18', num_classes=7)"
    assert found["written"] == ["model_best-reslab.safetensors", "model_best-reslab.json"]
    assert found["report"]["counts"] == {"loaded": 122, "ignored": 2}
    assert len(found["report"]["rows"]) == 124
    assert found["card"] | {"digests": 0} == json.loads(Path("model_best-reslab.json").read_text()) | {"digests": 0}


def test_the_moving_average(reslab, checkpoint):
    assert reslab("convert", checkpoint, "--ema", "-o", "new/folder/ema.safetensors").code == 0
    assert {path.name for path in Path("new/folder").iterdir()} == {"ema.safetensors", "ema.json"}
    stored = safetensors.torch.load_file("new/folder/ema.safetensors")
    assert torch.equal(stored["fc.bias"], 2 * torch.load(checkpoint, weights_only=True)["state_dict"]["module.fc.bias"])


def test_a_fresh_head_is_the_same_each_time(reslab, checkpoint):
    for name in ("a", "b"):
        answer = reslab("convert", checkpoint, "--num-classes", "3", "--adapt-head", "--out", f"{name}.safetensors")
        assert answer.code == 0, answer.err
    first, second = (safetensors.torch.load_file(f"{name}.safetensors") for name in ("a", "b"))
    assert first["fc.weight"].shape == (3, 512)
    assert torch.equal(first["fc.weight"], second["fc.weight"])
    assert re.search(r"module.fc.weight +fc.weight +1 +kept +\(7, 512\) in the file, \(3, 512\) here", answer.out)
    assert read_bundle("a.safetensors")[0].model["num_classes"] == 3
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    convert(checkpoint, num_classes=3, adapt_head=True)
    assert torch.equal(torch.rand(1), expected)  # the caller's numbers are left alone


def test_from_ours_to_timm_and_back_by_files(reslab, timm):
    ours = scramble(create_model("preresnet18", 5))
    save("ours.safetensors", ours.state_dict())
    assert reslab("convert", "ours.safetensors", "--to", "timm").code == 0
    theirs = timm.create_model("resnetv2_18", num_classes=5).eval()
    theirs.load_state_dict(safetensors.torch.load_file("ours-timm.safetensors"))
    x = images(dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-5)
    assert reslab("convert", "ours-timm.safetensors", "-o", "back.safetensors").code == 0
    back = safetensors.torch.load_file("back.safetensors")
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, back[key]) for key, value in ours.state_dict().items())
    answer = reslab("convert", "ours.safetensors", "--to", "torchvision")
    assert answer.code == 2
    assert "torchvision has no network that computes the same: this one has order='pre'" in answer.err


ODD = Architecture(
    block="basic", num_blocks=(1, 1), widths=(24, 48), stem="small", stem_width=24, shortcut="zero_pad", num_classes=3
)


@pytest.mark.parametrize("lost", ["theirs-reslab.json", "nothing"])
@pytest.mark.parametrize(
    ("name", "shortcut", "head"), [("resnet8", "zero_pad_both", "linear"), (ODD, "zero_pad", "fc")]
)
def test_what_was_assumed_once_is_known_from_then_on(reslab, name, shortcut, head, lost):
    network = create_model(name, shortcut=shortcut)
    save("theirs.safetensors", {k.replace("fc.", f"{head}."): value for k, value in network.state_dict().items()})
    assert "assumed: " in reslab("convert", "theirs.safetensors").out
    Path(lost).unlink(missing_ok=True)  # the file carries its card
    found, report = open_weights("theirs-reslab.safetensors")
    assert (found.architecture, report.assumptions) == (network.architecture, [])


def test_a_run_is_converted(reslab, tmp_path):
    options = ["--model", "plain8", "--data", "digits", "--steps", "1", "--threads", "1", "--device", "cpu"]
    threads = torch.get_num_threads()
    assert reslab("train", *options, "--out", tmp_path / "runs" / "p").code == 0
    torch.set_num_threads(threads)
    answer = reslab("convert", tmp_path / "runs" / "p")
    assert answer.code == 0, answer.err
    assert "-> plain8: " in answer.out  # the run's card says so; keys alone would say resnet8
    assert read_bundle("p-reslab.safetensors")[0].model == {"name": "plain8", "num_classes": 10, "in_channels": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet50"], r"doesn't fit: 98 of the network's 320 keys .*The file holds resnet18"),
        (["--model", "resnet19"], "error: Unknown model 'resnet19'"),
        (["--num-classes", "3"], r"fits except for the head.*--adapt-head"),
        (["--num-classes", "-3"], "num_classes counts from 1, got -3"),
        (["--out", "new.pth"], r"written as safetensors: name a file that ends with .safetensors, got new.pth"),
        (["--to", "timmm"], "timmm"),
    ],
)
def test_wrong_requests_leave_nothing_behind(reslab, checkpoint, arguments, message):
    answer = reslab("convert", checkpoint, *arguments)
    assert answer.code == 2
    assert re.search(message, answer.err)
    assert "Traceback" not in answer.err
    assert not list(Path().iterdir())
    as_json = reslab("convert", checkpoint, *arguments, "--json")
    assert as_json.code == json.loads(as_json.out)["exit_code"] == 2


def test_nothing_is_overwritten_without_force(reslab, checkpoint):
    for name in ("a.safetensors", "a.json"):
        Path(name).write_text("mine")
        answer = reslab("convert", checkpoint, "--out", "a.safetensors")
        assert answer.code == 2
        assert re.search(rf"{name} exists already. --force overwrites", answer.err)
        assert Path(name).read_text() == "mine"
        Path(name).unlink()
    Path("a.safetensors").write_text("mine")
    assert reslab("convert", checkpoint, "--out", "a.safetensors", "--force").code == 0
    assert open_weights("a.safetensors")[1].model == "resnet18"
    answer = reslab("convert", "a.safetensors", "--out", "a.safetensors", "--force")
    assert (answer.code, "is the file that is read" in answer.err) == (2, True)


def test_a_folder_that_cant_be_written_is_a_failure_of_the_work(reslab, checkpoint):
    Path("place").write_text("a file where a folder should be")
    answer = reslab("convert", checkpoint, "--out", "place/a.safetensors")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
