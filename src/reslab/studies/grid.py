"""Many runs at once on this machine: one process a run, one thread each, so that they don't fight over cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from reslab.config import RunConfig
from reslab.errors import WorkFailed
from reslab.records import RunFolder

POLL_S = 0.5


def run_grid(configs: dict[str, RunConfig], out: Path, *, workers: int | None = None) -> Iterator[None]:
    """Trains every config into ``out / NAME`` and yields about twice a second, so that the caller can look at records.

    Args:
        configs: by name, in the order in which they are started; put the longest first.
        out: folder of the runs. A run of the same name is replaced.
        workers: processes at once; by default one per core.

    Raises:
        WorkFailed: if a run failed, with its name and reason, after the others have ended.
    """
    # spawn: a forked child would inherit torch's threads in whatever state they are
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(configs)), mp_context=context) as pool:
        futures = {pool.submit(train_one, config, out / name): name for name, config in configs.items()}
        pending: set[Future[str]] = set(futures)
        try:
            while pending:
                _, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                yield
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # those that run end by the same Ctrl-C, with a checkpoint
            raise
    if failures := [f"{name}: {reason}" for future, name in futures.items() if (reason := future.result())]:
        raise WorkFailed(f"{len(failures)} of {len(configs)} runs failed. {'; '.join(failures)}")


def train_one(config: RunConfig, out: Path) -> str:
    """One run in its own process; empty if it went well, or else the reason: not every exception can be pickled."""
    from reslab.run.train import train

    try:
        outcome = train(config, out, overwrite=RunFolder(out).holds_run())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "interrupted" if outcome.interrupted else ""
