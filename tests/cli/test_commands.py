"""Good paths through the commands, and the flags, which are a public contract."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from reslab.cli._flags import _flags_type, expand_bare_flags
from reslab.cli.main import COMMANDS
from reslab.cli.train import OWN
from reslab.options import build
from reslab.records import RunFolder
from reslab.records.files import to_plain
from reslab.run.config import FLAGS, RunConfig, load_config

TINY = ["train", "--model", "resnet8", "--data", "digits", "--steps", "2", "--threads", "1", "--device", "cpu"]

TRAIN_FLAGS = """
    --task --model --shortcut --connection --order --norm --drop-path --zero-init-residual --dropout --checkpoint-blocks
    --weights
    --data --data-dir --download --val-split --test --augment --policy --erasing --mixup --cutmix
    --image-size --batch-size --fit-batch --workers --cache-mib
    --opt --lr --momentum --nesterov --weight-decay --clip-grad --sched --warmup-epochs
    --epochs --steps --label-smoothing --amp --channels-last --compile --accumulate --ema-decay --patience
    --precise-norm --deterministic --seed --device --threads --track
    --recipe --config --out --set --resume --overwrite --json
"""  # frozen: adding one is a decision, removing or renaming one breaks scripts


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def photo(tmp_path) -> Path:
    """A digit of scikit-learn's as a PNG."""
    Image.fromarray((load_digits().images[3] * (255 / 16)).round().astype("uint8")).save(tmp_path / "three.png")
    return tmp_path / "three.png"


def test_the_flags_of_train_are_frozen(reslab):
    answer = reslab("train", "--help")
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", answer.out)) - {"--help"}
    found = {flag for flag in found if not flag.startswith("--no-")}
    mentioned = {flag for flag in found if flag not in TRAIN_FLAGS.split()}
    assert not mentioned
    fields = _flags_type(RunConfig(), OWN, tuple(FLAGS), about="").__dataclass_fields__
    assert {"--" + name.replace("_", "-") for name in fields} == set(TRAIN_FLAGS.split())
    assert found == set(TRAIN_FLAGS.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(reslab, command):
    answer = reslab(command, "--help")
    assert answer.code == 0
    assert f"usage: reslab {command}" in answer.out
    assert "--json" in answer.out


def test_the_first_help_names_every_command(reslab):
    for words in (["--help"], ["-h"], ["help"]):
        answer = reslab(*words)
        assert answer.code == 0
        assert all(f"\n  {command} " in answer.out for command in COMMANDS)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", reslab("--version").out)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["predict", "--help"]])
def test_help_does_not_import_torch(arguments):
    script = (
        "import sys\nfrom reslab.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "sys.exit(', '.join(sorted({'torch', 'torchvision', 'sklearn', 'pyarrow', 'altair'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "\n"  # the modules that should not be there


def test_a_run_leaves_everything_behind(tiny_run):
    assert {path.name for path in tiny_run.iterdir()} == {
        "config.toml", "run.json", "steps.jsonl", "epochs.jsonl", "readings.jsonl", "checkpoints",
        "report.html", "config.json", "model.safetensors", "model-last.safetensors",
    }  # fmt: skip


def test_json_is_one_object_and_nothing_else(reslab, tmp_path):
    answer = reslab(*TINY, "--out", tmp_path / "run", "--json")
    found = json.loads(answer.out)
    assert answer.out.count("\n") == 1
    assert (answer.code, found["status"], found["model"]) == (0, "done", "resnet8")
    record = RunFolder(tmp_path / "run").read_run()
    assert found["last"] == to_plain(record.last)
    assert found["num_parameters"] == record.model["num_parameters"]


def test_train_prints_the_config_and_the_errors(reslab, tmp_path):
    answer = reslab(*TINY, "--out", tmp_path / "run", "--lr", "0.0625")
    assert "lr=0.0625" in answer.err
    assert "2 steps" in answer.err
    best = RunFolder(tmp_path / "run").read_run().best
    assert f"{100 * best.scores['test_error']:.2f} %" in answer.out
    assert f"{tmp_path / 'run'}/report.html" in answer.out


def test_the_default_folder_is_named_after_model_and_data(reslab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reslab(*TINY).code == 0
    assert RunFolder(tmp_path / "runs" / "resnet8-digits").read_run().status == "done"


def test_evaluate_says_what_the_run_says(reslab, tiny_run):
    record = RunFolder(tiny_run).read_run()
    for split in ("test", "val", "train"):
        found = json.loads(reslab("evaluate", tiny_run, "--split", split, "--json").out)
        assert found["error"] == record.best.scores[f"{split}_error"]
        assert found["loss"] == pytest.approx(record.best.scores[f"{split}_loss"], rel=1e-6)
        assert sum(map(sum, found["confusion"])) == found["num_images"] == record.data[f"num_{split}"]
        assert found["same_data"]
    by_default = json.loads(reslab("evaluate", tiny_run, "--json").out)
    assert (by_default["split"], by_default["error"]) == ("test", record.best.scores["test_error"])
    last = json.loads(reslab("evaluate", tiny_run, "--weights", "last", "--json").out)
    assert last["error"] == record.last.scores["test_error"]
    assert f"{100 * record.best.scores['test_error']:.2f} %" in reslab("evaluate", tiny_run).out


def test_a_search_leaves_the_test_set_alone(reslab, tmp_path):
    answer = reslab(*TINY, "--no-test", "--out", tmp_path / "search")
    assert answer.code == 0, answer.err
    record = RunFolder(tmp_path / "search").read_run()
    assert "test_error" not in record.last.scores
    assert "val_error" in record.last.scores
    assert record.protocol["test"] == "not read, as asked (data.test)"
    assert record.data["num_test"] is None
    assert json.loads(reslab("evaluate", tmp_path / "search", "--json").out)["split"] == "val"
    asked = json.loads(reslab("evaluate", tmp_path / "search", "--split", "test", "--json").out)
    assert asked["split"] == "test"  # whoever asks for it by name gets it


def test_predict_files_and_folders(reslab, tiny_run, photo):
    (photo.parent / "more").mkdir()
    shutil.copy(photo, photo.parent / "more" / "again.PNG")
    answer = reslab("predict", tiny_run, photo, photo.parent / "more", "--json")
    first, second = json.loads(answer.out)["predictions"]
    assert (answer.code, answer.err) == (0, "")
    assert (Path(first["image"]).name, Path(second["image"]).name) == ("three.png", "again.PNG")
    assert first["top"] == second["top"]
    shares = [share for _, share in first["top"]]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert first["top"][0] == [first["label"], first["probability"]]
    everything = json.loads(reslab("predict", tiny_run, photo, "--top", "99", "--json").out)["predictions"][0]["top"]
    assert sum(share for _, share in everything) == pytest.approx(1)
    assert sorted(name for name, _ in everything) == [str(digit) for digit in range(10)]
    table = reslab("predict", tiny_run, photo).out
    assert f"{100 * first['probability']:.1f} %" in table


def test_predict_notes_what_it_resized(reslab, tiny_run, tmp_path):
    Image.effect_noise((20, 24), 50).save(tmp_path / "large.png")
    found = json.loads(reslab("predict", tiny_run, tmp_path / "large.png", "--json").out)["predictions"][0]
    assert found["note"] == "resized from 20x24, centre crop"


def test_report_of_one_run_and_of_several(reslab, tiny_run, tmp_path):
    twin = shutil.copytree(tiny_run, tmp_path / "twin")
    page = tmp_path / "pages" / "both.html"
    found = json.loads(reslab("report", tiny_run, twin, "-o", page, "--json").out)
    assert found["page"] == str(page)
    assert len(found["runs"]) == 2
    assert "tiny" in page.read_text(encoding="utf-8")
    assert "twin" in page.read_text(encoding="utf-8")
    assert reslab("report", twin, "--out", page).out == f"{page}: 1 run\n"


def test_models_lists_what_matches(reslab):
    found = json.loads(reslab("models", "plain[25]*", "--json").out)["models"]
    assert [row["name"] for row in found] == ["plain20", "plain56", "plain50", "plain50_small"]
    assert found[0]["num_parameters"] == 269_722
    assert re.search(r"^plain20 +269,722 ", reslab("models", "plain20").out, re.MULTILINE)


def test_the_config_of_a_run_gives_the_same_run(reslab, tiny_run, tmp_path):
    assert reslab("train", "--config", tiny_run / "config.toml", "--out", tmp_path / "again").code == 0
    assert (tmp_path / "again" / "config.toml").read_text() == (tiny_run / "config.toml").read_text()
    first, second = (RunFolder(folder).read_run() for folder in (tiny_run, tmp_path / "again"))
    assert (first.last, first.best, first.data) == (second.last, second.best, second.data)
    tree = tomllib.loads((tiny_run / "config.toml").read_text())
    assert load_config(tiny_run / "config.toml") == build(RunConfig, tree)


def test_precedence_is_default_then_toml_then_flags_then_set(reslab, tmp_path):
    (tmp_path / "my.toml").write_text(
        "[optim]\nlr = 0.02\nmomentum = 0.2\nweight_decay = 0.0002\n[schedule]\nkind = 'constant'\n"
    )
    arguments = ["--config", tmp_path / "my.toml", "--lr", "0.03", "--momentum", "0.3", "--set", "optim.lr=0.04"]
    answer = reslab(*TINY, *arguments, "--set", "train.probe=false", "--out", tmp_path / "run")
    assert answer.code == 0
    config = load_config(tmp_path / "run" / "config.toml")
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (0.04, 0.3, 0.0002)
    assert (config.schedule.kind, config.train.probe, config.optim.nesterov) == ("constant", False, False)


def test_switches_and_other_options_reach_the_config(reslab, tmp_path):
    extra = ["--nesterov", "--no-channels-last", "--amp", "bf16", "--sched", "one_cycle", "--label-smoothing", "0.1"]
    more = ["--opt", "adamw", "--ema-decay", "0.9", "--clip-grad", "1.5", "--accumulate", "2", "--seed", "5"]
    assert reslab(*TINY, *extra, *more, "--out", tmp_path / "run").code == 0
    config = load_config(tmp_path / "run" / "config.toml")
    assert (config.optim.nesterov, config.train.channels_last, config.train.amp) == (True, "off", "bf16")
    assert (config.schedule.kind, config.task.label_smoothing, config.optim.kind) == ("one_cycle", 0.1, "adamw")
    assert (config.train.ema_decay, config.train.clip_grad_norm, config.train.accumulate) == (0.9, 1.5, 2)
    assert config.train.seed == 5


@pytest.mark.parametrize(
    ("arguments", "spelled"),
    [
        (["--resume"], ["--resume", "auto"]),
        (["--resume", "--lr", "1"], ["--resume", "auto", "--lr", "1"]),
        (["--resume", "no", "--json"], ["--resume", "no", "--json"]),
        (["--lr", "1"], ["--lr", "1"]),
    ],
)
def test_resume_alone_means_auto(arguments, spelled):
    assert expand_bare_flags(arguments) == spelled


@pytest.mark.parametrize(
    ("arguments", "spelled"),
    [
        (["--compile"], ["--compile", "on"]),
        (["--no-compile", "--seed", "1"], ["--compile", "off", "--seed", "1"]),
        (["--channels-last", "auto"], ["--channels-last", "auto"]),
        (["--no-channels-last"], ["--channels-last", "off"]),
        (["--no-nesterov"], ["--no-nesterov"]),
    ],
)
def test_a_switch_alone_means_on_and_its_no_means_off(arguments, spelled):
    assert expand_bare_flags(arguments) == spelled


def test_resuming_a_run_that_is_done_changes_nothing(reslab, tiny_run):
    before = contents(tiny_run)
    answer = reslab("train", "--out", tiny_run, "--resume")
    assert answer.code == 0
    assert "is done already" in answer.err
    assert contents(tiny_run) == before


def test_resuming_takes_the_runs_own_config(reslab, tiny_run, tmp_path):
    copy = shutil.copytree(
        tiny_run, tmp_path / "copy", ignore=shutil.ignore_patterns("model*", "config.json", "report.html")
    )
    folder = RunFolder(copy)
    record = folder.read_run()
    record.status, wanted = "interrupted", record.last
    folder.run.write_text(record.to_json())
    answer = reslab("train", "--resume", "--out", copy, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["status"] == "done"
    assert folder.read_run().last == wanted
    assert folder.weights.read_bytes() == RunFolder(tiny_run).weights.read_bytes()


def test_resume_where_there_is_no_run_starts_one(reslab, tmp_path):
    assert reslab(*TINY, "--resume", "--out", tmp_path / "new").code == 0
    assert RunFolder(tmp_path / "new").read_run().status == "done"


def test_overwrite_replaces_the_run_and_leaves_other_files(reslab, tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    (copy / "notes.txt").write_text("mine")
    assert reslab(*TINY, "--seed", "9", "--out", copy, "--overwrite").code == 0
    assert RunFolder(copy).read_run().seed == 9
    assert len(RunFolder(copy).read_steps()) == 2
    assert (copy / "notes.txt").read_text() == "mine"


def test_a_folder_of_images_from_training_to_prediction(reslab, tmp_path):
    for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        for split, count in (("train", 12), ("val", 4)):
            folder = tmp_path / "colours" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), tuple(max(0, part - 10 * number) for part in colour)).save(
                    folder / f"{number}.png"
                )
    run, data = tmp_path / "run", tmp_path / "colours"
    options = ["--threads", "1", "--device", "cpu", "--batch-size", "8", "--steps", "20", "--lr", "0.05"]
    assert reslab("train", "--model", "resnet8", "--data", data, "--out", run, *options).code == 0
    assert json.loads(reslab("evaluate", run, "--json").out)["error"] == 0
    found = json.loads(reslab("predict", run, data / "val" / "red", "--json").out)["predictions"]
    assert [prediction["label"] for prediction in found] == ["red"] * 4
    moved = data.rename(tmp_path / "moved")
    again = json.loads(reslab("evaluate", run, "--data", moved, "--json").out)
    assert (again["error"], again["same_data"]) == (0, True)


def test_evaluation_of_other_data_says_so(reslab, tiny_run, tmp_path):
    for digit in range(10):
        folder = tmp_path / "mine" / str(digit)
        folder.mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), 20 * digit + number).save(folder / f"{number}.png")
    answer = reslab("evaluate", tiny_run, "--data", tmp_path / "mine", "--split", "train", "--json")
    found = json.loads(answer.out)
    assert (answer.code, found["same_data"], found["num_images"]) == (0, False, 100)  # all of it
    assert "not the data that the run was trained on" in answer.err


def test_threads_are_those_that_were_asked_for(reslab, tmp_path):
    reslab(*TINY, "--out", tmp_path / "run")
    assert torch.get_num_threads() == 1
    assert RunFolder(tmp_path / "run").read_run().machine["threads"] == 1


def test_lr_find_and_batch_find_answer_people_and_programs(reslab, tmp_path):
    network = ["--model", "resnet8", "--data", "digits", "--threads", "1", "--device", "cpu"]
    answer = reslab("lr-find", *network, "--range-steps", "20", "--out", tmp_path / "lr", "--json")
    found = json.loads(answer.out)
    assert answer.code == 0
    assert found["num_steps"] == 20
    assert Path(found["chart"]).exists()
    assert not list(tmp_path.glob("runs"))
    room = reslab("batch-find", *network)
    assert room.code == 0
    assert re.search(r"a step takes .*iB per image\n.* are free: the largest batch that fits has \d+ images", room.out)
    sizes = json.loads(reslab("batch-find", *network, "--json").out)
    assert sizes["bytes_per_image"] > 8 * 8 * 4
