"""Networks with values that count, and files of them."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from reslab.cli.main import main

os.environ.setdefault("KERAS_BACKEND", "torch")


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def reslab() -> Callable[..., Answer]:
    """``reslab("convert", path)`` -> code, out, err."""

    def call(*arguments: str | Path) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0
        return Answer(code, out.getvalue(), err.getvalue())

    return call


def scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms away from 1 and 0, biases and gains from 0, statistics from their start, so that each of them counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or (set(parameter.shape[1:]) == {1} and parameter.shape[0] > 1):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for buffer in model.buffers():
            if buffer.is_floating_point() and buffer.ndim == 1:
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    return model.eval()


def images(side: int = 64, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two of them, (2, C, side, side)."""
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.fixture(scope="session")
def timm():
    """The library, which tests alone use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm")


@pytest.fixture(scope="session")
def keras():
    """The library with torch below it, which tests alone use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("keras")
    assert module.backend.backend() == "torch"
    return module
