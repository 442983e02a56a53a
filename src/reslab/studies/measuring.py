"""A job that is no training run: a function of a few settings and a seed, whose numbers go into a file of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reslab.errors import RequestError
from reslab.records import decode, encode, write_atomic
from reslab.studies.grid import num_cores
from reslab.studies.job import Status

RESULT = "result.json"


@dataclass(frozen=True)
class Measuring:
    """Something measured.

    Args:
        measure: settings and seed to numbers; a function of a module, so that another process finds it.
        settings: a dataclass.
        expect: settings to the seconds that it would take on one thread.
        seed: of everything random.
        threads: to compute with; 0 for one on each core.
    """

    measure: Callable[[Any, int], dict[str, float]]
    settings: Any
    expect: Callable[[Any], float]
    seed: int = 0
    threads: int = 1

    def seeded(self, seed: int) -> Measuring:
        """With another seed."""
        return replace(self, seed=seed)

    @property
    def wants_gpu(self) -> bool:
        """It measures on the CPU."""
        return False

    def check(self) -> None:
        """It brings all that it needs."""

    def run(self, out: Path, *, resume: bool) -> str:
        """Measures. Not every exception can be pickled, hence words."""
        import torch

        from reslab.run.record import machine_of, versions

        torch.set_num_threads(self.threads or num_cores())
        try:
            values = self.measure(self.settings, self.seed)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        out.mkdir(parents=True, exist_ok=True)
        record = {
            "settings": self.described(),
            "values": values,
            "machine": machine_of(torch.device("cpu")),
            "versions": versions(),
        }
        write_atomic(out / RESULT, encode(record, indent=2) + "\n")
        return ""

    def described(self) -> dict[str, Any]:
        """All that the numbers depend on."""
        return {**asdict(self.settings), "seed": self.seed}

    def status(self, out: Path) -> Status:
        """It is done or not begun: nothing is kept of a part."""
        return "done" if (out / RESULT).exists() else "new"

    def progress(self, out: Path) -> str:
        """It has no parts."""
        return ""

    def changes(self, out: Path) -> list[str]:
        """Of the settings."""
        if not (out / RESULT).exists():
            return []
        before, now = read_result(out)["settings"], self.described()
        return [
            f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
            for key in sorted({*before, *now})
            if encode(before.get(key)) != encode(now.get(key))
        ]

    def values(self, out: Path) -> dict[str, float]:
        """As they were measured."""
        return dict(read_result(out)["values"])

    def failure(self, out: Path) -> str:
        """It leaves nothing when it fails."""
        raise AssertionError(out)

    def made_on(self, out: Path) -> tuple[dict[str, Any], dict[str, str]]:
        """Machine and versions."""
        found = read_result(out)
        return found["machine"], found["versions"]

    def expected_s(self) -> float:
        """By a trial."""
        return self.expect(self.settings)


def read_result(out: Path) -> dict[str, Any]:
    """The file."""
    path = out / RESULT
    try:
        found = decode(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("settings", "values", "machine", "versions")}
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path} is damaged ({type(error).__name__}: {error}). Delete it; the study measures it again."
        ) from None
