"""``diagnose``: a config's network before training, or a run's network after it, on a batch of its data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from reslab.data import Data
from reslab.distributed import Ranks
from reslab.probe import Diagnosis, diagnose_step
from reslab.probe.batch import BatchLoss, LossOf
from reslab.probe.evidence import Evidence
from reslab.probe.rules import judge
from reslab.records import ReadingRecord, RunFolder
from reslab.records.diagnosis import LossRecord
from reslab.run.assemble import gather, training_loader
from reslab.run.config import RunConfig
from reslab.run.display import Display
from reslab.run.load import load
from reslab.tasks.task import Task
from reslab.training.execution import ExecutionMode, find_device


def diagnose_config(
    config: RunConfig, *, depth: Literal["quick", "full"] = "quick", twin: bool = False, display: Display | None = None
) -> Diagnosis:
    """Diagnose what a config would train, as it stands before the first step; named after network and data.

    Args:
        config: of the training.
        depth: see ``reslab.diagnose``.
        twin: the same.
        display: shows notes.

    Raises:
        RequestError: if the request can't be carried out.
    """
    ranks = Ranks(device=find_device(config.train.device))
    found = gather(config, display or Display(), ranks=ranks)
    batch = first_batch(found.data, found.task, config, ranks=ranks)
    diagnosis = diagnose_step(found.model, loss_of(found.task, batch), depth=depth, twin=twin)
    return replace(diagnosis, name=f"{config.model.name} on {found.data.source.name}")


def diagnose_run(
    folder: RunFolder,
    *,
    weights: str = "",
    data_dir: str = "",
    device: str = "auto",
    depth: Literal["quick", "full"] = "quick",
    twin: bool = False,
) -> Diagnosis:
    """Diagnose a run over all of its training: what was read while it trained, and its network as it is now.

    A run that failed or isn't finished is judged by what was read while it trained.

    Args:
        folder: of the run.
        weights: see ``reslab.load``.
        data_dir: where its data lies now.
        device: where the network goes.
        depth: of the network as it is now; see ``reslab.diagnose``.
        twin: the same.

    Raises:
        RequestError: if there is no run, or its data can't be found.
    """
    recorded = tuple(folder.read_readings())
    losses = tuple(LossRecord(record.step, record.loss) for record in folder.read_steps())
    if recorded and (status := folder.read_run().status) != "done":
        name = f"{folder.root} ({status} after {len(losses)} steps)"
        return Diagnosis(recorded, judge(Evidence(recorded, losses)), losses=losses, name=name)
    bundle = load(folder.root, weights=weights, device=device)
    batch = first_batch(
        bundle.data(data_dir=data_dir, test=False), bundle.task, bundle.config, ranks=Ranks(device=bundle.device)
    )
    steps = max((record.step + 1 for record in losses), default=1)
    now = diagnose_step(bundle.model, loss_of(bundle.task, batch), step=steps, depth=depth, twin=twin)
    return replace(over_all(now, recorded, losses), name=str(folder.root))


def over_all(now: Diagnosis, recorded: tuple[ReadingRecord, ...], losses: tuple[LossRecord, ...]) -> Diagnosis:
    """The diagnosis of a network as it is now, with what was read while it trained."""
    readings = (*recorded, *now.readings)
    judged = judge(Evidence(readings, losses, depth=now.depth))
    return replace(now, readings=readings, judged=judged, losses=losses)


def first_batch(data: Data, task: Task, config: RunConfig, *, ranks: Ranks) -> Any:
    """The batch of the first training step."""
    loader = training_loader(data, task, replace(config, data=replace(config.data, workers=0)), ranks=ranks)
    return ExecutionMode(ranks=ranks).move(next(iter(loader.batches(0))))


def loss_of(task: Task, batch: Any) -> LossOf:
    """Make the loss of a batch a function of the network.

    A task whose batch is a pair and whose loss is a function of outputs and targets may offer that as ``loss``; its
    samples can then be taken apart, which some measurements need.
    """
    loss_fn = getattr(task, "loss", None)
    return BatchLoss(batch, loss_fn) if loss_fn else lambda model: task.step(model, batch).loss
