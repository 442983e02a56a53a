"""Worker processes that decode: batches of bytes from them, and one sentence when one of them breaks or dies.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from reslab.errors import RequestError, WorkFailed

Key = tuple[int, int]  # (epoch, number of the image in its split)
Sample = tuple[Tensor, Tensor]  # uint8 (C, H, W), int64 ()
Batch = tuple[Tensor, Tensor]  # uint8 (N, C, H, W), int64 (N,)

IDLE = -1
FEWER = "Use fewer workers or smaller batches"
ALONE = "Look at that image, and try again without workers to see more"
ADVICE = {
    "SIGKILL": f"as the system does to what takes most memory when none is left. {FEWER}",
    "SIGBUS": f"as the system does when shared memory (/dev/shm) is full or a mapped file got shorter. {FEWER}",
    "SIGSEGV": f"a fault inside a library. {ALONE}",
    "SIGTERM": "somebody ended it",
}


class Samples(Protocol):
    """A data set by (epoch, number)."""

    def __getitem__(self, key: Key) -> Sample:
        """One image and its label."""
        ...


@dataclass(frozen=True)
class Failure:
    """What went wrong in a worker, in place of a batch.

    A raised exception would arrive with its traceback in its text, and torch would wait for its worker's end.

    Args:
        sentence: for the user.
        is_request: whether the user's images are to blame.
    """

    sentence: str
    is_request: bool

    def error(self) -> RequestError | WorkFailed:
        """The exception to raise in the main process."""
        return RequestError(self.sentence) if self.is_request else WorkFailed(self.sentence)


class Watched(Dataset[Sample]):
    """A data set that names the image it fails at, and lets the main process see what each worker is busy with.

    Args:
        samples: the data set.
        names: what each image is called.
        workers: processes that read it, 0 for this one.
    """

    def __init__(self, samples: Samples, names: Sequence[str], *, workers: int) -> None:
        self.samples, self.names, self.workers = samples, names, workers
        # (workers, 2): process id and number of the image; shared memory outlives the process that wrote it
        self.busy = torch.full((max(1, workers), 2), IDLE).share_memory_()
        WATCHED.add(self)

    def __getitem__(self, key: Key) -> Sample:
        return self.samples[key]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | Failure:
        """A batch's samples; in a worker, why there are none if there are none."""
        samples = []
        for key in keys:
            self.note(key[1])
            try:
                samples.append(self.samples[key])
            except Exception as error:
                failure = self.failure(key[1], error)
                if get_worker_info() is None:
                    raise failure.error() from error
                return failure
        self.note(IDLE)
        return samples

    def note(self, number: int) -> None:
        """Leaves word of what this worker is about to do."""
        worker = get_worker_info()
        if worker is not None:
            self.busy[worker.id, 0], self.busy[worker.id, 1] = os.getpid(), number

    def failure(self, number: int, error: Exception) -> Failure:
        """An error as a sentence; a RequestError names its image already."""
        if isinstance(error, RequestError):
            return Failure(str(error), is_request=True)
        reason = f"{type(error).__name__}: {error}".strip().removesuffix(":").removesuffix(".")
        sentence = f"Can't prepare the image {self.names[number]}: {reason}. Look at it, or remove it."
        return Failure(sentence, is_request=False)

    def find(self, pid: int) -> str | None:
        """The worker with that process id and what it was busy with; None if it is none of these."""
        found = (self.busy[:, 0] == pid).nonzero().flatten().tolist()
        if not found:
            return None
        number = int(self.busy[found[0], 1])
        doing = "between two batches" if number == IDLE else f"over the image {self.names[number]}"
        return f"Worker {found[0] + 1} of {len(self.busy)} (process {pid}) died {doing}"


WATCHED: WeakSet[Watched] = WeakSet()  # those of this process, for the handler of dying children


def collate_uint8(samples: list[Sample] | Failure) -> Batch | Failure:
    """Stacks images as the bytes they are; in a worker straight into the memory that the main process reads."""
    if isinstance(samples, Failure):
        return samples
    assert all(image.dtype == torch.uint8 for image, _ in samples)
    images, labels = default_collate(samples)
    return images, labels


def watched_loader(watched: Watched, batches: Any, *, prefetch: int = 2, seed: int = 0) -> DataLoader[Sample]:
    """A ``DataLoader`` over (epoch, number) keys, whose workers stay alive between epochs; read it by ``batches_of``.

    Args:
        watched: the data set.
        batches: a batch sampler that yields lists of keys.
        prefetch: batches that each worker has ready ahead of the network.
        seed: of the workers' own generators.
    """
    return DataLoader(
        watched,
        batch_sampler=batches,
        collate_fn=collate_uint8,
        num_workers=watched.workers,
        prefetch_factor=prefetch if watched.workers else None,
        persistent_workers=watched.workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_interrupts_to_the_main_process,
        generator=torch.Generator().manual_seed(seed),  # torch's global one would be drawn from otherwise
    )


def leave_interrupts_to_the_main_process(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal; a worker that died of it would fail the ending run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batches_of(loader: DataLoader[Sample]) -> Iterator[Batch]:
    """The batches of a ``watched_loader``.

    Shape:
        -> images uint8 (N, C, H, W), labels int64 (N,); pinned if there is a GPU

    Raises:
        RequestError: for an image that can't be used, by its name, without a traceback.
        WorkFailed: for any other error in a worker, and for the death of one: which, over which image, of what. Torch
            hears of a death at any time, so it may also be raised between two batches.
    """
    try:
        iterator = iter(loader)
        name_deaths()
        for batch in iterator:
            if isinstance(batch, Failure):
                raise batch.error()
            yield batch
    except WorkFailed:
        raise
    except RuntimeError as error:
        raise explain(error) from None


def name_deaths() -> None:
    """Has torch's report of a dying worker explained, wherever in the main thread it interrupts."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, NamedDeaths):
        signal.signal(signal.SIGCHLD, NamedDeaths(handler))


class NamedDeaths:
    """A handler of dying children that explains what the handler before it, torch's, raises."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        """As ``signal.signal`` wants it."""
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            raise explain(error) from None


def explain(error: RuntimeError) -> RuntimeError:
    """Torch's report of a worker's death as one that says which, over which image and of what; others as they are."""
    if isinstance(error, WorkFailed):
        return error
    if isinstance(error.__cause__, WorkFailed):  # already explained by the handler, then hidden by torch
        return error.__cause__
    pids = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
    if pids is None:
        return error
    pid = int(pids.group(1).split(",")[0])
    who = next((found for watched in list(WATCHED) if (found := watched.find(pid))), f"A worker (process {pid}) died")
    return WorkFailed(f"{who}: {cause_of(str(error))}. A run goes on from its last checkpoint.")


def cause_of(report: str) -> str:
    """What killed a worker, and what to do about it, out of torch's words."""
    killed = re.search(r"killed by signal: ([^.]*)", report)
    if killed is None:
        code = re.search(r"exit code (-?\d+)", report)
        return f"it ended by itself{f' with exit code {code.group(1)}' if code else ''}. {ALONE}"
    names = [one.name for one in signal.Signals if signal.strsignal(one) == killed.group(1).strip()]
    name = names[0] if names else killed.group(1).strip()
    return f"killed by {name}, {ADVICE[name]}" if name in ADVICE else f"killed by {name}. {ALONE}"


def to_device_uint8(batch: Batch, device: torch.device) -> Batch:
    """Sends a batch off to the device without waiting for it, as bytes: a quarter of what floats would be.

    To a GPU it goes through pinned memory, without which ``non_blocking`` waits all the same.
    """
    images, labels = batch
    assert images.dtype == torch.uint8
    if device.type == "cuda":
        images, labels = (part if part.is_pinned() else part.pin_memory() for part in batch)
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
