"""A page of one file as a browser and a reader have it, a chart's Vega-Lite, and how far colours stand out."""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class PageReader(HTMLParser):
    """What would be loaded, what is to be read, the scripts by id, and the charts and rows inside."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self.inside: tuple[str, str | None] = ("", None)
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words).replace("\u00a0", " "))
        shown = json.loads(self.unpacked("shown"))
        self.specs: dict[str, Any] = shown["charts"]
        self.rows: dict[str, list[dict[str, Any]]] = shown["rows"]

    def unpacked(self, key: str) -> str:
        """What the page's script does."""
        return gzip.decompress(base64.b64decode(self.scripts[key])).decode()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = (tag, dict(attrs).get("id"))
        self.tags.append(tag)
        links = [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action") and value]
        self.loaded += [link for link in links if not link.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = ("", None)

    def handle_data(self, data: str) -> None:
        if self.inside[0] == "script" and self.inside[1]:
            self.scripts[self.inside[1]] = data
        elif self.inside[0] not in ("script", "style"):
            self.words.append(data)


def rows_of(spec: dict[str, Any], *keys: str) -> list[dict[str, Any]]:
    """The rows of a chart that have these keys."""
    return [row for rows in spec["datasets"].values() for row in rows if set(keys) <= row.keys()]


def find_all(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, anywhere in a chart but in its data."""
    if isinstance(node, dict):
        yield from [node[key]] if key in node else []
        for name, value in node.items():
            yield from find_all(value, key) if name != "datasets" else ()
    elif isinstance(node, list):
        for item in node:
            yield from find_all(item, key)


def scales_of(spec: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    return [found["scale"] for found in find_all(spec, channel) if isinstance(found, dict) and found.get("scale")]


def words_of(spec: dict[str, Any]) -> list[str]:
    """What is written on a chart."""
    return [row["words"] for row in rows_of(spec, "words")]


def luminance(colour: str) -> float:
    """Relative luminance of ``#RRGGBB`` (WCAG 2.1), from 0 for black to 1 for white."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1, the same, to 21, black on white."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
