"""Memory of this process, by the operating system. Linux only."""

from __future__ import annotations

import re
from pathlib import Path

PROCESS = Path("/proc/self")


def resident_mib() -> float:
    """What it has now."""
    return status_mib("VmRSS")


def peak_mib() -> float:
    """The most that it has had.

    ``getrusage`` would not do: its peak starts at the parent's, for ``exec`` keeps it.
    """
    return status_mib("VmHWM")


def memory_from_here() -> float:
    """What it has now, in MiB; the peak counts from here on."""
    (PROCESS / "clear_refs").write_text("5", encoding="utf-8")
    return resident_mib()


def status_mib(key: str) -> float:
    """A line of the process's status."""
    status = (PROCESS / "status").read_text(encoding="utf-8")
    found = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return int(found[1]) / 1024
