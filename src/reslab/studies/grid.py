"""Many runs at once on this machine: a process a run, each on cores of its own, so that they don't fight over them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from queue import Empty
from typing import Any

from reslab.config import RunConfig
from reslab.errors import WorkFailed
from reslab.records import RunFolder

POLL_S = 0.5


def run_grid(
    configs: dict[str, RunConfig],
    out: Path,
    *,
    workers: int | None = None,
    resume: bool = False,
    may_diverge: bool = False,
) -> Iterator[None]:
    """Trains every config into ``out / NAME`` and yields about twice a second, so that the caller can look at records.

    Args:
        configs: by name, in the order in which they are started; put the longest first.
        out: folder of the runs.
        workers: processes at once; by default one per core.
        resume: go on with a run of the same name; it is replaced otherwise.
        may_diverge: a run that diverges is a result, and left to its record.

    Raises:
        WorkFailed: if a run failed, with its name and reason, after the others have ended.
    """
    if not configs:
        return
    # spawn: a forked child would inherit torch's threads in whatever state they are
    context, count = multiprocessing.get_context("spawn"), min(workers or os.cpu_count() or 1, len(configs))
    shares = context.Queue()
    for cores in core_shares(count):
        shares.put(cores)
    with ProcessPoolExecutor(count, mp_context=context, initializer=stay_on, initargs=(shares,)) as pool:
        futures = {pool.submit(train_one, config, out / name, resume): name for name, config in configs.items()}
        pending: set[Future[str]] = set(futures)
        try:
            while pending:
                _, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                yield
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # those that run end by the same Ctrl-C, with a checkpoint
            raise
    failures = {name: reason for future, name in futures.items() if (reason := future.result())}
    if may_diverge:
        failures = {name: reason for name, reason in failures.items() if not has_diverged(RunFolder(out / name))}
    if failures:
        told = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise WorkFailed(f"{len(failures)} of {len(configs)} runs failed. {told}")


def train_one(config: RunConfig, out: Path, resume: bool = False) -> str:
    """One run in its own process; empty if it went well, or else the reason: not every exception can be pickled."""
    from reslab.run.train import train

    try:
        outcome = train(config, out, resume=resume, overwrite=not resume and RunFolder(out).holds_run())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "interrupted" if outcome.interrupted else ""


def has_diverged(folder: RunFolder) -> bool:
    """Whether the run's own record says that it came to an early end."""
    return folder.run.exists() and folder.read_run().status == "failed"


# ---- cores


def core_shares(count: int) -> list[set[int]]:
    """The cores that this process may use, dealt out to so many processes; all of them to each, if they are too few."""
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows leave it to the system
        return [set() for _ in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        return [set(cores) for _ in range(count)]
    return [set(cores[place::count]) for place in range(count)]


def stay_on(shares: Any) -> None:
    """At the start of a process of the pool: takes the next share of the cores."""
    try:
        cores = shares.get(timeout=1)
    except Empty:  # a process in place of one that has died: the system finds it a core
        return
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
