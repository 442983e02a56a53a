"""``batch-find``: the largest batch of a config that fits into the memory at hand."""

from __future__ import annotations

from dataclasses import dataclass

from reslab.config import RunConfig, build
from reslab.run.assemble import build_subject, training_step
from reslab.run.recorder import Display
from reslab.train.free_memory import free_memory
from reslab.train.memory import StepMemory, largest_batch, step_memory


@dataclass(frozen=True)
class BatchRoom:
    """What fits.

    Args:
        largest: batch; 0 if not even one image fits, None where the free memory is unknown.
        free_bytes: when it was asked; None where it is unknown.
        memory: of a step.
    """

    largest: int | None
    free_bytes: int | None
    memory: StepMemory


def find_batch(config: RunConfig, *, display: Display | None = None) -> BatchRoom:
    """Measures a training step at small batches and says how large a one would fit; on a GPU, by trying.

    Raises:
        RequestError: if the request can't be carried out.
    """
    device = build.device(config.train.device)
    subject = build_subject(config, display or Display(), device=device)
    step = training_step(config, subject, device=device)
    return BatchRoom(largest_batch(step), free_memory(device), step_memory(step))
