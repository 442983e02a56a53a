"""A place for every key: what of a file goes where in a network, what is made to fit, and what stands in the way.

Shape letters: O and I channels out and in of a convolution, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reslab.weights.report import Row
from reslab.weights.shapes import some
from reslab.weights.translation import Translation


@dataclass(frozen=True)
class Place:
    """What the network has, and how far it may be fitted.

    Args:
        expected: its state_dict, without prefixes.
        heads: names of the classifier's parameters.
        adapt_head: leave the head as it is where the file has none, or one for other classes.
        adapt_channels: make the first convolution fit other images.
        standardised: whether that convolution standardises its weight.
    """

    expected: Mapping[str, Tensor]
    heads: tuple[str, ...] = ()
    adapt_head: bool = False
    adapt_channels: bool = False
    standardised: bool = False

    @property
    def stem(self) -> str:
        """Name of the first convolution's weight."""
        return next((name for name, value in self.expected.items() if value.ndim > 2), "")


@dataclass
class Plan:
    """What would be loaded, and what stands in the way.

    Args:
        translation: of the file's tensors to names of the network.
        tensors: by the network's names, ready to be copied.
        rows: one for each key that has a place.
        missing: names that the file lacks.
        unexpected: keys that the network has no place for.
        reshaped: for a name of another shape, a phrase that says so.
    """

    translation: Translation
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)

    @property
    def num_fitting(self) -> int:
        """How many names of the network the file has a value for."""
        return sum(row.action in ("loaded", "adapted") for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """What stands in the way, a phrase for each kind."""
        lists = {
            "it lacks": self.missing,
            "it has besides": self.unexpected,
            "of another shape are": list(self.reshaped.values()),
        }
        return [f"{what} {some(names)}" for what, names in lists.items() if names]


def make_plan(place: Place, translation: Translation) -> Plan:
    """Finds a value for every name of the network, and a name for every key of the file."""
    plan = Plan(translation)
    keep_head = place.adapt_head and not all(head_fits(place, translation, name) for name in place.heads)
    for name, target in place.expected.items():
        value = translation.tensors.get(name)
        if keep_head and name in place.heads:
            keep(plan, name, value, target)
        elif value is None:
            without_value(plan, name, target)
        elif value.shape == target.shape:
            take(plan, name, value, target)
        elif name in place.heads and head_fits(place, translation, name):
            take(plan, name, value.reshape_as(target), target, f"{tuple(value.shape)} made {tuple(target.shape)}")
        elif name == place.stem and place.adapt_channels and differs_in_channels_only(value, target):
            take(plan, name, *adapt_channels(value, target, standardised=place.standardised))
        else:
            plan.reshaped[name] = f"{name} {tuple(value.shape)} instead of {tuple(target.shape)}"
    without_place(plan, place.expected, ignore_head=place.adapt_head and not place.heads)
    return plan


def head_fits(place: Place, translation: Translation, name: str) -> bool:
    """Whether the file has this parameter of the head: as it is, or (K, D, 1, 1) for (K, D) or the other way round."""
    value, target = translation.tensors.get(name), place.expected[name]
    if value is None or value.shape == target.shape:
        return value is not None
    return value.shape[:2] == target.shape[:2] and set(value.shape[2:] + target.shape[2:]) == {1}


def keep(plan: Plan, name: str, value: Tensor | None, target: Tensor) -> None:
    """A parameter of the network's own head."""
    plan.tensors[name] = target
    if value is None:
        plan.rows.append(Row("", name, "kept", "the file has no such head"))
    else:
        key = plan.translation.prefix + plan.translation.sources[name]
        plan.rows.append(Row(key, name, "kept", f"{tuple(value.shape)} in the file, {tuple(target.shape)} here"))


def take(plan: Plan, name: str, value: Tensor, target: Tensor, note: str = "") -> None:
    """One value as it is, or as it was made to fit."""
    key = plan.translation.sources[name]
    notes = [text for text in (plan.translation.notes.get(key, ""), note) if text]
    if value.dtype != target.dtype:
        notes.append(f"{value.dtype} made {target.dtype}".replace("torch.", ""))
    plan.tensors[name] = value
    plan.rows.append(Row(plan.translation.prefix + key, name, "adapted" if notes else "loaded", "; ".join(notes)))


def without_value(plan: Plan, name: str, target: Tensor) -> None:
    """A name that the file lacks."""
    if name.endswith("num_batches_tracked"):
        plan.tensors[name] = torch.zeros_like(target)
        plan.rows.append(Row("", name, "filled", "0: the file doesn't say how many batches there were"))
    else:
        plan.missing.append(name)


def without_place(plan: Plan, expected: Mapping[str, Tensor], *, ignore_head: bool) -> None:
    """Keys that have no place in the network."""
    prefix, sources = plan.translation.prefix, plan.translation.sources
    for name, key in sources.items():
        if name in expected:
            continue
        if name.endswith("num_batches_tracked"):
            plan.rows.append(Row(prefix + key, "", "ignored", "the network counts no batches"))
        elif ignore_head and name.startswith("fc."):
            plan.rows.append(Row(prefix + key, "", "ignored", "the network has no head"))
        else:
            plan.unexpected.append(prefix + key)
    plan.unexpected += [prefix + key for key in plan.translation.unknown]
    plan.rows += [Row(prefix + key, *place) for key, place in plan.translation.merged.items()]


def differs_in_channels_only(value: Tensor, target: Tensor) -> bool:
    """Whether (O, I, *) and (O, I', *) agree in all but I."""
    return value.ndim == target.ndim and value.shape[0] == target.shape[0] and value.shape[2:] == target.shape[2:]


def adapt_channels(value: Tensor, target: Tensor, *, standardised: bool) -> tuple[Tensor, Tensor, str]:
    """A first convolution for other images: (O, I, *) -> (O, I', *).

    To one channel by summing: a grey image then gives what it gave as I equal channels. To others by repeating, scaled
    by I / I', so that activations keep their scale.
    """
    before, after = value.shape[1], target.shape[1]
    if after == 1:
        made, note = value.sum(dim=1, keepdim=True), f"{before} channels summed to 1"
    else:
        repeated = torch.arange(after) % before
        made, note = value[:, repeated] * (before / after), f"{before} channels repeated to {after}, scaled"
    if standardised:
        note += "; the network standardises the result, so activations are not the same"
    return made, target, note
