"""The main job in two minutes: plain networks and their residual twins on real handwritten digits, from one seed.

It is the study of degradation by its recipe for digits, without what that measures besides errors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from reslab.records import RunFolder
from reslab.studies.execution import run_locally
from reslab.studies.grid import StudySpec, create_study
from reslab.studies.runs import RunState, TrainingRun
from reslab.studies.study import Study

States = dict[str, RunState]
"""By the networks' names, which are those of their folders."""


def plan_demo(depths: Sequence[int], *, epochs: int) -> Study:
    """Plan the networks: plain and residual in turn, by rising depth.

    Raises:
        RequestError: for depths other than 6n+2.
    """
    study = create_study(StudySpec("degradation", "digits", depths=tuple(depths), epochs=epochs))
    settings = []
    for one in study.settings:
        assert isinstance(one.run, TrainingRun)
        settings.append(replace(one, run=replace(one.run, extras=())))
    return replace(study, settings=tuple(sorted(settings, key=lambda one: (one.cost, one.name))))


def run_demo(study: Study, out: Path, *, seed: int, workers: int | None = None) -> Iterator[States]:
    """Train the networks, the deepest first, in place of an earlier demo's; yield about twice a second how far each is.

    An earlier demo's records stay until the new run replaces them, and don't count.
    """
    runs = {one.name: one.run.with_seed(seed) for one in reversed(study.settings)}
    files, began = {name: RunFolder(out / name).run for name in runs}, time.time()
    for _ in run_locally(runs, out, workers=workers):
        begun = {name for name, file in files.items() if file.exists() and file.stat().st_mtime >= began}
        yield {name: run.read(out / name) if name in begun else RunState("new") for name, run in runs.items()}
    yield {name: run.read(out / name) for name, run in runs.items()}


def write_demo_page(study: Study, states: States, out: Path) -> tuple[str, Path]:
    """Write the runs on one page under what they say, its two pictures beside it; return the sentence and the page."""
    from reslab.report import gradient_flow, learning_curves, write_run_page  # altair takes half a second

    sentence = study.conclude([one.row({0: states[one.name]}, study.measures) for one in study.settings])
    folders = [RunFolder(out / one.name) for one in study.settings]
    learning_curves(folders).save(out / "learning-curves.png")
    gradient_flow(folders).save(out / "gradient-flow.png")
    title = "Plain networks and their residual twins"
    return sentence, write_run_page(folders, out / "index.html", title=title, lead=sentence)
