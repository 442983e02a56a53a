"""What our recipes reach, by the commands that a user would type: error on the test set, read once, and wall time.

`--case resnet20` and `--case resnet56` train on all 50,000 images of CIFAR-10 by the recipe fast-cifar and report the
last weights; the recipe was chosen on 45,000 with 5,000 held out. `--case resnet56-long` is the second attempt, in 50
epochs for 30. `--case mnist` and `--case hymenoptera` (a trained
CIFAR-10 network on 64 photographs of ants and bees, beside the same network from scratch) are short. `--case pace`
measures the pace of fast-cifar as it comes beside plain fp32, a hundred steps each.

Runs go to `--out`, by default runs/accuracy, and go on where they were cut off. `--jobs 2` trains two seeds at a time,
one thread each. `--save` puts each run's record beside the table, where there is a bar: run.json in its first line, an
epoch in each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure import RESULTS, parse_flags, ratios, report, summary
from peers.common import Clock, Watch
from reslab.cli._flags import read_flags
from reslab.distributed import Ranks
from reslab.records import RunFolder, RunRecord
from reslab.records.files import encode
from reslab.run.assemble import assemble
from reslab.run.display import Display
from reslab.training.execution import find_device
from reslab.training.loop import fit

FAST = ("--recipe", "fast-cifar", "--val-split", "0")
PLAIN = ("--amp", "none", "--channels-last", "off", "--compile", "off")
DIGITS = ("--augment", "crop", "--set", "data.alternate_flip=false", "--set", "data.max_shift=2")
PACE_STEPS = 100
CIFAR_TRAIN = 50_000


@dataclass(frozen=True)
class Case:
    """Runs that differ in nothing but the seed.

    Args:
        name: of its row.
        words: after ``reslab train``; ``{data}`` stands for the folder of data sets.
        seeds: one run each.
        measured: the error in question, of the last weights.
        bar: highest mean error; None where there is none.
        bar_s: most seconds of a run; None where there is none.
    """

    name: str
    words: tuple[str, ...]
    seeds: tuple[int, ...]
    measured: str = "test_error"
    bar: float | None = None
    bar_s: float | None = None


PHOTOS = (
    "--recipe",
    "finetune",
    "--model",
    "resnet20",
    "--data",
    "{data}/hymenoptera",
    "--image-size",
    "32",
    "--shortcut",
    "zero_pad_both",
)
TRAINED = ("--weights", "{data}/pretrained-cifar10/resnet20.safetensors")
CASES = {
    "resnet20": [Case("resnet20 on cifar10", ("--model", "resnet20", *FAST), (0, 1, 2), bar=0.0875)],
    "resnet56": [Case("resnet56 on cifar10", ("--model", "resnet56", *FAST, "--epochs", "30"), (0,), bar=0.075)],
    "resnet56-long": [
        Case("resnet56 on cifar10 in 50 epochs", ("--model", "resnet56", *FAST, "--epochs", "50"), (0,), bar=0.075)
    ],
    "mnist": [
        Case(
            "resnet20 on mnist",
            ("--model", "resnet20", *FAST, "--data", "mnist", "--epochs", "3", *DIGITS),
            (0, 1, 2),
            bar=0.006,
            bar_s=300,
        )
    ],
    "hymenoptera": [
        Case("resnet20 on hymenoptera, trained on cifar10 before", (*PHOTOS, *TRAINED), (0, 1, 2, 3, 4), "val_error"),
        Case("resnet20 on hymenoptera, from scratch", PHOTOS, (0, 1, 2, 3, 4), "val_error"),
    ],
}


def train(case: Case, seed: int, flags: argparse.Namespace, *, extra: Sequence[str] = ()) -> RunFolder:
    """One run, or what is left of it, in a process of its own."""
    out = Path(flags.out) / f"{case.name.replace(' ', '-').replace(',', '')}-seed{seed}"
    words = [word.format(data=flags.data_dir) for word in case.words]
    command = [sys.executable, "-m", "reslab", "train", *words, "--data-dir", flags.data_dir, "--seed", str(seed)]
    environment = dict(os.environ)
    if flags.jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // flags.jobs)
        environment["OMP_NUM_THREADS"] = str(threads)
        extra = (*extra, "--threads", str(threads))
    done = subprocess.run([*command, *extra, "--out", str(out), "--resume"], env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{case.name}, seed {seed}: reslab train ended with {done.returncode}")
    return RunFolder(out)


def row_of(case: Case, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Mean, deviation and each seed's error in percent, minutes of a run."""
    errors = [100 * record.last.scores[case.measured] for record in records]
    clean = [100 * record.last.scores["train_error"] for record in records]
    return {
        "run": case.name,
        "split": case.measured.removesuffix("_error"),
        "error_percent": statistics.mean(errors),
        "deviation": statistics.stdev(errors) if len(errors) > 1 else 0.0,
        "each": " ".join(f"{error:.2f}" for error in errors),
        "clean_training_error_percent": statistics.mean(clean),
        "minutes": statistics.mean(record.duration_s for record in records) / 60,
        "n": len(errors),
    }


def verdicts_of(case: Case, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Against the bars."""
    found = []
    if case.bar is not None:
        mean = statistics.mean(record.last.scores[case.measured] for record in records)
        what = f"{case.name}: mean {case.measured.replace('_', ' ')} of {len(records)}, percent"
        found.append({"what": what, "measured": 100 * mean, "bar": f"<= {100 * case.bar:g}", "met": mean <= case.bar})
    if case.bar_s is not None:
        longest = max(record.duration_s for record in records)
        what = f"{case.name}: seconds of the longest run"
        found.append({"what": what, "measured": longest, "bar": f"< {case.bar_s:g}", "met": longest < case.bar_s})
    return found


def keep(folder: RunFolder) -> None:
    """A run's record as one file beside the tables."""
    target = RESULTS / "runs" / f"{folder.name}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads(folder.run.read_text())
    record["data"]["path"] = Path(record["data"]["path"]).name
    target.write_text(f"{encode(record)}\n{folder.epochs.read_text()}")


def pace_here(words: Sequence[str]) -> None:
    """Prints images per second of ``reslab train WORDS`` over some steps in the middle of it, and what its trial chose.

    The trial knows of the whole run; neither its seconds nor those of the compiler are counted.
    """
    config, _ = read_flags(words, [], command="train", about="")
    parts = assemble(config, Display(), ranks=Ranks(device=find_device("auto")))
    clock = Clock(PACE_STEPS)
    fit(
        parts.model,
        parts.task,
        (parts.loaders[0], None),
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        options=replace(parts.options, steps=clock.last),
        mode=parts.mode,
        recorder=Watch(clock),
    )
    print("\n" + json.dumps({"images_per_s": clock.images_per_s(), "speed": parts.notes["speed"]}))


def measure_pace(flags: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Images per second of fast-cifar as it comes and in plain fp32, in turn, and what 50 epochs would take."""
    found: dict[str, list[float]] = {"as it comes": [], "plain fp32": []}
    for _ in range(1 if flags.quick else 5):
        for name, extra in (("as it comes", ()), ("plain fp32", PLAIN)):
            words = ["--model", "resnet20", *FAST, *extra, "--data-dir", flags.data_dir]
            command = [sys.executable, "-m", "bench_accuracy", "--child", json.dumps(words)]
            done = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True)
            answer = json.loads(done.stdout.splitlines()[-1])
            print(f"{name}: {answer['images_per_s']:.0f} images/s ({answer['speed']})", file=sys.stderr, flush=True)
            found[name].append(answer["images_per_s"])
    plain = found["plain fp32"]
    rows = []
    for name, values in found.items():
        pace, ratio = summary(values), ratios(values, plain)
        rows.append({
            "run": name, "images_per_s": pace["median"], "min": pace["min"], "max": pace["max"],
            "minutes_of_50_epochs": 50 * CIFAR_TRAIN / pace["median"] / 60,
            "ratio": ratio["median"], "ratio_min": ratio["min"], "ratio_max": ratio["max"], "n": pace["n"],
        })  # fmt: skip
    return rows, []


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        return pace_here(json.loads(sys.argv[2]))
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--case", choices=[*CASES, "pace"], default="pace")
    own.add_argument("--out", default="runs/accuracy")
    own.add_argument("--jobs", type=int, default=1)
    mine, sys.argv[1:] = own.parse_known_args()
    flags = parse_flags(__doc__)
    vars(flags).update(vars(mine))
    flags.data_dir = str(Path(flags.data_dir or os.environ.get("RESLAB_DATA", "data")).resolve())
    if mine.case == "pace":
        rows, verdicts = measure_pace(flags)
    else:
        rows, verdicts = [], []
        for case in CASES[mine.case]:
            with ThreadPoolExecutor(flags.jobs) as pool:
                folders = list(pool.map(lambda seed, case=case: train(case, seed, flags), case.seeds))
            records = [folder.read_run() for folder in folders]
            rows.append(row_of(case, records))
            verdicts += verdicts_of(case, records)
            if flags.save and case.bar is not None:
                for folder in folders:
                    keep(folder)
    report(
        f"accuracy_{mine.case}", rows, verdicts=verdicts, flags=flags, command=f"bench_accuracy.py --case {mine.case}"
    )


if __name__ == "__main__":
    main()
