"""``reslab predict``."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reslab.cli.output import console, parse, print_json, table
from reslab.cli.run_flags import RunFlags
from reslab.errors import RequestError
from reslab.records import RunFolder


@dataclass(kw_only=True)
class PredictFlags(RunFlags):
    """Classify images, or folders of them, with a run's network."""

    images: Annotated[list[Path], tyro.conf.Positional]
    """Image files, or folders that are searched for images."""
    top: int = 3
    """How many classes are listed."""


def run(arguments: list[str]) -> int:
    """Parses, predicts, prints. Returns the exit code: 2 if an image was refused, though the others were classified."""
    flags = parse(PredictFlags, arguments, command="predict")
    if not flags.images:
        raise RequestError("Name at least one image or folder: reslab predict RUN PHOTO_OR_FOLDER...")

    from reslab.run.use import predict_run

    predictions, refused = predict_run(
        RunFolder(flags.run), flags.images, top=flags.top, weights=flags.weights, device=flags.device
    )
    for message in refused:
        print(f"reslab: error: {message}", file=sys.stderr)
    if flags.json:
        print_json({"predictions": [asdict(p) for p in predictions], "refused": refused})
    elif predictions:
        rows = [
            [found.image, found.label, percent(found.probability), runners_up(found.top), found.note]
            for found in predictions
        ]
        console().print(table(["image", "class", "probability", "then", "note"], rows, numeric=["probability"]))
    return 2 if refused else 0


def percent(share: float) -> str:
    """A probability with one decimal."""
    return f"{100 * share:.1f} %"


def runners_up(top: list[tuple[str, float]]) -> str:
    """The classes after the first."""
    return ", ".join(f"{name} {percent(share)}" for name, share in top[1:])
