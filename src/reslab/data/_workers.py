"""Worker processes that decode: batches of bytes from them, and one sentence when one of them breaks or dies."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from reslab.errors import RequestError, WorkFailed

Key = tuple[int, int]  # (epoch, number of the sample in its split)
Sample = tuple[Tensor, Any]  # (input, target)

IDLE = -1
FEWER = "Use fewer workers or smaller batches"
LOOK = "Look at that image, and try again without workers to see more"
ADVICE = {
    "SIGKILL": f"as the system does to what takes most memory when none is left. {FEWER}",
    "SIGBUS": f"as the system does when shared memory (/dev/shm) is full or a mapped file got shorter. {FEWER}",
    "SIGSEGV": f"a fault inside a library. {LOOK}",
    "SIGTERM": "somebody ended it",
}


class WatchedSamples(Dataset[Sample]):
    """Samples by key that name the image they fail at, and let the main process see what each worker is busy with."""

    def __init__(self, samples: Any, names: Sequence[str], *, workers: int) -> None:
        self.samples, self.names, self.workers = samples, names, workers
        # (workers, 2): process id and number of the image; shared memory outlives the process that wrote it
        self.busy = torch.full((max(1, workers), 2), IDLE).share_memory_()
        WATCHED.add(self)

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | Exception:
        """Return a batch's samples; from a worker, the error in their place if there is one.

        A raised one would arrive with its traceback in its text, and torch would wait for its worker's end.
        """
        worker, found = get_worker_info(), []
        for key in keys:
            self._note(key[1])
            try:
                found.append(self.samples[key])
            except Exception as error:
                explained = self._explained(key[1], error)
                if worker is None:
                    raise explained from error
                return explained
        self._note(IDLE)
        return found

    def _note(self, number: int) -> None:
        if (worker := get_worker_info()) is not None:
            self.busy[worker.id, 0], self.busy[worker.id, 1] = os.getpid(), number

    def _explained(self, number: int, error: Exception) -> Exception:
        if isinstance(error, RequestError):  # names its image already
            return RequestError(str(error))
        reason = f"{type(error).__name__}: {error}".strip().removesuffix(":").removesuffix(".")
        return WorkFailed(f"Can't prepare the image {self.names[number]}: {reason}. Look at it, or remove it.")

    def find(self, pid: int) -> str | None:
        """Say what the worker with that process id was busy with; None if it is none of these."""
        found = (self.busy[:, 0] == pid).nonzero().flatten().tolist()
        if not found:
            return None
        number = int(self.busy[found[0], 1])
        doing = "between two batches" if number == IDLE else f"over the image {self.names[number]}"
        return f"Worker {found[0] + 1} of {len(self.busy)} (process {pid}) died {doing}"


WATCHED: WeakSet[WatchedSamples] = WeakSet()  # those of this process, for the handler of dying children


def collate_samples(samples: list[Sample] | Exception) -> tuple[Any, Any] | Exception:
    """Stack inputs and targets where all have one shape, in a worker straight into memory that the main process reads.

    What can't be stacked (images of several sizes, boxes, dicts) stays a list.
    """
    if isinstance(samples, Exception):
        return samples
    inputs, targets = zip(*samples, strict=True)
    return _stack(inputs), _stack(targets)


def _stack(parts: Sequence[Any]) -> Any:
    kinds = {(part.shape, part.dtype) if isinstance(part, Tensor) else type(part) for part in parts}
    if len(kinds) > 1 or not isinstance(parts[0], Tensor | int | float):
        return list(parts)
    return default_collate([part.as_subclass(Tensor) if isinstance(part, Tensor) else part for part in parts])


def watched_loader(watched: WatchedSamples, batches: Iterable[list[Key]], *, seed: int = 0) -> DataLoader[Sample]:
    """Make a ``DataLoader`` over batches of keys; its workers stay alive between epochs. ``batches_of`` reads it."""
    return DataLoader(
        watched,
        batch_sampler=batches,
        collate_fn=collate_samples,
        num_workers=watched.workers,
        persistent_workers=watched.workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator().manual_seed(seed),  # torch's global one would be drawn from otherwise
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal; a worker that died of it would fail the ending run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batches_of(loader: DataLoader[Sample]) -> Iterator[tuple[Any, Any]]:
    """Read the batches of a ``watched_loader``: inputs and targets, pinned if there is a GPU.

    Raises:
        RequestError: for an image that can't be used, by its name, without a traceback.
        WorkFailed: for any other error in a worker, and for the death of one: which, over which image, of what. Torch
            hears of a death at any time, so it may also be raised between two batches.
    """
    try:
        iterator = iter(loader)
        _explain_deaths()
        for batch in iterator:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    except WorkFailed:
        raise
    except RuntimeError as error:
        raise explain(error) from None


def _explain_deaths() -> None:
    """Have torch's report of a dying worker explained, wherever in the main thread it interrupts."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, ExplainingHandler):
        signal.signal(signal.SIGCHLD, ExplainingHandler(handler))


class ExplainingHandler:
    """A handler of dying children that explains what the handler before it, torch's, raises."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            raise explain(error) from None


def explain(error: RuntimeError) -> RuntimeError:
    """Reword torch's report of a worker's death: which worker, over which image, of what; others stay as they are."""
    if isinstance(error, WorkFailed):
        return error
    if isinstance(error.__cause__, WorkFailed):  # already explained by the handler, then hidden by torch
        return error.__cause__
    pids = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
    if pids is None:
        return error
    pid = int(pids.group(1).split(",")[0])
    who = next((found for watched in list(WATCHED) if (found := watched.find(pid))), f"A worker (process {pid}) died")
    return WorkFailed(f"{who}: {_cause_of(str(error))}. A run goes on from its last checkpoint.")


def _cause_of(report: str) -> str:
    """What killed a worker, and what to do about it, out of torch's words."""
    killed = re.search(r"killed by signal: ([^.]*)", report)
    if killed is None:
        code = re.search(r"exit code (-?\d+)", report)
        return f"it ended by itself{f' with exit code {code.group(1)}' if code else ''}. {LOOK}"
    description = killed.group(1).strip()
    name = next((one.name for one in signal.Signals if signal.strsignal(one) == description), description)
    return f"killed by {name}, {ADVICE[name]}" if name in ADVICE else f"killed by {name}. {LOOK}"
