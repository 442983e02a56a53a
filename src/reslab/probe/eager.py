"""Compiled models run uncompiled for as long as a probe looks into them: compiled code hides its operations."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import torch


def eagerly() -> AbstractContextManager[object]:
    """While this is open, what was compiled runs as it was written.

    Whatever is compiled has loaded torch's compiler. Without it there is nothing to do, and loading it would take
    seconds. What is compiled for the first time inside stays compiled for this time.

    Example:
        >>> with eagerly():
        ...     out = torch.nn.Linear(2, 1)(torch.ones(1, 2))
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
