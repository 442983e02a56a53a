from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report.blank_records import block_record, reading_record

from reslab.records import EpochRecord, Evaluation, ReadingRecord, RunFolder, RunRecord, Score, StepRecord
from reslab.records.files import RecordWriter, write_atomic
from reslab.records.training import ERROR

MakeRun = Callable[..., RunFolder]
CHROMIUM = Path("/usr/bin/chromium")


def blocks_of(depth: int) -> list[str]:
    per_stage = (depth - 2) // 6
    return [f"layer{stage}.{place}" for stage in (1, 2, 3) for place in range(per_stage)]


SCORES = [f"{split}_{name}" for split in ("train", "val", "test") for name in ("loss", "error")]


def evaluation(epoch: int, *numbers: float) -> Evaluation:
    return Evaluation(epoch, dict(zip(SCORES, numbers, strict=False)))


def run_record(model: str, **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "model": {"name": model, "num_parameters": 269_722, "num_classes": 10},
        "data": {
            "name": "digits",
            "path": "embedded",
            "classes": [str(digit) for digit in range(10)],
            "fingerprint": "sha256:0f3a9c",
            "num_train": 1078,
            "num_val": 359,
            "num_test": 360,
            "preprocess": {"mean": [0.3], "std": [0.37], "size": 8},
        },
        "protocol": {"selection": "lowest validation error", "val_split": 0.2, "test_set": "read once, at the end"},
        "deviations": ["validation split of 20 %", "batch size 64 instead of 128"],
        "versions": {"reslab": "0.1.0", "torch": "2.11.0"},
        "machine": {"processor": "x86-64", "cores": 2, "device": "cpu"},
        "seed": 0,
        "status": "done",
        "started": "2026-01-05T10:00:00+00:00",
        "duration_s": 83.4,
        "last": evaluation(29, 0.02, 0.0051, 0.31, 0.0912, 0.33, 0.0967),
        "best": evaluation(24, 0.03, 0.0072, 0.30, 0.0883, 0.32, 0.0951),
    }
    return RunRecord(**(values | changes))


def norms_of(model: str) -> tuple[list[float], list[float]]:
    """Gradient norms at the start and at the end; those of plain networks grow towards the input."""
    digits = re.search(r"\d+", model)
    places = range(len(blocks_of(int(digits[0]) if digits else 20)))
    growth = 1.25 if model.startswith("plain") else 1.02
    wiggle = [1 + 0.2 * math.sin(3 * place) for place in places]
    start = [0.01 * growth ** (len(places) - place) * wiggle[place] for place in places]
    return start, [0.3 * norm**0.8 for norm in start]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        name: str,
        *,
        model: str | None = None,
        epochs: int = 30,
        val: bool = True,
        score: Score = ERROR,
        norms: tuple[list[float], list[float]] | None = None,
        losses: list[float] | None = None,
        **changes: Any,
    ) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        folder.root.mkdir(parents=True)
        model = model or name
        write_atomic(folder.run, run_record(model, score=score, **changes).to_json())
        losses = losses or [2.3 * 0.985**step + 0.02 * (step % 7) + 0.01 for step in range(300)]
        _write(folder.steps, _steps(losses))
        _write(folder.epochs, _epochs(model, epochs, val, score))
        _write(folder.readings, _readings(norms_of(model) if norms is None else norms))
        return folder

    return make


@pytest.fixture
def twins(make_run: MakeRun) -> list[RunFolder]:
    """Six runs as of a small study of degradation; the plain networks' gradients explode, plain110 does not learn."""
    return [make_run(f"{family}{depth}") for family in ("plain", "resnet") for depth in (20, 56, 110)]


def _write(path: Path, records: Iterable[Any]) -> None:
    writer = RecordWriter(path)
    for record in records:
        writer.write(record)
    writer.close()


def _steps(losses: list[float]) -> Iterator[StepRecord]:
    for step, loss in enumerate(losses):
        yield StepRecord(step, step // 10, lr=0.1 if step < 200 else 0.01, loss=loss, grad_norm=loss * 2)


def _epochs(model: str, epochs: int, val: bool, score: Score) -> Iterator[EpochRecord]:
    floor = {"plain20": 0.09, "plain56": 0.14, "plain110": 0.35, "resnet20": 0.085, "resnet56": 0.07}.get(model, 0.065)
    for epoch in range(epochs):
        error = floor + (0.85 - floor) * 0.8**epoch
        measured = error + 0.01 * math.sin(5 * epoch) * 0.9**epoch + 0.01
        values = {"train": error, "val": measured} if val else {"train": error}
        scores = {f"{split}_loss": 2 * value for split, value in values.items()}
        for split, value in values.items():
            scores[f"{split}_{score.name}"] = value if score.better == "lower" else 1 - value
        yield EpochRecord(epoch, 10 * (epoch + 1), 0.1, 900.0, 2.7, scores=scores)


def _readings(norms: tuple[list[float], list[float]]) -> Iterator[ReadingRecord]:
    for step, values in zip((0, 299), norms, strict=True):
        names = blocks_of(6 * math.ceil(len(values) / 3) + 2)
        blocks = [block_record(index, names[index], grad_norm=norm) for index, norm in enumerate(values)]
        if blocks:
            yield reading_record(blocks, step=step)


@pytest.fixture
def browse():
    """Opens a page in headless Chromium without a network; ``complaints`` must stay empty."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])

        def goto(path: Path, *, width: int = 1280, scheme: str = "light") -> Any:
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
            page = context.new_page()
            page.on("request", lambda request: seen(request.url))
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(path.as_uri())
            page.wait_for_selector("body[data-drawn]", timeout=60_000)
            return page

        def seen(url: str) -> None:
            if not url.startswith(("file:", "data:", "blob:")):
                complaints.append(f"request of {url}")

        yield goto
        browser.close()
    assert complaints == []
