"""How one library's names become another's: rules, templates, and the tensors translated by them.

A rule is a pair of templates, theirs and ours. ``{s} {b} {n} {i}`` stand for numbers (stage, block, convolution, place
in a Sequential), ``{s-1}`` for one less; ``{p}`` for the name of a parameter. Our names are torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from torch import Tensor

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """How a group of names is written on either side.

    Args:
        theirs: template of a name.
        ours: the same in our names.
        to_ours: what becomes of the tensor; None for nothing.
        to_theirs: the inverse.
        note: what ``to_ours`` does, for the report.
    """

    theirs: str
    ours: str
    to_ours: Change | None = None
    to_theirs: Change | None = None
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """Names of one library or repository.

    Args:
        name: short, as in ``--to``.
        title: whose names these are.
        marks: patterns; a file has this layout if each of them matches some key, and none of ``absent`` does.
        absent: patterns.
        rules: how names are translated. Names that none matches stay, or are unknown if the layout is ``closed``.
        closed: whether the rules name every key there can be.
        implies: choices of the architecture that keys and shapes don't show, but the layout does.
        reason: why it implies them, for the report.
        finish: what remains to be done with all tensors together.
        input: what images these networks were made for.
        refusal: why no network of ours can have such weights.
    """

    name: str
    title: str
    marks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    closed: bool = True
    implies: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    finish: Callable[[Translation], None] | None = None
    input: str = ""
    refusal: str = ""


@dataclass
class Translation:
    """Tensors of a file under our names.

    Args:
        layout: that they had.
        tensors: by our names.
        sources: for each of our names the key it came from.
        notes: for a key of the file, what was done to its tensor.
        merged: for a key of the file whose values went into another tensor: which one, what that is called in a report,
            and how.
        unknown: tensors that the layout has no name for, by their keys.
        prefix: what stood before every key in the file.
    """

    layout: Layout
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    merged: dict[str, tuple[str, Literal["adapted"], str]] = field(default_factory=dict)
    unknown: dict[str, Tensor] = field(default_factory=dict)
    prefix: str = ""


def translate(tensors: Mapping[str, Tensor], layout: Layout, *, prefix: str = "") -> Translation:
    """The tensors under our names.

    Args:
        tensors: by the file's keys.
        layout: of the keys.
        prefix: that was taken off them, for the report.
    """
    result = Translation(layout, prefix=prefix)
    for key, value in tensors.items():
        name, rule = renamed(key, layout.rules, forward=True)
        if name is None and layout.closed:
            result.unknown[key] = value
            continue
        name = name or key
        if name in result.tensors:  # two keys for one place
            result.unknown[key] = value
            continue
        result.tensors[name] = rule.to_ours(value) if rule and rule.to_ours else value
        result.sources[name] = key
        if rule and rule.note and result.tensors[name].shape != value.shape:
            result.notes[key] = rule.note
    if layout.finish:
        layout.finish(result)
    return result


def renamed(name: str, rules: tuple[Rule, ...], *, forward: bool) -> tuple[str | None, Rule | None]:
    """A name by the first rule that matches it, and that rule; forward is from theirs to ours.

    Example:
        >>> from reslab.weights.layouts import timm_v2_rules
        >>> renamed("stages.0.blocks.2.norm1.bias", timm_v2_rules(0), forward=True)[0]
        'layer1.2.bn1.bias'
        >>> renamed("layer1.2.bn1.bias", timm_v2_rules(0), forward=False)[0]
        'stages.0.blocks.2.norm1.bias'
    """
    for rule in rules:
        source, target = (rule.theirs, rule.ours) if forward else (rule.ours, rule.theirs)
        if (found := match_template(source, name)) is not None:
            return fill_template(target, found), rule
    return None, None


BLANK = re.compile(r"\\?\{([a-z])(?:\\?([+-]\d+))?\\?\}")  # in a template, escaped or not: {s}, {s-1}, {p}


def match_template(template: str, name: str) -> dict[str, str | int] | None:
    """What stands in the template's blanks; None if the name doesn't match."""
    pattern, offsets = compiled(template)
    found = pattern.fullmatch(name)
    if not found:
        return None
    return {key: text if key == "p" else int(text) - offsets[key] for key, text in found.groupdict().items()}


@cache
def compiled(template: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """The template as a pattern with named groups, and what its numbers have been moved by."""
    offsets: dict[str, int] = {}

    def group(blank: re.Match[str]) -> str:
        offsets[blank[1]] = int(blank[2] or 0)
        return f"(?P<{blank[1]}>{'[a-z_]+' if blank[1] == 'p' else '[0-9]+'})"

    return re.compile(BLANK.sub(group, re.escape(template))), offsets


def fill_template(template: str, values: Mapping[str, str | int]) -> str:
    """The template with its blanks filled."""

    def text(blank: re.Match[str]) -> str:
        value = values[blank[1]]
        return value if isinstance(value, str) else str(value + int(blank[2] or 0))

    return BLANK.sub(text, template)
