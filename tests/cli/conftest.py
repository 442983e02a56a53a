from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from reslab.cli.main import main

TINY = ("train", "--model", "resnet8", "--data", "digits", "--steps", "2", "--threads", "1", "--device", "cpu")


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Answer:
    """``reslab ARGUMENTS`` in this process; tyro leaves through SystemExit."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def reslab() -> Callable[..., Answer]:
    """``reslab("train", "--out", path)`` -> code, out, err."""
    return call


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: resnet8 on digits, two steps. Don't change it; copy it."""
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    answer = call(*TINY, "--out", folder)
    assert answer.code == 0, answer.err
    return folder
