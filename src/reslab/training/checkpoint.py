"""Checkpoints: the training state on disk, each beside a manifest with its SHA-256. The newest good one counts."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from reslab.records.files import write_atomic

KEEP = 2  # the newest, and one to fall back on if that is damaged


def save_checkpoint(folder: Path, state: dict[str, Any], *, step: int) -> Path:
    """Writes ``step-N.pt`` and then its manifest, each whole or not at all, and removes all but the newest two.

    The manifest comes second: a checkpoint without one was never finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    write_atomic(path, content)
    manifest = {"file": path.name, "step": step, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_atomic(path.with_suffix(".json"), json.dumps(manifest, indent=2))
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()
    return path


def load_newest_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not.

    Nothing but tensors, numbers, text and containers is unpickled.

    Returns:
        State (None if there is no good one), and the reasons.
    """
    reasons: list[str] = []
    for path in newest_first(folder):
        content = path.read_bytes()
        reason = damage(path, content)
        if reason is None:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return state, reasons
        reasons.append(f"{path.name} is skipped: {reason}")
    return None, reasons


def newest_first(folder: Path) -> Iterator[Path]:
    """Checkpoint files by falling step."""
    files = [path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
    yield from sorted(files, reverse=True)


def damage(path: Path, content: bytes) -> str | None:
    """What is wrong with a checkpoint's bytes; None if they are those that were written."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text())
        expected_bytes, expected_hash = manifest["bytes"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest is missing or unreadable, so it was never finished"
    if len(content) != expected_bytes:
        return f"it has {len(content)} of {expected_bytes} bytes"
    if hashlib.sha256(content).hexdigest() != expected_hash:
        return "its content doesn't match its SHA-256"
    return None
