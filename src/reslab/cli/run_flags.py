"""Flags of the commands that take a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(kw_only=True)
class RunFlags:
    """What they all take."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    weights: str = ""
    """best, last, or a safetensors file; by default the run's selected ones."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: bool = False
    """Print one JSON object on stdout."""
