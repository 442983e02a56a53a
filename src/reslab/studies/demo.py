"""The main job in two minutes: plain networks and their residual twins on real handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.records import RunFolder, as_percent
from reslab.report import gradient_flow, learning_curves, write_run_page
from reslab.run.config import RunConfig, override
from reslab.studies.degradation import answer
from reslab.studies.grid import run_grid
from reslab.studies.presets import DIGITS
from reslab.studies.training import Training
from reslab.studies.words import ONE_SEED

KINDS = {"plain": "plain", "resnet": "residual"}


def recipe(model: str, *, epochs: int, seed: int) -> RunConfig:
    """The one recipe that all networks of the demo train with: that of the study with the same data."""
    changes = {"model.name": model, "train.epochs": epochs, "train.seed": seed}
    return override(DIGITS, changes, where="the demo")


@dataclass(frozen=True)
class Row:
    """One network in the demo's table.

    Args:
        name: of run and model.
        depth: weighted layers on the longest path.
        kind: ``plain`` or ``residual``.
        num_parameters: None before the run has started.
        epochs: epochs done.
        train_error: clean training error after the last step; None before.
        test_error: the same for the test split.
        duration_s: of training and evaluation; None before the end.
    """

    name: str
    depth: int
    kind: str
    num_parameters: int | None = None
    epochs: int = 0
    train_error: float | None = None
    test_error: float | None = None
    duration_s: float | None = None


def demo_configs(depths: Sequence[int], *, epochs: int, seed: int) -> dict[str, RunConfig]:
    """Twins of every depth, the deepest first, because they take longest."""
    names = [f"{kind}{depth}" for depth in sorted(depths, reverse=True) for kind in KINDS]
    return {name: recipe(name, epochs=epochs, seed=seed) for name in names}


def run_demo(configs: dict[str, RunConfig], out: Path, *, workers: int | None = None) -> Iterator[list[Row]]:
    """Trains the networks; yields the table as it stands about twice a second, and once more at the end."""
    started = {name for name in configs if not RunFolder(out / name).run.exists()}
    for _ in run_grid({name: Training(config) for name, config in configs.items()}, out, workers=workers):
        # an earlier demo's records stay until the new run replaces them: show a run only once it has
        started |= {name for name in configs if is_running(RunFolder(out / name))}
        yield [read_row(RunFolder(out / name), name, fresh=name in started) for name in ordered(configs)]
    yield [read_row(RunFolder(out / name), name, fresh=True) for name in ordered(configs)]


def ordered(names: dict[str, RunConfig]) -> list[str]:
    """Plain and residual in turn, by rising depth."""
    return sorted(names, key=lambda name: (depth_in(name), name))


def depth_in(name: str) -> int:
    """The number in ``plain56``."""
    return int("".join(filter(str.isdigit, name)))


def is_running(folder: RunFolder) -> bool:
    """Whether a run has begun and not ended."""
    return folder.run.exists() and folder.read_run().status == "running"


def read_row(folder: RunFolder, name: str, *, fresh: bool) -> Row:
    """A network's row, from its records alone."""
    depth, kind = depth_in(name), KINDS[name.rstrip("0123456789")]
    if not fresh or not folder.run.exists():
        return Row(name, depth, kind)
    record, epochs = folder.read_run(), folder.read_epochs()
    last = record.last
    return Row(
        name,
        depth,
        kind,
        num_parameters=record.model["num_parameters"],
        epochs=len(epochs),
        train_error=None if last is None else last.scores["train_error"],
        test_error=None if last is None else last.scores["test_error"],
        duration_s=None if last is None else record.duration_s,
    )


def conclude(rows: Sequence[Row]) -> str:
    """One sentence about what these numbers show; it says so too when they don't show the effect."""
    plain = {row.depth: row.train_error for row in rows if row.kind == "plain" and row.train_error is not None}
    residual = {row.depth: row.train_error for row in rows if row.kind == "residual" and row.train_error is not None}
    depths = sorted(set(plain) & set(residual))
    if len(depths) < 2:
        return "Two depths at least are needed to say something about depth."
    shallow, deep = depths[0], depths[-1]
    figures = (
        f"from {shallow} to {deep} layers the clean training error of the plain networks goes from"
        f" {as_percent(plain[shallow])} to {as_percent(plain[deep])}, that of their residual twins from"
        f" {as_percent(residual[shallow])} to {as_percent(residual[deep])}"
    )
    plain_worse, residual_worse = (errors[deep] - errors[shallow] > ONE_SEED for errors in (plain, residual))
    meaning = answer(plain=plain_worse, residual=residual_worse)
    return f"{meaning}: {figures}; same parameters, same recipe."


def write_demo_page(configs: dict[str, RunConfig], out: Path, rows: Sequence[Row]) -> Path:
    """The runs on one page, under the sentence concluded from them, and its two pictures beside it as PNG."""
    folders = [RunFolder(out / name) for name in ordered(configs)]
    learning_curves(folders).save(out / "learning-curves.png")
    gradient_flow(folders).save(out / "gradient-flow.png")
    title = "Plain networks and their residual twins"
    return write_run_page(folders, out / "index.html", title=title, lead=conclude(rows))
