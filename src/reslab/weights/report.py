"""What became of every key of a weights file: as rows, as a short table, and as a dict for JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any, Literal, get_args

Action = Literal["loaded", "adapted", "filled", "kept", "ignored"]
"""``loaded`` as it is; ``adapted`` to another form; ``filled`` in, since the file lacks it; ``kept``, the network's
own; ``ignored``, the file's, which the network has no place for."""


@dataclass(frozen=True)
class KeyResult:
    """What became of one key."""

    key: str  # in the file; empty for what the file lacks
    name: str  # in the network; empty for what the network has no place for
    action: Action
    note: str = ""  # how or why


@dataclass
class LoadReport:
    """What was read, and where it went.

    Args:
        file: path.
        kind: of the file.
        layout: name of the layout that its keys have.
        model: the network, in words.
        entry: where in a checkpoint the weights were.
        prefix: what stood before every key.
        rows: one for each key of file and network.
        assumptions: what the file doesn't say, and what was assumed.
        notes: what else a user should know, such as the images that the network expects.

    Example:
        >>> report = LoadReport("a.pt", "torch", "reslab", "resnet20", rows=[KeyResult("fc.bias", "fc.bias", "loaded")])
        >>> print(report)
        a.pt (torch, layout reslab) -> resnet20: 1 loaded
          fc.bias -> fc.bias  1  loaded
    """

    file: str
    kind: str
    layout: str
    model: str
    entry: str = ""
    prefix: str = ""
    rows: list[KeyResult] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Number of keys by action; actions without keys are left out."""
        counted = Counter(row.action for row in self.rows)
        return {action: counted[action] for action in get_args(Action) if action in counted}

    @property
    def headline(self) -> str:
        """The first line of the table."""
        source = [self.kind, f"layout {self.layout}"]
        source += [f"{what} {value}" for what, value in (("entry", self.entry), ("prefix", self.prefix)) if value]
        counts = ", ".join(f"{count} {action}" for action, count in self.counts.items())
        return f"{self.file} ({', '.join(source)}) -> {self.model}: {counts}"

    @property
    def remarks(self) -> list[str]:
        """Assumptions and notes, a line for each."""
        return [f"assumed: {text}" for text in self.assumptions] + [f"note: {text}" for text in self.notes]

    def groups(self) -> list[tuple[KeyResult, int]]:
        """Fold the rows, loaded ones by the part of the network, others by action and note; and count them."""
        folded: dict[tuple[str, Action, str], list[KeyResult]] = {}
        for row in sorted(self.rows, key=lambda row: (row.action != "loaded", row.action, row.note)):
            part = row.name.partition(".")[0] if row.action == "loaded" else ""
            folded.setdefault((part, row.action, row.note), []).append(row)
        found = []
        for (_, action, note), rows in folded.items():
            key, name = _common([row.key for row in rows]), _common([row.name for row in rows])
            found.append((KeyResult(key, name, action, note), len(rows)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"counts": self.counts}

    def __str__(self) -> str:
        lines = [(f"{row.key or '-'} -> {row.name or '-'}", count, row) for row, count in self.groups()]
        width = max((len(arrow) for arrow, *_ in lines), default=0)
        table = [
            f"  {arrow:<{width}}  {count}  {row.action}" + (f" ({row.note})" if row.note else "")
            for arrow, count, row in lines
        ]
        return "\n".join([self.headline, *table, *self.remarks])


def _common(names: Sequence[str]) -> str:
    """Say what names have in common at either end: ``layer1.0.conv1.weight`` and ``layer1.0.bn1.bias`` are
    ``layer1.0.*``, ``bn1.bias`` and ``layer1.0.bn1.bias`` are ``*.bias``.
    """
    distinct = sorted(set(names))
    if len(distinct) <= 1:
        return "".join(distinct)
    start = re.sub("[^._]*$", "", _shared_start(distinct))  # up to the last whole word
    end = _shared_start([name[len(start) :][::-1] for name in distinct])[::-1]
    return f"{start}*{end[end.find('.') :] if '.' in end else ''}"


def _shared_start(texts: Sequence[str]) -> str:
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)
