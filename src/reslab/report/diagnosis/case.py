"""One diagnosis as records, which is all that pictures and pages take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reslab.errors import RequestError
from reslab.records import DepthRecord, ReadingRecord, VerdictRecord


@dataclass(frozen=True)
class Case:
    """What was seen of one network, and what it means.

    Args:
        name: of the network.
        judged: what the rules say.
        readings: in order of step; at least one.
        depth: what the depth is used for, if it was measured.
        facts: name to value, for the card of the run: versions, batch, loss, cost.

    Raises:
        RequestError: without a reading.
    """

    name: str
    judged: VerdictRecord
    readings: tuple[ReadingRecord, ...]
    depth: DepthRecord | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.readings:
            raise RequestError(f"There is no reading of {self.name} to draw. Expected at least one.")
