"""What became of every key of a weights file, as rows, a short table, and a dict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal

Action = Literal["loaded", "adapted", "filled", "kept", "ignored"]
"""``loaded`` as it is; ``adapted`` to another form; ``filled`` in, since the file lacks it; ``kept``, the network's
own; ``ignored``, the file's, which the network has no place for."""


@dataclass(frozen=True)
class Row:
    """One key.

    Args:
        key: in the file; empty for what the file lacks.
        name: in the network; empty for what the network has no place for.
        action: what became of it.
        note: how or why.
    """

    key: str
    name: str
    action: Action
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Rows that are told in one line.

    Args:
        keys: what the file's keys have in common, such as ``module.layer1.*``.
        names: the same of the network's.
        count: how many.
        action: what became of them.
        note: how or why.
    """

    keys: str
    names: str
    count: int
    action: Action
    note: str


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
        assumptions: what the file doesn't tell, and what was taken.
        notes: what else a user should know, such as the images that the network expects.

    Example:
        >>> report = LoadReport("a.pt", "torch", "reslab", "resnet20", rows=[Row("fc.bias", "fc.bias", "loaded")])
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
    rows: list[Row] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many keys met each fate, in words' order; those that none met are left out."""
        actions: tuple[Action, ...] = ("loaded", "adapted", "filled", "kept", "ignored")
        counted = {action: sum(row.action == action for row in self.rows) for action in actions}
        return {action: count for action, count in counted.items() if count}

    @property
    def headline(self) -> str:
        """The first line."""
        place = [f"entry {self.entry}"] if self.entry else []
        place += [f"prefix {self.prefix}"] if self.prefix else []
        source = ", ".join([self.kind, f"layout {self.layout}", *place])
        counts = ", ".join(f"{count} {action}" for action, count in self.counts.items())
        return f"{self.file} ({source}) -> {self.model}: {counts}"

    def groups(self) -> list[Group]:
        """Rows folded: loaded ones by the part of the network, others by their fate and its reason."""

        def kind(row: Row) -> tuple[bool, tuple[int, str], Action, str]:
            loaded = row.action == "loaded"
            return not loaded, part_of(row.name) if loaded else (0, ""), row.action, row.note

        folded = []
        for (*_, action, note), same in groupby(sorted(self.rows, key=kind), key=kind):
            rows = list(same)
            keys, names = common([row.key for row in rows]), common([row.name for row in rows])
            folded.append(Group(keys, names, len(rows), action, note))
        return folded

    def ungrouped(self) -> list[Group]:
        """Every row as a group of its own."""
        return [Group(row.key, row.name, 1, row.action, row.note) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"counts": self.counts}

    def __str__(self) -> str:
        """A short table."""
        groups = self.groups()
        arrows = [f"{group.keys or '-'} -> {group.names or '-'}" for group in groups]
        width = max(map(len, arrows), default=0)
        lines = [
            f"  {arrow:<{width}}  {group.count}  {group.action}" + (f" ({group.note})" if group.note else "")
            for arrow, group in zip(arrows, groups, strict=True)
        ]
        tail = [f"assumed: {text}" for text in self.assumptions] + [f"note: {text}" for text in self.notes]
        return "\n".join([self.headline, *lines, *tail])


def part_of(name: str) -> tuple[int, str]:
    """Stem, stages and head in execution order, for sorting.

    Example:
        >>> sorted(["fc.bias", "layer2.0.bn1.bias", "conv1.weight"], key=part_of)
        ['conv1.weight', 'layer2.0.bn1.bias', 'fc.bias']
    """
    first = name.partition(".")[0]
    stage = re.fullmatch(r"layer(\d+)", first)
    order = {"conv1": 0, "bn1": 1, "norm": 10**6, "fc": 10**6 + 1}
    return (int(stage[1]) + 10 if stage else order.get(first, 10**5), first)


def common(names: Sequence[str]) -> str:
    """What names have in common at either end, with a star between.

    Example:
        >>> common(["layer1.0.conv1.weight", "layer1.1.bn1.bias"]), common(["bn1.bias", "layer1.0.bn1.bias"])
        ('layer1.*', '*.bias')
        >>> common(["fc.bias"])
        'fc.bias'
    """
    distinct = sorted(set(names))
    if len(distinct) <= 1:
        return "".join(distinct)
    start = shared_start(distinct)
    start = start[: max(start.rfind("."), start.rfind("_")) + 1]
    end = shared_start([name[len(start) :][::-1] for name in distinct])[::-1]
    return f"{start}*{end[end.find('.') :] if '.' in end else ''}"


def shared_start(texts: Sequence[str]) -> str:
    """The letters with which all begin."""
    first, last = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]
