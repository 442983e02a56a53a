"""``reslab predict``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reslab.cli._flags import RunFlags
from reslab.cli._output import console, parse, print_json, table
from reslab.errors import RequestError


@dataclass(kw_only=True)
class PredictFlags(RunFlags):
    """Classify images, or folders of them, with a run's network."""

    images: Annotated[list[Path], tyro.conf.Positional]
    """Image files, or folders that are searched for images."""
    top: int = 3
    """How many classes are listed."""


def run(arguments: list[str]) -> int:
    """Parse, predict, print. Return the exit code: 2 if an image was refused, though the others were classified."""
    flags = parse(PredictFlags, arguments, command="predict")
    if not flags.images:
        raise RequestError("Name at least one image or folder: reslab predict RUN PHOTO_OR_FOLDER...")
    if flags.top < 1:
        raise RequestError(f"--top must be at least 1, got {flags.top}.")

    from reslab.run.load import load

    refused: list[str] = []
    bundle = load(flags.run, weights=flags.weights, device=flags.device)
    answers = bundle.predict(flags.images, on_error=lambda error: refused.append(str(error)), top=flags.top)
    for message in refused:
        print(f"reslab: error: {message}", file=sys.stderr)
    if flags.json:
        print_json({"predictions": [answer.to_plain() for answer in answers], "refused": refused})
    elif answers:
        rows = [
            [a.source, a.prediction.label, _percent(a.prediction.probability), _runners_up(a.prediction.top), a.note]
            for a in answers
        ]
        console().print(table(["image", "class", "probability", "then", "note"], rows, numeric=["probability"]))
    return 2 if refused else 0


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _runners_up(top: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {_percent(probability)}" for name, probability in top[1:])
