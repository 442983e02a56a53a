"""How much memory is free: on a GPU, on this machine, in the container that this process is in."""

from __future__ import annotations

from pathlib import Path

import torch

MACHINE, OWN_GROUPS, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program can still take; None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [free for free in (free_of_machine(), *map(free_of_group, groups())) if free is not None]
    return min(found, default=None)


def free_of_machine() -> int | None:
    """What Linux says is available; None elsewhere."""
    try:
        lines = MACHINE.read_text().splitlines()
    except OSError:
        return None
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def groups(root: Path = GROUPS) -> list[Path]:
    """Folders of the control groups that limit this process's memory, as in a container; of version 2 and of 1."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if not kinds:
            found.append(root / path.lstrip("/"))
        elif "memory" in kinds.split(","):
            found.append(root / "memory" / path.lstrip("/"))
    own = [parent for folder in found for parent in (folder, *folder.parents) if root in (parent, *parent.parents)]
    return list(dict.fromkeys([*own, root, root / "memory"]))


def free_of_group(folder: Path) -> int | None:
    """What a control group leaves: limit less usage, where pages that were only read from files don't count."""
    for limit_name, usage_name, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, usage = (folder / limit_name).read_text().strip(), int((folder / usage_name).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        return None if limit == "max" else max(0, int(limit) - usage + int(stat.get(cached, 0)))
    return None
