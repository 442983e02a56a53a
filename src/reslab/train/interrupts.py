"""Ctrl-C and SIGTERM: a run that is told to stop ends after its step, in all of its processes at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from reslab.distributed import Ranks


@contextmanager
def catch_interrupts(ranks: Ranks, device: torch.device) -> Iterator[Any]:
    """Turns the first SIGINT or SIGTERM into a flag that the loop asks for; the second one has its usual effect.

    The flag is up for all processes of the run as soon as it is for one, so that all stop after the same step.
    Outside the main thread, where signals can't be caught, the flag stays down.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ranks.any(False, device)
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handler)
    try:
        yield lambda: ranks.any(bool(caught), device)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
