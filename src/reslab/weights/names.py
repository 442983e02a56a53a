"""What a network is called: the catalog's name that is nearest to it, and in what the two differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from reslab.errors import RequestError
from reslab.models.architecture import Architecture
from reslab.models.catalog import CIFAR_FAMILIES, MODELS, create_model, find_entry

NOT_IN_THE_WEIGHTS = {
    "num_classes", "in_channels", "dropout", "block_dropout", "drop_path", "drop_path_rule", "zero_init_residual",
    "checkpoint_blocks", "conv_bias",
}  # fmt: skip
"""Choices that make no other network of weights: for training, or (the biases) compared apart."""


@dataclass(frozen=True)
class Recognition:
    """The network that weights are of.

    Args:
        name: the catalog's; empty if it has none.
        changes: choices in which the network differs from that name's.
        architecture: None for a family that isn't described by one (VGG, MobileNet).
        num_classes: K; 0 if the weights have no head.
        in_channels: channels of the image.
        assumptions: what names and shapes don't tell, and what was taken.
    """

    name: str
    changes: dict[str, Any]
    architecture: Architecture | None
    num_classes: int
    in_channels: int
    assumptions: tuple[str, ...] = ()

    @property
    def call(self) -> str:
        """How to build it.

        Example:
            >>> Recognition("resnet20", {"shortcut": "zero_pad_both"}, None, 10, 3).call
            "create_model('resnet20', num_classes=10, shortcut='zero_pad_both')"
        """
        if not self.name:
            return f"create_model({self.architecture!r})"
        changes = {"num_classes": self.num_classes} if self.num_classes else {}
        changes |= {"in_channels": self.in_channels} if self.in_channels != 3 else {}
        return f"create_model({', '.join([repr(self.name), *written_out(changes | self.changes)])})"

    @property
    def title(self) -> str:
        """The name with what differs from it, for a sentence.

        Example:
            >>> Recognition("resnet20", {"shortcut": "zero_pad_both"}, None, 10, 3).title
            "resnet20 with shortcut='zero_pad_both'"
        """
        if not self.name:
            return "a network without a name"
        return self.name + (f" with {' and '.join(written_out(self.changes))}" if self.changes else "")

    def build(self, num_classes: int | None = None) -> nn.Module:
        """The network with fresh values.

        Raises:
            RequestError: if neither the weights nor the caller say how many classes there are.
        """
        classes = num_classes or self.num_classes
        if not classes:
            raise RequestError(
                f"The file has {self.title} without its head. Say how many classes the new head has:"
                " num_classes=K, on the command line --num-classes K."
            )
        return create_model(self.architecture or self.name, classes, in_channels=self.in_channels)


def written_out(changes: Mapping[str, Any]) -> list[str]:
    """As keyword arguments."""
    return [f"{key}={value!r}" for key, value in changes.items()]


def name_of(architecture: Architecture) -> tuple[str, dict[str, Any]]:
    """The catalog's name that is nearest, and in what the architecture differs from it; at most two choices do."""
    best: tuple[str, dict[str, Any]] = ("", {})
    named = {name: entry for name, entry in MODELS.items() if isinstance(entry, Architecture)}
    for family in CIFAR_FAMILIES:
        try:
            entry = find_entry(f"{family}{architecture.depth}")
        except RequestError:
            continue
        if isinstance(entry, Architecture):
            named.setdefault(f"{family}{architecture.depth}", entry)
    for name, entry in named.items():
        found = differences(architecture, entry)
        if len(found) <= 2 and (not best[0] or len(found) < len(best[1])):
            best = (name, found)
    return best


def differences(architecture: Architecture, other: Architecture) -> dict[str, Any]:
    """The choices in which the first is another network of weights than the second."""
    found = {
        field.name: getattr(architecture, field.name)
        for field in fields(Architecture)
        if field.name not in NOT_IN_THE_WEIGHTS and getattr(architecture, field.name) != getattr(other, field.name)
    }
    if architecture.biased_convs != other.biased_convs:
        found["conv_bias"] = architecture.conv_bias
    return found
