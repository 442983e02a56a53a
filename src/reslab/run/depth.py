"""What a run's network uses its depth for, before its first step and after its last: paths and shattering."""

from __future__ import annotations

from dataclasses import asdict

import torch

from reslab.config import build, load_config
from reslab.models.weights import load_own_weights
from reslab.probe import MAX_SAMPLES, BatchLoss, first_samples, measured, path_spectrum, shattering
from reslab.records import DepthRecord, RunFolder, encode, write_atomic
from reslab.run.assemble import Subject, build_subject
from reslab.run.diagnose import first_batch
from reslab.run.recorder import Display


def record_depth(folder: RunFolder) -> dict[str, DepthRecord]:
    """Measures ``start`` and ``end`` on the batch of the first training step, and writes them into the folder.

    Args:
        folder: of a finished run.

    Raises:
        RequestError: if it isn't finished, or its data is no longer there.
    """
    config = load_config(folder.config)
    device = build.device(config.train.device)
    subject = build_subject(config, Display(), device=device)
    batch = first_batch(subject.data, config, device=device)
    found = {"start": depth_now(subject, batch)}
    load_own_weights(subject.model, folder.last_weights)
    found["end"] = depth_now(subject, batch)
    write_atomic(folder.depth, encode({when: asdict(record) for when, record in found.items()}) + "\n")
    return found


def depth_now(subject: Subject, batch: tuple[torch.Tensor, torch.Tensor]) -> DepthRecord:
    """Paths and shattering of a network as it is; a plain one has one path."""
    model, loss_of = subject.model.train(), BatchLoss(batch, subject.task.loss)
    missing: dict[str, str] = {}
    paths = measured("paths", lambda: path_spectrum(model, first_samples(loss_of, MAX_SAMPLES)), missing)
    shattered = measured("shattering", lambda: shattering(model, batch[0]), missing)
    return DepthRecord(paths=paths, shattering=shattered, not_measured=missing)
