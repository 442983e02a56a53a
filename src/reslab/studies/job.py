"""One run of a study, as something that another process, here or on another machine, can carry out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, Self

Status = Literal["new", "open", "done", "failed"]
"""``open`` has begun, and goes on where it was; ``failed`` would fail again."""


class Job(Protocol):
    """A config and what is done by it. It can be pickled."""

    def seeded(self, seed: int) -> Self:
        """The same with another seed."""
        ...

    @property
    def wants_gpu(self) -> bool:
        """Whether it computes on a GPU where there is one."""
        ...

    def check(self) -> None:
        """Refuses what can't begin on this machine, such as a run without its data; fetches that where it may."""
        ...

    def run(self, out: Path, *, resume: bool) -> str:
        """Does it, and leaves records in ``out``. Empty if it went well, or else why it didn't."""
        ...

    def status(self, out: Path) -> Status:
        """How far it is, by the records in ``out``."""
        ...

    def progress(self, out: Path) -> str:
        """How far a job is that has begun, such as ``epoch 3 of 15``; empty if it doesn't tell."""
        ...

    def changes(self, out: Path) -> list[str]:
        """What ``out`` was made with, where that is another config; phrases such as ``train.epochs was 1, now 3``."""
        ...

    def values(self, out: Path) -> dict[str, float]:
        """What was measured, by measure; of a job that is done."""
        ...

    def failure(self, out: Path) -> str:
        """Why it failed, in a sentence; of a job that has."""
        ...

    def made_on(self, out: Path) -> tuple[dict[str, Any], dict[str, str]]:
        """Machine and versions; of a job that is done."""
        ...

    def expected_s(self) -> float:
        """How long it would take here, on one thread."""
        ...
