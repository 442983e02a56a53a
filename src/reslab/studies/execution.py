"""Many runs at once, on this machine's cores or on a Ray cluster; and how long they will take."""

from __future__ import annotations

import heapq
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from reslab.errors import RequestError, WorkFailed
from reslab.studies.runs import StudyRun, num_cores

POLL_S = 0.5
RESUMES = "What was done is kept; run the same command again to continue."
BUSY = threading.Lock()
"""Held by a process of the pool while it computes."""
ORPHANED = threading.Event()
"""Set in a process of the pool whose study was killed."""
STOPS: list[Any] = [ORPHANED]
"""Once one of these is set, a process of the pool begins no other run; the second is the study's own."""


def run_locally(
    runs: Mapping[str, StudyRun], out: Path, *, workers: int | None = None, resume: bool = False
) -> Iterator[None]:
    """Compute every run in ``out / NAME``, a process per run, each pinned to cores of its own.

    Args:
        runs: by name, in the order in which they are started; put the longest first.
        out: folder of the runs.
        workers: processes at once; by default one per core.
        resume: continue runs of the same name instead of replacing them. A run that diverges is then a result, and no
            reason to fail.

    Yields:
        about twice a second, so that the caller can look at the records.

    Raises:
        WorkFailed: if a run failed, with its name and reason, after the others have ended.
    """
    if not runs:
        return
    # spawn: a forked child would inherit torch's threads in whatever state they are
    context, count = multiprocessing.get_context("spawn"), min(workers or num_cores(), len(runs))
    shares, stop = context.Queue(), context.Event()
    for cores in core_shares(count):
        shares.put(cores)
    with ProcessPoolExecutor(count, mp_context=context, initializer=begin_worker, initargs=(shares, stop)) as pool:
        futures = {pool.submit(execute, run, out / name, resume): name for name, run in runs.items()}
        pending: set[Future[str]] = set(futures)
        try:
            while pending:
                _, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                yield
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)  # those at work end by the same Ctrl-C, with a checkpoint
            raise
    try:
        reasons = {name: future.result() for future, name in futures.items()}
    except BrokenProcessPool:
        raise WorkFailed(f"A process was killed: perhaps memory ran out. Use fewer --workers. {RESUMES}") from None
    check_reasons(reasons, runs, out, may_diverge=resume)


def execute(run: StudyRun, out: Path, resume: bool) -> str:
    """Compute one run in its own process; return why that failed, or an empty string."""
    with BUSY:
        return "interrupted" if any(stop.is_set() for stop in STOPS) else run.execute(out, resume=resume)


def check_reasons(reasons: Mapping[str, str], runs: Mapping[str, StudyRun], out: Path, *, may_diverge: bool) -> None:
    """Raise WorkFailed for runs that neither went well nor came to an end that is a result; equal reasons once."""
    failed: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason and not (may_diverge and runs[name].read(out / name).status == "failed"):
            failed.setdefault(reason, []).append(name)
    if failed:
        texts = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in failed.items())
        count = sum(map(len, failed.values()))
        raise WorkFailed(f"{count} of {len(runs)} runs failed. {texts}{f'. {RESUMES}' if may_diverge else ''}")


# ---- the processes


def core_shares(count: int) -> list[set[int]]:
    """Deal out the cores that this process may use to ``count`` others; all of them to each, if they are too few."""
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows leave it to the system
        return [set() for _ in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[start::count] if len(cores) >= count else cores) for start in range(count)]


def begin_worker(shares: Any, stop: Any) -> None:
    """Take the next share of the cores, and stay no longer than the parent."""
    STOPS.append(stop)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        cores = shares.get(timeout=1)
    except Empty:  # a process in place of one that has died: the system finds it a core
        return
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def end_with_parent() -> None:
    """End this process, with a checkpoint, once the study was killed: another one may resume its runs at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        ORPHANED.set()
        os.kill(os.getpid(), signal.SIGTERM)  # a training ends after its step
        with BUSY:
            os._exit(1)


# ---- Ray

RETRIES = 3
"""How often a run is resumed after its worker died."""
CONNECT_TIMEOUT_S = 5.0
PASSED_ON = ("RESLAB_DATA", "PYTHONPATH")
"""What workers need of the environment that a study is started in."""


def run_on_ray(runs: Mapping[str, StudyRun], out: Path, *, address: str) -> Iterator[None]:
    """Compute every run in ``out / NAME`` on a cluster, one core per run; a run whose worker dies resumes on another.

    What goes over the wire is a run, what comes back is a word; records and checkpoints are files. reslab must be
    installed on each machine.

    Args:
        runs: by name, in the order in which they are started; put the longest first.
        out: folder of the runs, on storage that all machines share.
        address: of the cluster's head, or ``auto`` for the one that this machine belongs to.

    Yields:
        about twice a second.

    Raises:
        RequestError: if Ray isn't installed, or no cluster answers.
        WorkFailed: if a run failed, after the others have ended, or the cluster is gone; what was done is kept.
    """
    ray = connect(address)
    out = out.resolve()
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(execute)
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0  # without asking for one, a run sees none
    try:
        names = {
            remote.options(name=name, num_gpus=int(has_gpus and run.uses_gpu)).remote(run, out / name, True): name
            for name, run in runs.items()
        }
        pending = list(names)
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_S, fetch_local=False)
            yield
        reasons = {name: answer_of(ray, reference) for reference, name in names.items()}
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise WorkFailed(f"The Ray cluster is gone: {first_line(error)} {RESUMES}") from None
    finally:
        ray.shutdown()
    check_reasons(reasons, runs, out, may_diverge=True)


def connect(address: str) -> Any:
    """Join a cluster, and return the ray module."""
    try:
        import ray
    except ImportError:
        raise RequestError("--ray needs Ray, which isn't installed: pip install 'reslab[ray]'.") from None
    passed_on = {name: value for name in PASSED_ON if (value := os.environ.get(name))}
    if "RESLAB_DATA" in passed_on:
        passed_on["RESLAB_DATA"] = str(Path(passed_on["RESLAB_DATA"]).resolve())
    environment = {"env_vars": {"OMP_NUM_THREADS": "1", **passed_on}}
    try:
        check_address(address)
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"No Ray cluster answers at {address!r}: {first_line(error)} Start one with `ray start --head`, join others"
            " with `ray start --address HEAD:6379`, or leave --ray out to use this machine alone."
        ) from None
    return ray


def check_address(address: str) -> None:
    """Raise an error at once for an address that nobody listens at: Ray itself would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto":
        if not host or not port.isdigit():
            raise ValueError("An address is HOST:PORT, such as 10.0.0.1:6379, or auto.")
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def answer_of(ray: Any, reference: Any) -> str:
    """Return what a run answered, or why it couldn't."""
    try:
        return str(ray.get(reference))
    except ray.exceptions.WorkerCrashedError:
        return f"its worker died {RETRIES + 1} times"
    except ray.exceptions.RayError as error:  # its machine, or the whole cluster
        return f"the cluster lost it: {first_line(error)}".rstrip(".")


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.')}."


# ---- how long it takes


@dataclass(frozen=True)
class Estimate:
    """How long runs are going to take: each by name, all together, and on which part of the machine."""

    seconds: dict[str, float]
    minutes: float
    where: str


def estimate(runs: Mapping[str, StudyRun], *, workers: int) -> Estimate:
    """Time a step of each network. Runs that share a GPU take about as long as one after the other."""
    import torch

    seconds = {name: run.expected_s() for name, run in runs.items()}
    on_gpu = torch.cuda.is_available() and any(run.uses_gpu for run in runs.values())
    where = "this machine's GPU, which all share" if on_gpu else f"{workers} of this machine's cores"
    return Estimate(seconds, makespan_s(seconds.values(), workers=1 if on_gpu else workers) / 60, where)


def makespan_s(seconds: Iterable[float], *, workers: int) -> float:
    """Compute the time until the last run ends, if each in turn goes to the worker that is free first."""
    free = [0.0] * workers
    for length in seconds:
        heapq.heapreplace(free, free[0] + length)
    return max(free)
