"""A page of one file as a browser and a reader have it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


def unpacked(length: int, columns: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page's script does."""
    rows: list[dict[str, Any]] = [{} for _ in range(length)]
    for key, column in columns.items():
        for row, cell in zip(rows, column["cells"], strict=True):
            row[key] = column["words"][cell] if column["words"] else cell
    return rows


class PageReader(HTMLParser):
    """What would be loaded, what is to be read, the scripts by id, and the charts with their data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self.inside: tuple[str, str | None] = ("", None)
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words).replace("\u00a0", " "))
        self.specs: dict[str, Any] = json.loads(self.scripts["specs"])
        for spec in self.specs.values():
            spec["datasets"] = {name: unpacked(**packed) for name, packed in spec["datasets"].items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = (tag, dict(attrs).get("id"))
        self.tags.append(tag)
        self.loaded += [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action") and value]

    def handle_endtag(self, tag: str) -> None:
        self.inside = ("", None)

    def handle_data(self, data: str) -> None:
        if self.inside[0] == "script" and self.inside[1]:
            self.scripts[self.inside[1]] = data
        elif self.inside[0] not in ("script", "style"):
            self.words.append(data)
