"""Python's collector of cycles waits while a pass is read.

A reading makes some ten thousand small objects that stay for a moment. With all of torch loaded, the collections that
they set off take longer than the reading itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """While this is open nothing is collected; afterwards it is as it was.

    Example:
        >>> with collector_paused():
        ...     gc.isenabled()
        False
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
