"""Layouts: how other libraries and repositories call the parts of our networks. ``layouts.toml`` has the tables.

Shape letters: D features, K classes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from torch import Tensor

from reslab.weights.report import Action, KeyResult


@dataclass
class Entry:
    """A tensor on its way from a file into a network: the key that it had, and what was done to it."""

    key: str
    value: Tensor
    note: str = ""
    action: Action = "loaded"

    def change(self, value: Tensor, note: str) -> None:
        self.value, self.action = value, "adapted"
        self.note += f"; {note}" if self.note else note


@dataclass
class Translation:
    """The tensors of a file under our names."""

    layout: Layout
    entries: dict[str, Entry] = field(default_factory=dict)  # by our names
    unknown: dict[str, Tensor] = field(default_factory=dict)  # by keys that the layout has no name for
    rows: list[KeyResult] = field(default_factory=list)  # of keys whose values went elsewhere, or nowhere

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: entry.value for name, entry in self.entries.items()}


@dataclass(frozen=True)
class Layout:
    """The names of one library or repository; ``layouts.toml`` says what each field means."""

    name: str
    title: str
    marks: tuple[str, ...]
    absent: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    head_is_convolution: bool = False
    implies: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    finish: str = ""
    input: str = ""
    refusal: str = ""

    def matches(self, keys: Collection[str]) -> bool:
        """Whether a file with these keys has this layout."""

        def found(mark: str) -> bool:
            return any(re.search(mark, key) for key in keys)

        return all(map(found, self.marks)) and not any(map(found, self.absent))

    def read(self, tensors: Mapping[str, Tensor], prefix: str = "") -> Translation:
        """Translate tensors to our names; ``prefix`` is what was taken off their keys, for the report."""
        result = Translation(self)
        for key, value in tensors.items():
            name = rename(key, self.names) if self.names else key
            if name is None or name in result.entries:  # of two keys for one place the first counts
                result.unknown[prefix + key] = value
                continue
            entry = result.entries[name] = Entry(prefix + key, value)
            if self.head_is_convolution and name == "fc.weight" and value.ndim > 2:
                entry.change(value.flatten(1), "1x1 convolution made a linear layer")  # (K, D, 1, 1) -> (K, D)
        if self.finish:
            FINISH[self.finish](result)
        return result

    def write(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate tensors of ours to the names of this layout."""
        made, theirs = {}, {ours: name for name, ours in self.names.items()}
        for name, value in state.items():
            new = rename(name, theirs) if theirs else name
            assert new is not None, f"{self.title} has no name for {name}"
            made[new] = value[:, :, None, None] if self.head_is_convolution and name == "fc.weight" else value
        return made


BLANK = re.compile(r"\{([a-z])([+-]\d+)?\}")  # {s}, {s-1}


def rename(name: str, table: Mapping[str, str]) -> str | None:
    """Translate the name of a parameter by the first entry that its layer matches; None if there is none.

    By ``stages.{s-1}.blocks.{b}.norm{n}`` to ``layer{s}.{b}.bn{n}`` stages.0.blocks.2.norm1.bias is layer1.2.bn1.bias.
    """
    layer, _, parameter = name.rpartition(".")
    for template, target in table.items():
        pattern, offsets = _compile(template)
        if found := pattern.fullmatch(layer):
            numbers = {blank: int(text) - offsets[blank] for blank, text in found.groupdict().items()}
            return f"{_fill(target, numbers)}.{parameter}"
    return None


@cache
def _compile(template: str) -> tuple[re.Pattern[str], dict[str, int]]:
    pattern = BLANK.sub(r"(?P<\1>[0-9]+)", template.replace(".", r"\."))
    return re.compile(pattern), {blank[1]: int(blank[2] or 0) for blank in BLANK.finditer(template)}


def _fill(template: str, numbers: Mapping[str, int]) -> str:
    return BLANK.sub(lambda blank: str(numbers[blank[1]] + int(blank[2] or 0)), template)


# ---- what Keras' networks have and ours don't goes into the norms' statistics: exact in eval mode


def fold_keras_v1(translation: Translation) -> None:
    """Subtract each convolution's bias from the mean of the norm that follows: norm(conv(x) + bias)."""
    entries = translation.entries
    for name in [name for name in entries if re.search(r"(^|\.)(conv\d|downsample\.0)\.bias$", name)]:
        norm = re.sub(r"conv(\d)\.bias$", r"bn\1", name.replace("downsample.0.bias", "downsample.1"))
        if mean := entries.get(f"{norm}.running_mean"):
            bias = entries.pop(name)
            mean.change(mean.value - bias.value, "less the bias of the convolution before it")
            note = "taken from the mean of the norm after it"
            translation.rows.append(KeyResult(bias.key, f"{norm}.running_mean", "adapted", note))
    fold_keras_v2(translation)


def fold_keras_v2(translation: Translation) -> None:
    """Add the difference of Keras' epsilon and ours to the variances, and find a head of another name."""
    for name, entry in translation.entries.items():
        if name.endswith("running_var"):
            entry.change(entry.value + (1.001e-5 - 1e-5), "epsilon 1.001e-5 made 1e-5")
    # The head that users put on a network of keras.applications without its top isn't called predictions.
    dense = [key for key, value in translation.unknown.items() if key.endswith(".weight") and value.ndim == 2]
    if "fc.weight" not in translation.entries and len(dense) == 1:
        for part in ("weight", "bias"):
            key = dense[0].removesuffix("weight") + part
            if (value := translation.unknown.pop(key, None)) is not None:
                note = "the file's only dense layer, taken for the head"
                translation.entries[f"fc.{part}"] = Entry(key, value, note, "adapted")


FINISH = {"fold_keras_v1": fold_keras_v1, "fold_keras_v2": fold_keras_v2}


# ---- the tables

TABLES = tomllib.loads(files("reslab.weights").joinpath("layouts.toml").read_text(encoding="utf-8"))


def _make_layout(name: str, *, like: str = "", prefixes: Iterable[str] = ("",), **table: Any) -> Layout:
    own = (TABLES["layout"][like]["names"] if like else {}) | table.pop("names", {})
    names = {prefix + theirs: ours for prefix in prefixes for theirs, ours in own.items()}
    return Layout(name, names=names, **table)


LAYOUTS = {name: _make_layout(name, **table) for name, table in TABLES["layout"].items()}
RESLAB = LAYOUTS["reslab"]


def layout_of(keys: Collection[str]) -> Layout | None:
    """Find the layout that a file's keys show; None if it is none of these."""
    return next((layout for layout in LAYOUTS.values() if layout.matches(keys)), None)
