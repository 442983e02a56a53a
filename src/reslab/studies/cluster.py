"""The same jobs on a Ray cluster: one core a job, and a job whose worker dies goes on at another.

``out`` must lie where all machines of the cluster can read and write it, and reslab must be installed on each: what
goes over the wire is a job, what comes back is a word; records and checkpoints are files.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reslab.errors import RequestError, WorkFailed
from reslab.studies.grid import GOES_ON, POLL_S, check_reasons, perform
from reslab.studies.job import Job

RETRIES = 3
"""How often a job is begun again after its worker died."""
KNOCK_S = 5.0
"""How long an address may take to answer."""
PASSED_ON = ("RESLAB_DATA", "PYTHONPATH")
"""What workers need of the environment that a study is started in."""


def run_on_ray(jobs: Mapping[str, Job], out: Path, *, address: str) -> Iterator[None]:
    """Does every job in ``out / NAME`` on a cluster, and yields about twice a second.

    Args:
        jobs: by name, in the order in which they are started; put the longest first.
        out: folder of the runs, on storage that all machines share.
        address: of the cluster's head, or ``auto`` for the one that this machine belongs to.

    Raises:
        RequestError: if Ray isn't installed, or no cluster answers.
        WorkFailed: if a run failed, after the others have ended, or the cluster is gone; what was done is kept.
    """
    ray = connect(address)
    out = out.resolve()
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(perform)
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0  # without asking for one, a job sees none
    try:
        names = {
            remote.options(name=name, num_gpus=int(has_gpus and job.wants_gpu)).remote(job, out / name, True): name
            for name, job in jobs.items()
        }
        pending = list(names)
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_S, fetch_local=False)
            yield
        reasons = {name: answer_of(ray, reference) for reference, name in names.items()}
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise WorkFailed(f"The Ray cluster is gone: {first_line(error)} {GOES_ON}") from None
    finally:
        ray.shutdown()
    check_reasons(reasons, jobs, out, may_diverge=True)


def connect(address: str) -> Any:
    """The ray module, joined to a cluster."""
    try:
        import ray
    except ImportError:
        raise RequestError("--ray needs Ray, which isn't installed: pip install 'reslab[ray]'.") from None
    check_address(address)
    passed_on = {name: value for name in PASSED_ON if (value := os.environ.get(name))}
    if "RESLAB_DATA" in passed_on:
        passed_on["RESLAB_DATA"] = str(Path(passed_on["RESLAB_DATA"]).resolve())
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", **passed_on}},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise no_cluster(address, first_line(error)) from None
    return ray


def check_address(address: str) -> None:
    """Refuses an address that nobody listens at, at once: Ray itself would ask for two minutes.

    Raises:
        RequestError: that says how to start a cluster.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise no_cluster(address, "An address is HOST:PORT, such as 10.0.0.1:6379, or auto.")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise no_cluster(address, first_line(error)) from None


def no_cluster(address: str, reason: str) -> RequestError:
    """What to do without one."""
    return RequestError(
        f"No Ray cluster answers at {address!r}: {reason} Start one by `ray start --head`, join others by"
        " `ray start --address HEAD:6379`, or leave --ray out to use this machine alone."
    )


def answer_of(ray: Any, reference: Any) -> str:
    """What a job said, or why it couldn't say anything."""
    try:
        return str(ray.get(reference))
    except ray.exceptions.WorkerCrashedError:
        return f"its worker died {RETRIES + 1} times"
    except ray.exceptions.RayError as error:  # its machine, or the whole cluster
        return f"the cluster lost it: {first_line(error)}".rstrip(".")


def first_line(error: BaseException) -> str:
    """What an error says, as one sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.')}."
