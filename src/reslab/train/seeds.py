"""Seeds and determinism."""

from __future__ import annotations

import os
import random

import numpy as np
import torch


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seeds Python, NumPy and torch, and optionally makes torch refuse operations that aren't deterministic.

    On the CPU runs repeat bit by bit without ``deterministic`` too, given the same number of threads; on a GPU they
    need it, and run slower.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # for libraries that use it; ours draw from torch
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
