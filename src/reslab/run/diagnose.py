"""``diagnose``: a config's network before training, or a run's network after it, on a batch of its data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reslab.config import RunConfig, build
from reslab.data.prepare import Data, Place
from reslab.probe.diagnose import Diagnosis, diagnose
from reslab.records import RunFolder
from reslab.run.assemble import build_subject
from reslab.run.recorder import Display
from reslab.run.use import data_of, open_run


@dataclass(frozen=True)
class Diagnosed:
    """Whose diagnosis it is.

    Args:
        name: network and data, or the run.
        diagnosis: of it.
    """

    name: str
    diagnosis: Diagnosis


def diagnose_config(config: RunConfig, *, display: Display | None = None) -> Diagnosed:
    """What a config would train, as it stands before the first step.

    Raises:
        RequestError: if the request can't be carried out.
    """
    device = build.device(config.train.device)
    subject = build_subject(config, display or Display(), device=device)
    batch = first_batch(subject.data, config, device=device)
    name = f"{config.model.name} on {subject.data.source.name}"
    return Diagnosed(name, diagnose(subject.model, batch, subject.task.loss))


def diagnose_run(folder: RunFolder, *, weights: str = "", data_dir: str = "", device: str = "auto") -> Diagnosed:
    """A finished run's network, on a batch as it was trained with.

    Args:
        folder: of the run.
        weights: see ``open_run``.
        data_dir: where its data lies now.
        device: see ``config.build.device``.

    Raises:
        RequestError: if there is no run, or its data can't be found.
    """
    place = build.device(device)
    trained = open_run(folder, weights=weights, device=place)
    data = data_of(folder, trained, data_dir=data_dir, test=False)
    batch = first_batch(data, trained.config, device=place)
    task = build.task(trained.config.train, num_classes=len(trained.classes))
    steps = max((record.step + 1 for record in folder.read_steps()), default=1)
    return Diagnosed(str(folder.root), diagnose(trained.model, batch, task.loss, step=steps))


def first_batch(data: Data, config: RunConfig, *, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of the first training step."""
    loader = data.loader(
        data.train, batch_size=config.data.batch_size, training=True, seed=config.train.seed, place=Place(device)
    )
    images, labels = next(iter(loader.batches(0)))
    return images.to(device), labels.to(device)
