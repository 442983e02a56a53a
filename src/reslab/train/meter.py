"""What a loop measures without waiting for the device at every step: numbers of the last steps, and its own clock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from reslab.distributed import Ranks

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Reading:
    """One step's numbers, read from the device.

    Args:
        loss: mean over the batch, of all processes.
        grad_norm: of all parameters together, before clipping.
        wrong: wrong answers in the batch, of all processes.
        grad_scale: of fp16's loss scaling; 1 otherwise.
        penalty: the L1 term; 0 without one.
    """

    loss: float
    grad_norm: float
    wrong: int
    grad_scale: float
    penalty: float


class Meter:
    """Keeps the numbers of several steps on the device and reads them all at once.

    A GPU that is asked for a number finishes all its work before it answers; asking every step costs a tenth of the
    time of a small network. ``bad`` is 1 from the first step with a NaN or infinity on: an optimiser that takes
    ``found_inf`` skips that step and all later ones by itself, so that the weights stay those before it.

    Args:
        ranks: whose numbers are added up.
        device: where they come from.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.ranks, self.rows = ranks, list[Tensor]()
        self.bad = torch.zeros((), device=device)

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self, loss: Tensor, grad_norm: Tensor, wrong: Tensor, *, grad_scale: float = 1.0, penalty: Tensor | None = None
    ) -> None:
        """Notes one step; the tensors are 0-dim, and stay where they are."""
        scale, none = loss.new_full((), grad_scale), loss.new_zeros(())
        row = torch.stack([loss, grad_norm, wrong, scale, none if penalty is None else penalty.detach()]).float()
        self.bad = torch.maximum(self.bad, (~row[:2].isfinite().all()).float())
        self.rows.append(row)

    def read(self) -> list[Reading]:
        """The steps since the last reading: the loop's one wait for the device."""
        table = torch.stack(self.rows)
        self.rows = []
        if self.ranks.world > 1:
            table[:, 0], table[:, 2] = self.ranks.mean(table[:, 0]), self.ranks.sum(table[:, 2])
        return [Reading(loss, norm, int(wrong), scale, l1) for loss, norm, wrong, scale, l1 in table.tolist()]


SLOW_SHARE, SLOW_BATCHES, SLOW_S = 0.2, 20, 10.0
"""A loader is slow if the loop waits for it for so much of its time, over so many batches and seconds at least."""


class Waits:
    """Measures how long a loop waits for its batches, and says once if that is long.

    Example:
        >>> waits = Waits()
        >>> [batch for batch in waits.over([1, 2])], waits.seconds >= 0
        ([1, 2], True)
    """

    def __init__(self) -> None:
        self.seconds, self.first, self.batches, self.began, self.said = 0.0, 0.0, 0, 0.0, False

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of an epoch as they are; ``seconds`` counts from its beginning."""
        self.seconds, self.batches, self.began = 0.0, 0, time.perf_counter()
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            if not self.batches:
                self.first = self.seconds  # workers start, or fill their queues
            self.batches += 1
            yield batch

    def complaint(self, images_per_batch: int) -> str | None:
        """What to say of a slow loader, with the figure and what helps; only the first time that there is reason to."""
        running = time.perf_counter() - self.began - self.first
        waiting = self.seconds - self.first
        slow = self.batches >= SLOW_BATCHES and running >= SLOW_S and waiting > SLOW_SHARE * running
        if self.said or not slow:
            return None
        self.said = True
        images = self.batches * images_per_batch
        return (
            f"the loader is slower than the network: {images / running:,.0f} images/s where the network takes"
            f" {images / (running - waiting):,.0f} (data-bound: {100 * (1 - waiting / running):.0f} %). More --workers,"
            " smaller image files, or --cache-mib help."
        )
