"""What networks are drawn on: shapes and words as SVG, and how each looks in light and in dark surroundings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from reslab.report.portraits import OKABE_ITO
from reslab.report.theme import CARD, INK, QUIET

Point = tuple[float, float]

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
"""The one of all charts."""
MAX_WIDTH = 880
"""Pixels: as wide as a README's column, and A4 at 106 dots an inch."""
SMALL, MEDIUM, LARGE = 11, 13, 22
"""Sizes of letters, in pixels."""

BLUE, ORANGE, SKY = OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[5]
LOOKS: dict[str, tuple[str, str]] = {
    # class: its style in a light and in a dark surrounding
    "ground": (f"fill:{CARD}", "fill:#202024"),
    "band": ("fill:#F3F4F6", "fill:#2A2A2F"),
    "hole": (f"fill:{CARD}", "fill:#35353C"),
    "card": (f"fill:{CARD};stroke:#C4C7CC", "fill:#35353C;stroke:#5C5C66"),
    "ink": (f"fill:{INK}", "fill:#ECECF0"),
    "quiet": (f"fill:{QUIET}", "fill:#B8B8C2"),
    "conv": ("fill:#DCE5EF", "fill:#40536A"),
    "linear": ("fill:#DCE5EF", "fill:#40536A"),
    "norm": ("fill:#E4E4E4", "fill:#4C4C55"),
    "activation": ("fill:#CDE9DF", "fill:#1F5A49"),
    "pool": ("fill:#D5EBF8", "fill:#24536E"),
    "attention": ("fill:#F3DAE8", "fill:#6B3A58"),
    "other": ("fill:#F0E6D2", "fill:#5A4E36"),
    "way": (f"fill:none;stroke:{QUIET};stroke-width:1.6", "fill:none;stroke:#B8B8C2;stroke-width:1.6"),
    "tip": (f"fill:{QUIET}", "fill:#B8B8C2"),
    "way-ink": (f"fill:{INK}", "fill:#ECECF0"),
    "past": (f"fill:none;stroke:{BLUE};stroke-width:2.6", f"fill:none;stroke:{SKY};stroke-width:2.6"),
    "past-tip": (f"fill:{BLUE}", f"fill:{SKY}"),
    "past-box": (f"fill:{CARD};stroke:{BLUE};stroke-width:1.4", f"fill:#35353C;stroke:{SKY};stroke-width:1.4"),
    "past-ink": (f"fill:{BLUE}", "fill:#8CCBF2"),
    "plain": (f"fill:none;stroke:{ORANGE};stroke-width:2.6", "fill:none;stroke:#E69F00;stroke-width:2.6"),
    "plain-ink": ("fill:#A84300", "fill:#F0B340"),
}


def with_times(words: str) -> str:
    """The x between numbers as a multiplication sign; everywhere else it is a letter."""
    return re.sub(r"(?<=\d)x(?=\d)| x (?=[\d.])", lambda found: found[0].replace("x", "\N{MULTIPLICATION SIGN}"), words)


def text_width(words: str, *, size: float = SMALL, bold: bool = False) -> float:
    """An upper estimate in pixels, after the widest of the usual fonts (DejaVu Sans)."""
    return size * (1.1 if bold else 1.0) * sum(map(_letter_width, words))


def _letter_width(letter: str) -> float:
    if letter in "ijlI.,:;'|()[]ft/- r\N{MIDDLE DOT}":
        return 0.40
    if letter in "mwMW":
        return 0.97
    return 0.72 if letter.isupper() else 0.62


@dataclass
class Canvas:
    """Collects shapes and writes them as SVG. A ``look`` is a name of ``looks``.

    Args:
        width: of the picture.
        shapes: so far.
        looks: name to style in a light and in a dark surrounding.
    """

    width: float
    shapes: list[str] = field(default_factory=list)
    looks: dict[str, tuple[str, str]] = field(default_factory=lambda: LOOKS)

    def add(self, tag: str, look: str, content: str = "", **attributes: float | str) -> None:
        """One shape."""
        written = "".join(
            f" {key.replace('_', '-')}={quoteattr(f'{value:g}' if isinstance(value, float) else str(value))}"
            for key, value in attributes.items()
        )
        self.shapes.append(f'<{tag} class="{look}"{written}' + (f">{content}</{tag}>" if content else "/>"))

    def box(self, look: str, left: float, top: float, width: float, height: float, *, radius: float = 4) -> None:
        """A rectangle with round corners."""
        self.add("rect", look, x=left, y=top, width=width, height=height, rx=radius)

    def text(
        self, look: str, at: Point, words: str, *, size: int = SMALL, bold: bool = False, anchor: str = "start"
    ) -> None:
        """A line of text; ``at`` is on its base line."""
        weight = {"font_weight": "bold"} if bold else {}
        self.add("text", look, escape(words), x=at[0], y=at[1], font_size=size, text_anchor=anchor, **weight)

    def turned_text(self, look: str, centre: Point, words: str) -> None:
        """A line of text from bottom to top, centred."""
        x, y = centre[0] + 0.36 * SMALL, centre[1]
        turn = f"rotate(-90 {x:g} {y:g})"
        self.add("text", look, escape(words), x=x, y=y, font_size=SMALL, text_anchor="middle", transform=turn)

    def line(self, look: str, *points: Point, radius: float = 8) -> None:
        """A line with round corners."""
        steps = [f"M{points[0][0]:g} {points[0][1]:g}"]
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            near, far = _towards(corner, before, radius), _towards(corner, after, radius)
            steps.append(f"L{near[0]:g} {near[1]:g}Q{corner[0]:g} {corner[1]:g} {far[0]:g} {far[1]:g}")
        steps.append(f"L{points[-1][0]:g} {points[-1][1]:g}")
        self.add("path", look, d="".join(steps))

    def tip(self, look: str, at: Point, *, down: bool = False) -> None:
        """The head of an arrow that points right or down."""
        x, y = at
        corners = [(x, y), (x - 4, y - 7), (x + 4, y - 7)] if down else [(x, y), (x - 7, y - 4), (x - 7, y + 4)]
        self.add("polygon", look, points=" ".join(f"{a:g},{b:g}" for a, b in corners))

    def svg(self, height: float, *, title: str, description: str) -> str:
        """The whole picture."""
        light, dark = ("".join(f".{name}{{{style[side]}}}" for name, style in self.looks.items()) for side in (0, 1))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" height="{height:g}"'
            f' viewBox="0 0 {self.width:g} {height:g}" role="img" font-family={quoteattr(FONT)}>\n'
            f"<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n"
            f"<style>{light}@media (prefers-color-scheme:dark){{{dark}}}</style>\n"
            f'<rect class="ground" width="{self.width:g}" height="{height:g}"/>\n'
            + "\n".join(self.shapes)
            + "\n</svg>\n"
        )


def _towards(start: Point, goal: Point, distance: float) -> Point:
    """The point that lies so far on the way, or half way if that is shorter; lines are upright or level."""
    across, down = goal[0] - start[0], goal[1] - start[1]
    share = min(distance / max(abs(across) + abs(down), 1e-9), 0.5)
    return start[0] + share * across, start[1] + share * down
