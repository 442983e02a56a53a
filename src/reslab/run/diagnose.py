"""``diagnose``: a config's network before training, or a run's network after it, on a batch of its data."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from reslab.config import RunConfig, build
from reslab.data.prepare import Data, Place
from reslab.probe import Diagnosis, Evidence, diagnose, judge
from reslab.records import LossRecord, ReadingRecord, RunFolder
from reslab.run.assemble import build_subject
from reslab.run.recorder import Display
from reslab.run.use import data_of, open_run


def diagnose_config(
    config: RunConfig, *, depth: Literal["quick", "full"] = "quick", twin: bool = False, display: Display | None = None
) -> Diagnosis:
    """What a config would train, as it stands before the first step; named after network and data.

    Args:
        config: of the training.
        depth: see ``reslab.probe.diagnose``.
        twin: the same.
        display: told about notes.

    Raises:
        RequestError: if the request can't be carried out.
    """
    device = build.device(config.train.device)
    subject = build_subject(config, display or Display(), device=device)
    batch = first_batch(subject.data, config, device=device)
    found = diagnose(subject.model, batch, subject.task.loss, depth=depth, twin=twin)
    return replace(found, name=f"{config.model.name} on {subject.data.source.name}")


def diagnose_run(
    folder: RunFolder,
    *,
    weights: str = "",
    data_dir: str = "",
    device: str = "auto",
    depth: Literal["quick", "full"] = "quick",
    twin: bool = False,
) -> Diagnosis:
    """A run over all of its training: what was read while it trained, and its network on a training batch as it is now.

    Of a run that failed or isn't finished, what was read while it trained.

    Args:
        folder: of the run.
        weights: see ``open_run``.
        data_dir: where its data lies now.
        device: see ``config.build.device``.
        depth: of the network as it is now; see ``reslab.probe.diagnose``.
        twin: the same.

    Raises:
        RequestError: if there is no run, or its data can't be found.
    """
    place, read, losses = build.device(device), tuple(folder.read_readings()), losses_of(folder)
    if read and (status := folder.read_run().status) != "done":
        name = f"{folder.root} ({status} after {len(losses)} steps)"
        return Diagnosis(read, judge(Evidence(read, losses)), losses=losses, name=name)
    trained = open_run(folder, weights=weights, device=place)
    data = data_of(folder, trained, data_dir=data_dir, test=False)
    batch = first_batch(data, trained.config, device=place)
    task = build.task(trained.config.train, num_classes=len(trained.classes))
    steps = max((record.step + 1 for record in losses), default=1)
    now = diagnose(trained.model, batch, task.loss, step=steps, depth=depth, twin=twin)
    return replace(over_all(now, read, losses), name=str(folder.root))


def losses_of(folder: RunFolder) -> tuple[LossRecord, ...]:
    """Of each step of a run."""
    return tuple(LossRecord(record.step, record.loss) for record in folder.read_steps())


def over_all(now: Diagnosis, read: tuple[ReadingRecord, ...], losses: tuple[LossRecord, ...]) -> Diagnosis:
    """The diagnosis of a network as it is now, with what was read while it trained."""
    readings = (*read, *now.readings)
    judged = judge(Evidence(readings, losses, depth=now.depth))
    return replace(now, readings=readings, judged=judged, losses=losses)


def first_batch(data: Data, config: RunConfig, *, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of the first training step."""
    loader = data.loader(
        data.train, batch_size=config.data.batch_size, training=True, seed=config.train.seed, place=Place(device)
    )
    images, labels = next(iter(loader.batches(0)))
    return images.to(device), labels.to(device)
