"""Many jobs at once on this machine: a process a job, each on cores of its own, so that they don't fight over them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import Empty
from typing import Any

from reslab.errors import WorkFailed
from reslab.studies.job import Job

POLL_S = 0.5
AT_WORK = threading.Lock()
"""Held by a process of the pool while it has a job."""
ORPHANED = threading.Event()
"""Set in a process of the pool whose study was killed."""
STOPS: list[Any] = [ORPHANED]
"""Once one of these is set, a process of the pool begins no other job; the second is the study's own."""
GOES_ON = "What was done is kept; the same command goes on."


def run_grid(jobs: Mapping[str, Job], out: Path, *, workers: int | None = None, resume: bool = False) -> Iterator[None]:
    """Does every job in ``out / NAME`` and yields about twice a second, so that the caller can look at records.

    Args:
        jobs: by name, in the order in which they are started; put the longest first.
        out: folder of the runs.
        workers: processes at once; by default one per core.
        resume: go on with a run of the same name; it is replaced otherwise. With it, a run that diverges is a result,
            and left to its record.

    Raises:
        WorkFailed: if a run failed, with its name and reason, after the others have ended.
    """
    if not jobs:
        return
    # spawn: a forked child would inherit torch's threads in whatever state they are
    context, count = multiprocessing.get_context("spawn"), min(workers or num_cores(), len(jobs))
    shares, stop = context.Queue(), context.Event()
    for cores in core_shares(count):
        shares.put(cores)
    with ProcessPoolExecutor(count, mp_context=context, initializer=stay_on, initargs=(shares, stop)) as pool:
        futures = {pool.submit(perform, job, out / name, resume): name for name, job in jobs.items()}
        pending: set[Future[str]] = set(futures)
        try:
            while pending:
                _, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                yield
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)  # those that run end by the same Ctrl-C, with a checkpoint
            raise
    try:
        reasons = {name: future.result() for future, name in futures.items()}
    except BrokenProcessPool:
        raise WorkFailed(
            f"A process of the grid was killed: perhaps memory ran out. Take fewer --workers. {GOES_ON}"
        ) from None
    check_reasons(reasons, jobs, out, may_diverge=resume)


def perform(job: Job, out: Path, resume: bool) -> str:
    """One job in its own process; empty if it went well, or else the reason."""
    with AT_WORK:
        return "interrupted" if any(stop.is_set() for stop in STOPS) else job.run(out, resume=resume)


def check_reasons(reasons: Mapping[str, str], jobs: Mapping[str, Job], out: Path, *, may_diverge: bool) -> None:
    """Raises WorkFailed for jobs that neither went well nor came to an end that is a result."""
    lost = {
        name: reason
        for name, reason in reasons.items()
        if reason and not (may_diverge and jobs[name].status(out / name) == "failed")
    }
    if lost:
        alike: dict[str, list[str]] = {}
        for name, reason in lost.items():
            alike.setdefault(reason, []).append(name)
        told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in alike.items())
        raise WorkFailed(f"{len(lost)} of {len(jobs)} runs failed. {told}{f'. {GOES_ON}' if may_diverge else ''}")


# ---- cores


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_shares(count: int) -> list[set[int]]:
    """The cores that this process may use, dealt out to so many processes; all of them to each, if they are too few."""
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows leave it to the system
        return [set() for _ in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        return [set(cores) for _ in range(count)]
    return [set(cores[place::count]) for place in range(count)]


def stay_on(shares: Any, stop: Any) -> None:
    """At the start of a process of the pool: takes the next share of the cores, and stays no longer than its parent."""
    STOPS.append(stop)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        cores = shares.get(timeout=1)
    except Empty:  # a process in place of one that has died: the system finds it a core
        return
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def end_with_parent() -> None:
    """Ends this process, with a checkpoint, once the study was killed: another one may go on with its runs at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        ORPHANED.set()
        os.kill(os.getpid(), signal.SIGTERM)  # a run ends after its step
        with AT_WORK:
            os._exit(1)
