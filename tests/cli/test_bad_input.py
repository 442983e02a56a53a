"""Bad input: one sentence, exit code 2, nothing lost and nothing created."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reslab.models.catalog import create_model
from reslab.records import RunFolder
from reslab.weights.bundle import save_weights

SMALL = ["train", "--model", "resnet8", "--threads", "1", "--device", "cpu", "--out", "new"]
TINY = [*SMALL, "--data", "digits", "--steps", "2"]
PHOTOS = [*SMALL, "--steps", "1", "--val-split", "0.5", "--data"]


def png(folder: Path, *names: str, side: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (side, side), (number, 20 * number, 40)).save(folder / name)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_run) -> Path:
    """One folder with every kind of wrong thing in it, and a good run."""
    root = tmp_path_factory.mktemp("bad")
    shutil.copytree(tiny_run, root / "run")
    shutil.copytree(
        tiny_run, root / "unfinished", ignore=shutil.ignore_patterns("model*", "config.json", "report.html")
    )
    record = RunFolder(root / "unfinished").read_run()
    record.status = "interrupted"
    (root / "unfinished" / "run.json").write_text(record.to_json())
    (root / "damaged").mkdir()
    (root / "damaged" / "run.json").write_text("{ torn")

    six = [f"{number}.png" for number in range(6)]
    for name in ("a", "b"):
        png(root / "photos" / name, *six)
        png(root / "truncated" / name, *six, side=80)
    cut = root / "truncated" / "b" / "3.png"
    cut.write_bytes(cut.read_bytes()[:70])
    (root / "empty").mkdir()
    png(root / "empty_class" / "train" / "a", *six)
    (root / "empty_class" / "train" / "b").mkdir()
    for folder in ("train/a", "train/b", "val/a", "val/c"):
        png(root / "differing" / folder, *six)
    (root / "no_images").mkdir()
    (root / "no_images" / "notes.txt").write_text("nothing to see")
    (root / "table").mkdir()
    pq.write_table(pa.table({"pixels": [b"x"], "label": [0]}), root / "table" / "train-0.parquet")

    Image.new("I;16", (8, 8), 900).save(root / "sixteen.png")
    Image.new("RGBA", (8, 8), (9, 9, 9, 100)).save(root / "transparent.png")
    Image.new("L", (3, 8)).save(root / "tiny.png")
    Image.new("L", (8, 400)).save(root / "long.png")
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    (root / "cut.jpg").write_bytes(buffer.getvalue()[:900])
    (root / "notes.txt").write_text("mine")

    save_weights(root / "other.safetensors", create_model("resnet14", num_classes=10, in_channels=1).state_dict())
    save_weights(root / "wider.safetensors", create_model("resnet8", num_classes=7, in_channels=1).state_dict())
    (root / "garbage.safetensors").write_bytes(b"garbage" * 9)
    for name, text in {
        "key": "[optim]\nlrr = 0.1\n",
        "section": "[optimiser]\nlr = 0.1\n",
        "syntax": "[optim\nlr = 0.1\n",
        "type": "[optim]\nlr = 'fast'\n",
        "value": "optim = 3\n",
    }.items():
        (root / f"{name}.toml").write_text(text)
    return root


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


CASES = {
    "unknown command": ("trian", r"Unknown command 'trian'. Did you mean 'train'"),
    "unknown model": ([*TINY, "--model", "resnet57"], r"'resnet57'.*'resnet56'"),
    "misspelt model": ([*TINY, "--model", "rasnet20"], r"Unknown model 'rasnet20'. Did you mean 'resnet20'"),
    "depth that is not 6n+2": ([*TINY, "--model", "resnet21"], r"'resnet21'.*6n\+2.*'resnet20'"),
    "plain with a shortcut": (
        [*TINY, "--model", "plain56", "--shortcut", "projection"], r"plain56 is a plain .*'projection'.*'resnet56'"
    ),
    "absent builder": ([*TINY, "--model", "nowhere.nets:build"], r"Can't import the network 'nowhere.nets:build'"),
    "unknown dataset": ([*TINY, "--data", "cifar-10"], r"Unknown dataset 'cifar-10'. Did you mean 'cifar10'"),
    "absent named data": ([*TINY, "--data", "mnist", "--data-dir", "empty"], r"No mnist below empty.*--download"),
    "absent data folder": ([*PHOTOS, "no/such"], r"No such data folder: no/such"),
    "data is a file": ([*PHOTOS, "notes.txt"], r"notes\.txt is a file. Name the folder"),
    "data without a name": ([*PHOTOS, ""], r"Unknown dataset ''"),
    "empty data folder": ([*PHOTOS, "empty"], r"The data folder empty is empty"),
    "no class folders": ([*PHOTOS, "no_images"], r"no_images contains no class folders"),
    "empty class": ([*PHOTOS, "empty_class"], r"class folder empty_class/train/b contains no images"),
    "differing classes": ([*PHOTOS, "differing"], r"differing/val lacks b and has in addition c"),
    "truncated image": ([*PHOTOS, "truncated"], r"Can't read the image truncated/b/3\.png.*Replace or remove"),
    "parquet without columns": ([*PHOTOS, "table"], r"columns pixels, label; expected one called image or img"),
    "val_split larger than a class": ([*TINY, "--val-split", "5000"], r"takes \d+ of the \d+ .*class '0'.*smaller"),
    "val_split too small": ([*TINY, "--val-split", "3"], r"val_split 3 takes 0 of the \d+ images .*larger"),
    "val_split no count": ([*TINY, "--val-split", "2.5"], r"fraction in \(0, 1\) or a whole number .*got 2\.5"),
    "val_split infinite": ([*TINY, "--val-split", "inf"], r"--val-split must be a finite number, got inf"),
    "augmentation that does not suit": (
        [*TINY, "--set", "data.alternate_flip=true"],
        r"alternate_flip replaces the random flip, and augment 'none' has none",
    ),
    "an unknown recipe": ([*TINY, "--recipe", "fast-cifr"], r"Unknown recipe 'fast-cifr'\. Did you mean 'fast-cifar'"),
    "a recipe for photographs": (
        [*TINY, "--recipe", "rsb-a3"],
        r"is for images of 96 to 100000 pixels, and those of digits have 8",
    ),
    "mixup below zero": ([*TINY, "--mixup", "-0.2"], r"--mixup must be at least 0, got -0\.2"),
    "weights that are not there": ([*TINY, "--weights", "nowhere.pt"], r"nowhere\.pt"),
    "lr-find of no range": (
        ["lr-find", *TINY[1:], "--lowest", "1", "--highest", "0.1"],
        r"up to a higher one, got lowest 1 and highest 0\.1",
    ),
    "lr-find of too few steps": (["lr-find", *TINY[1:], "--range-steps", "4"], r"at least 10 steps .* got 4"),
    "lr-find onto a file": (["lr-find", *TINY[1:], "--out", "notes.txt"], r"--out notes\.txt is a file"),
    "batch-find without data": (["batch-find", "--data", "no/such"], r"No such data folder: no/such"),
    "thumbnails of small images": ([*TINY, "--cache-mib", "9"], r"kept in memory anyway"),
    "TOML key": ([*TINY, "--config", "key.toml"], r"key\.toml 'optim\.lrr'. Did you mean 'optim\.lr'"),
    "TOML section": ([*TINY, "--config", "section.toml"], r"section\.toml 'optimiser'. Did you mean 'optim'"),
    "TOML syntax": ([*TINY, "--config", "syntax.toml"], r"syntax\.toml is not valid TOML.*line 1"),
    "TOML type": ([*TINY, "--config", "type.toml"], r"type\.toml: optim\.lr takes a number, got 'fast'"),
    "TOML value for a section": ([*TINY, "--config", "value.toml"], r"\[optim\] is a section, got the value 3"),
    "absent TOML": ([*TINY, "--config", "none.toml"], r"No such config file: none\.toml"),
    "--set key": ([*TINY, "--set", "optim.lrr=1"], r"--set 'optim\.lrr'. Did you mean 'optim\.lr'"),
    "--set without a value": ([*TINY, "--set", "optim.lr"], r"--set takes section\.key=value, got 'optim\.lr'"),
    "--set value": ([*TINY, "--set", "data.channels=2"], r"Unknown data\.channels '2'. Expected one of: 0, 1, 3"),
    "not a number": ([*TINY, "--set", "optim.lr=nan"], r"optim\.lr must be a finite number, got nan"),
    "steps below 0": ([*TINY, "--steps", "-1"], r"--steps must be at least 0, got -1"),
    "epochs 0": ([*TINY, "--epochs", "0"], r"--epochs must be at least 1, got 0"),
    "batch size 0": ([*TINY, "--batch-size", "0"], r"--batch-size must be at least 1, got 0"),
    "negative seed": ([*TINY, "--seed", "-1"], r"--seed must be at least 0, got -1"),
    "warm-up longer than the run": ([*TINY, "--warmup-epochs", "9"], r"warm-up of .* would fill the whole run of 2"),
    "device that is not there": ([*TINY, "--device", "cuda:99"], r"No device 'cuda:99' on this machine.*--device cpu"),
    "unknown device": ([*TINY, "--device", "banana"], r"Unknown device 'banana'. Expected auto, cpu"),
    "--out holds a run": ([*TINY, "--out", "run"], r"run has a run already.*--resume.*--overwrite"),
    "--out is a file": ([*TINY, "--out", "notes.txt"], r"--out notes\.txt is a file. Name a folder"),
    "--overwrite of what is no run": ([*TINY, "--out", "photos", "--overwrite"], r"photos has files in it but no run"),
    "--overwrite with a wrong request": ([*TINY, "--out", "run", "--overwrite", "--model", "resnet9"], r"'resnet9'"),
    "--resume with another config": (
        "train --out run --resume --lr 0.5", r"run was started with other options.*optim\.lr was 0\.1, now 0\.5"
    ),
    "weights of another depth": (
        "evaluate run --weights other.safetensors", r"other\.safetensors doesn't fit.*unexpected keys \(layer1\.1"
    ),
    "weights of another width": (
        "evaluate run --weights wider.safetensors",
        r"2 keys of another shape \(fc\.weight \(7, 64\) instead of \(10, 64\)",
    ),
    "weights that are none": ("evaluate run --weights garbage.safetensors", r"is not a valid safetensors file"),
    "absent weights": ("predict run tiny.png --weights gone.safetensors", r"No such weights file: gone\.safetensors"),
    "evaluate of what is no run": ("evaluate photos", r"photos contains no trained network"),
    "evaluate of an unfinished run": ("evaluate unfinished", r"unfinished has no weights yet: the run is interrupted"),
    "evaluate of a damaged run": ("evaluate damaged", r"damaged/run\.json is damaged"),
    "evaluate with other classes": ("evaluate run --data photos", r"photos has other classes.*10 and 2 classes"),
    "unknown split": ("evaluate run --split tset", r"Unknown split 'tset'. Did you mean 'test'"),
    "predict of 16 bits": ("predict run sixteen.png", r"sixteen\.png has mode 'I;16'.*8 bits"),
    "predict of transparency": ("predict run transparent.png", r"transparent\.png is partly transparent"),
    "predict of a tiny image": ("predict run tiny.png", r"tiny\.png has 3x8 pixels; .* trained on 8x8"),
    "predict of a long image": ("predict run long.png", r"long\.png has 8x400 pixels"),
    "predict of a truncated image": ("predict run cut.jpg", r"Can't read the image cut\.jpg: .*truncated"),
    "predict of an absent image": ("predict run gone.png", r"No such image or folder: gone\.png"),
    "predict of no image": ("predict run", r"Name at least one image"),
    "predict of a folder without images": ("predict run no_images", r"no_images contains no images"),
    "predict of no classes": ("predict run sixteen.png --top 0", r"--top must be at least 1, got 0"),
    "predict without a run": ("predict photos sixteen.png", r"photos contains no trained network"),
    "report of what is no run": ("report photos -o new.html", r"photos is not a run"),
    "report of a damaged run": ("report damaged -o new.html", r"damaged/run\.json is damaged"),
    "report onto a folder": ("report run -o photos", r"-o photos is a folder"),
    "report of nothing": ("report -o new.html", r"Name at least one run"),
    "no such models": ("models plian*", r"Unknown model 'plian\*'"),
    "demo depth": ("demo --depths 21 --out new", r"Depths are 6n\+2.*21"),
    "demo onto a file": ("demo --out notes.txt", r"--out notes\.txt is a file"),
    "patience without validation": ([*TINY, "--val-split", "0", "--patience", "2"], r"needs a validation split"),
    "more parts than images": ([*TINY, "--batch-size", "4", "--accumulate", "5"], r"batch of 4 .* got 5"),
    "the same over a run": (
        [*TINY, "--out", "run", "--overwrite", "--val-split", "0", "--patience", "2"], r"needs a validation split"
    ),
}  # fmt: skip


def words(arguments: str | list[str]) -> list[str]:
    return arguments.split() if isinstance(arguments, str) else arguments


@pytest.mark.parametrize(("arguments", "sentence"), CASES.values(), ids=CASES)
def test_one_sentence_and_nothing_changes(reslab, workspace, monkeypatch, arguments, sentence):
    monkeypatch.chdir(workspace)
    before = snapshot(workspace)
    answer = reslab(*words(arguments))
    errors = [line for line in answer.err.splitlines() if line.startswith("reslab: error: ")]
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert len(errors) == 1
    assert answer.err.endswith(errors[0] + "\n")  # the last word, and in one line
    assert "Traceback" not in answer.err
    assert snapshot(workspace) == before
    assert re.search(sentence, errors[0]), errors[0]


@pytest.mark.parametrize("name", ["weights.safetensors", "report.html", "checkpoints/step-00000001.pt"])
def test_files_of_somebody_else_in_out_are_not_lost(reslab, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"somebody else's")
    answer = reslab(*TINY, "--out", tmp_path)
    assert answer.code == 2
    assert snapshot(tmp_path)[name] == b"somebody else's"


@pytest.mark.parametrize(
    "name", ["unknown command", "unknown model", "truncated image", "--out holds a run", "weights of another depth"]
)
def test_json_has_the_same_sentence_as_the_one_object_on_stdout(reslab, workspace, monkeypatch, name):
    monkeypatch.chdir(workspace)
    answer = reslab(*words(CASES[name][0]), "--json")
    found = json.loads(answer.out)
    assert answer.code == found["exit_code"] == 2
    assert answer.err.endswith(f"reslab: error: {found['error']}\n")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["train", "--modle", "resnet8"], "--model"),
        (["train", "--batchsize", "3"], "--batch-size"),
        (["evaluate", "run", "--splits", "val"], "--split"),
        (["predict", "run", "--tops", "2"], "--top"),
    ],
)
def test_a_wrong_flag_gets_the_closest_one(reslab, arguments, meant):
    answer = reslab(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert f"{arguments[-2]}" in answer.err
    assert meant in answer.err.split("Perhaps you meant")[1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "--batch-size", "many"], "--batch-size"),
        (["train", "--sched", "cosin"], "cosine"),
        (["train", "--config"], "--config"),
        (["evaluate"], "Folder of the run"),
    ],
)
def test_a_wrong_or_missing_value_names_its_flag(reslab, arguments, word):
    answer = reslab(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert word in answer.err
    assert "Traceback" not in answer.err


def test_no_command_shows_the_usage_and_is_wrong(reslab):
    answer = reslab()
    assert answer.code == 2
    assert "usage: reslab COMMAND" in answer.out


def test_refused_images_do_not_keep_the_others_from_being_classified(reslab, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    answer = reslab("predict", "run", "sixteen.png", "photos/a", "tiny.png", "--json")
    found = json.loads(answer.out)
    assert answer.code == 2
    assert [Path(p["image"]).name for p in found["predictions"]] == [f"{number}.png" for number in range(6)]
    assert len(found["refused"]) == answer.err.count("reslab: error: ") == 2


# ---- the same through a process of its own


def run_process(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reslab", *arguments]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "Unknown command 'trian'"),
        (["train", "--config", "key.toml"], "Did you mean 'optim.lr'"),
        pytest.param([*TINY, "--device", "cuda"], "No device 'cuda' on this machine: it has 0", marks=pytest.mark.slow),
        pytest.param([*PHOTOS, "truncated"], "truncated/b/3.png", marks=pytest.mark.slow),
        pytest.param([*TINY, "--out", "run"], "run has a run already", marks=pytest.mark.slow),
        pytest.param(["predict", "run", "sixteen.png"], "sixteen.png has mode 'I;16'", marks=pytest.mark.slow),
    ],
)
def test_a_process_ends_with_2_and_one_sentence(workspace, arguments, sentence):
    before = snapshot(workspace)
    done = run_process(workspace, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("reslab: error: ")
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert snapshot(workspace) == before
