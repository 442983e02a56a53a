"""Is "do nothing" easier to learn with a shortcut? Networks that shall give back their input, or nearly.

He et al. argue that a block whose best function is near the identity learns it more easily as ``F(x) = 0`` beside a
shortcut than as ``H(x) = x`` through its layers. Here blocks of two linear layers with a ReLU between them, real
handwritten digits as vectors, and as target the digit itself or the digit plus a small fixed function of it.

Reference:
    He et al. 2015, arXiv:1512.03385, section 3.1; Zhang et al. 2019, arXiv:1901.09321 (zero initial branches).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reslab.records import MeasureRecord, StudyRow
from reslab.studies.measuring import Measuring
from reslab.studies.presets import Choices, Preset
from reslab.studies.study import Entry, Study

PARTS = (0.0, 0.1)
"""Size of the small function, over that of the digit."""
START = MeasureRecord("start_error", "error at the start", "number")
TRAIN = MeasureRecord("train_error", "training error", "number", charted=True)
TEST = MeasureRecord("test_error", "test error", "number", charted=True)
KINDS = {
    "plain": "without shortcuts",
    "residual": "with shortcuts",
    "residual, zero init": "with shortcuts and branches that start at zero",
}
"""In the words of the conclusion."""
PRESETS = {"": Preset(depths=(1, 4, 16), kinds=tuple(KINDS), blocks=True)}


@dataclass(frozen=True)
class Identity:
    """One network and its target.

    Args:
        kind: of ``KINDS``.
        num_blocks: of two layers each.
        part: size of what the target is away from the input, over that of the input.
        steps: of Adam.
        lr: its rate.
        batch_size: digits a step.
    """

    kind: str
    num_blocks: int
    part: float
    steps: int = 2000
    lr: float = 1e-3
    batch_size: int = 128


def learn(settings: Identity, seed: int) -> dict[str, float]:
    """Trains one network; errors are mean squares over the mean square of the input, which is 1."""
    from reslab.studies.stack import train_stack  # which needs torch

    return train_stack(settings, seed)


def expect(settings: Identity) -> float:
    """From fifty steps."""
    started = time.perf_counter()
    learn(replace(settings, steps=50), seed=0)
    return (time.perf_counter() - started) * settings.steps / 50


def identity(choices: Choices) -> Study:
    """The study. ``depths`` are numbers of blocks here, ``epochs`` has no meaning.

    Raises:
        RequestError: for an unknown kind, a preset, or epochs.
    """
    chosen = choices.settle("identity", PRESETS, KINDS, without=("preset", "epochs", "data_dir", "download"))
    settings = [Identity(kind, depth, part) for part in PARTS for depth in chosen.depths for kind in chosen.kinds]
    return Study(
        chosen=chosen,
        title="Is doing nothing easier with a shortcut?",
        question="How near do blocks come to their input, or to it plus something small, with shortcuts and without?",
        protocol=(
            "Blocks of two linear layers of 64 with a ReLU between them, no norms, initial values after He.",
            "1,437 real handwritten digits as vectors of mean square 1; tested on 360 others.",
            "Target: the digit itself, or plus a fixed smooth function of it of a tenth of its size.",
            "Adam, rate 0.001 falling to zero along a cosine, 2,000 steps of 128 digits. Error: mean square.",
        ),
        entries=tuple(
            Entry(
                f"{one.kind.replace(', ', '-').replace(' ', '-')}-{one.num_blocks}-blocks-part-{one.part:g}",
                {
                    "target": "x" if not one.part else f"x + {one.part:g} g(x)",
                    "blocks": one.num_blocks,
                    "kind": one.kind,
                },
                Measuring(learn, one, expect),
                cost=one.num_blocks,
            )
            for one in settings
        ),
        conclude=conclude,
        measures=(START, TRAIN, TEST),
    )


def conclude(rows: Sequence[StudyRow]) -> str:
    """For each target at the greatest depth, who comes nearest, and from where."""
    sentences = []
    deepest = max((int(row.factors["blocks"]) for row in rows), default=0)
    for target in dict.fromkeys(row.factors["target"] for row in rows):
        here = {
            str(row.factors["kind"]): row
            for row in rows
            if row.factors["target"] == target and row.factors["blocks"] == deepest and row.num_ended
        }
        if len(here) < 2:
            continue
        best = min(here, key=lambda kind: here[kind].mean("test_error"))
        errors = "; ".join(f"{KINDS[kind]} {path_of(row)}" for kind, row in here.items())
        sentences.append(
            f"Target {target}, {deepest} blocks: best {KINDS[best]}. Error from the start to the end: {errors}."
        )
    return " ".join(sentences) or "Two kinds of network at one depth are needed to compare them."


def path_of(row: StudyRow) -> str:
    """Error of the network at the start, and of what it learned on digits that it hasn't seen."""
    return f"{row.mean('start_error'):.2g} to {row.mean('test_error'):.2g}"
