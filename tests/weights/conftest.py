"""The command line in this process, and the libraries that weights come from."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

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
