"""SVG drawings: shapes that know their size and can be put side by side, in styles for light and dark surroundings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from reslab.report._style import BLUE, BRANCH, CARD, DARK, FONT, INK, QUIET, VERMILION

Point = tuple[float, float]

MAX_WIDTH = 880
"""Pixels: as wide as a README's column, and A4 at 106 dots per inch."""
SMALL, MEDIUM, LARGE = 11, 13, 22
"""Sizes of letters, in pixels."""


def _both(style: str) -> tuple[str, str]:
    """A style in light surroundings and, with each colour's counterpart, in dark ones."""
    return style, re.sub(r"#\w{6}", lambda colour: DARK[colour[0]], style)


BOX, BOX_DARK = f"fill:{CARD}", "fill:#35353C"
STYLES: dict[str, tuple[str, str]] = {
    "ground": _both(f"fill:{CARD}"),
    "band": ("fill:#F3F4F6", "fill:#2A2A2F"),
    "gap": (BOX, BOX_DARK),
    "card": (f"{BOX};stroke:#C4C7CC", f"{BOX_DARK};stroke:#5C5C66"),
    "ink": _both(f"fill:{INK}"),
    "quiet": _both(f"fill:{QUIET}"),
    "conv": ("fill:#DCE5EF", "fill:#40536A"),
    "linear": ("fill:#DCE5EF", "fill:#40536A"),
    "norm": ("fill:#E4E4E4", "fill:#4C4C55"),
    "activation": ("fill:#CDE9DF", "fill:#1F5A49"),
    "pool": ("fill:#D5EBF8", "fill:#24536E"),
    "attention": ("fill:#F3DAE8", "fill:#6B3A58"),
    "other": ("fill:#F0E6D2", "fill:#5A4E36"),
    "path": _both(f"fill:none;stroke:{QUIET};stroke-width:1.6"),
    "path-arrow": _both(f"fill:{QUIET}"),
    "path-ink": _both(f"fill:{INK}"),
    "shortcut": _both(f"fill:none;stroke:{BLUE};stroke-width:2.6"),
    "shortcut-arrow": _both(f"fill:{BLUE}"),
    "shortcut-box": (f"{BOX};stroke:{BLUE};stroke-width:1.4", f"{BOX_DARK};stroke:{DARK[BLUE]};stroke-width:1.4"),
    "shortcut-ink": (f"fill:{BLUE}", "fill:#8CCBF2"),
    "plain": _both(f"fill:none;stroke:{VERMILION};stroke-width:2.6"),
    "plain-ink": ("fill:#A84300", "fill:#FFB67A"),
    "branch": _both(f"fill:none;stroke:{BRANCH}"),
    "bar": _both(f"fill:{BRANCH}"),
    "base": _both(f"fill:none;stroke:{QUIET};stroke-width:1"),
}
"""Name to style in light surroundings and in dark ones."""


@dataclass(frozen=True)
class Shape:
    """A part of a drawing, in pixels from its origin: its left end, at the height of the line that runs through it."""

    width: float = 0.0
    above: float = 0.0
    below: float = 0.0
    svg: str = ""

    def at(self, x: float, y: float = 0.0) -> str:
        return f'<g transform="translate({x:g} {y:g})">{self.svg}</g>\n' if self.svg else ""


def beside(shapes: Sequence[Shape], gap: float = 0.0) -> Shape:
    """Put shapes next to one another on one line."""
    x, parts = 0.0, []
    for shape in shapes:
        parts.append(shape.at(x))
        x += shape.width + gap
    above, below = (max((getattr(shape, side) for shape in shapes), default=0.0) for side in ("above", "below"))
    return Shape(max(x - gap, 0.0), above, below, "".join(parts))


def with_times(words: str) -> str:
    """Turn the x between numbers into a multiplication sign; everywhere else it is a letter."""
    return re.sub(r"(?<=\d)x(?=\d)| x (?=[\d.])", lambda found: found[0].replace("x", "\N{MULTIPLICATION SIGN}"), words)


def text_width(words: str, *, size: float = SMALL, bold: bool = False) -> float:
    """Estimate pixels from above, after the widest of the usual fonts (DejaVu Sans)."""
    return size * (1.1 if bold else 1.0) * sum(map(_letter_width, words))


def _letter_width(letter: str) -> float:
    if letter in "ijlI.,:;'|()[]ft/- r\N{MIDDLE DOT}":
        return 0.40
    if letter in "mwMW":
        return 0.97
    return 0.72 if letter.isupper() else 0.62


# ---- elements


def element(tag: str, style: str, content: str = "", **attributes: float | str) -> str:
    written = "".join(
        f" {key.replace('_', '-')}={quoteattr(value if isinstance(value, str) else f'{value:g}')}"
        for key, value in attributes.items()
    )
    return f'<{tag} class="{style}"{written}' + (f">{content}</{tag}>" if content else "/>")


def box(style: str, x: float, y: float, width: float, height: float, *, radius: float = 4) -> str:
    return element("rect", style, x=x, y=y, width=width, height=height, rx=radius)


def text(
    style: str, x: float, y: float, words: str, *, size: int = SMALL, bold: bool = False, anchor: str = "start"
) -> str:
    """Write a line of text on the base line ``y``."""
    weight = {"font_weight": "bold"} if bold else {}
    return element("text", style, escape(words), x=x, y=y, font_size=size, text_anchor=anchor, **weight)


def turned_text(style: str, x: float, y: float, words: str) -> str:
    """Write a line of text from bottom to top, centred."""
    x += 0.36 * SMALL
    turn = f"rotate(-90 {x:g} {y:g})"
    return element("text", style, escape(words), x=x, y=y, font_size=SMALL, text_anchor="middle", transform=turn)


def line(style: str, *points: Point, radius: float = 8) -> str:
    """Draw upright and level lines from point to point, with round corners."""
    steps = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        (x1, y1), (x2, y2) = _towards(corner, before, radius), _towards(corner, after, radius)
        steps.append(f"L{x1:g} {y1:g}Q{corner[0]:g} {corner[1]:g} {x2:g} {y2:g}")
    return element("path", style, d="".join([*steps, f"L{points[-1][0]:g} {points[-1][1]:g}"]))


def arrow(style: str, x: float, y: float, *, down: bool = False) -> str:
    """Draw the head of an arrow that points right or down."""
    corners = [(x, y), (x - 4, y - 7), (x + 4, y - 7)] if down else [(x, y), (x - 7, y - 4), (x - 7, y + 4)]
    return element("polygon", style, points=" ".join(f"{a:g},{b:g}" for a, b in corners))


def document(width: float, height: float, body: str, *, title: str, description: str) -> str:
    """Write a whole SVG file, which follows its reader's light or dark surroundings."""
    light, dark = (styles_css("", side) for side in (0, 1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
        f' viewBox="0 0 {width:g} {height:g}" role="img" font-family={quoteattr(FONT)}>\n'
        f"<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n"
        f"<style>{light}@media (prefers-color-scheme:dark){{{dark}}}</style>\n"
        f'<rect class="ground" width="{width:g}" height="{height:g}"/>\n{body}\n</svg>\n'
    )


def styles_css(scope: str, side: int) -> str:
    """Write all styles as CSS, below a selector: 0 for light surroundings, 1 for dark ones."""
    return "".join(f"{scope}.{name}{{{style[side]}}}" for name, style in STYLES.items())


def in_dark(svg: str) -> str:
    """Make a drawing dark wherever it lies, instead of following its surroundings."""
    return re.sub(r"@media \(prefers-color-scheme:dark\)\{(.*?)\}</style>", r"\1</style>", svg, flags=re.S)


def _towards(start: Point, goal: Point, distance: float) -> Point:
    """The point at that distance on the way, or half way if that is shorter."""
    across, down = goal[0] - start[0], goal[1] - start[1]
    share = min(distance / max(abs(across) + abs(down), 1e-9), 0.5)
    return start[0] + share * across, start[1] + share * down
