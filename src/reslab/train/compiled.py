"""torch.compile, without its remarks about a GPU that nobody asked for."""

from __future__ import annotations

import logging

import torch
from torch import nn


def compiled(model: nn.Module) -> nn.Module:
    """The model through torch.compile; it is compiled when it first runs.

    On machines without a GPU torch warns that it found no CUDA runtime while it compiles for the CPU.
    """
    if not torch.cuda.is_available():
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    found: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return found
