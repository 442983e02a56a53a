"""Names and shapes of a network, and how two such lists differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from reslab.models.architecture import Architecture
from reslab.models.catalog import create_model

Shapes = Mapping[str, tuple[int, ...]]


def signature(network: Architecture | str, num_classes: int | None = None, in_channels: int = 3) -> Shapes:
    """Names and shapes of a network, built without values and without a number from the caller's generator."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        if isinstance(network, Architecture):
            model = create_model(network)
        else:
            model = create_model(network, num_classes, in_channels=in_channels)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def misfits(shapes: Shapes, expected: Shapes) -> list[str]:
    """How names and shapes differ, a phrase for each kind; a missing head and missing counts are no difference."""
    absent = {name for name in expected if name not in shapes}
    absent = {name for name in absent if not name.endswith("num_batches_tracked")}
    if absent >= {"fc.weight", "fc.bias"}:
        absent -= {"fc.weight", "fc.bias"}
    lists = {
        "it lacks": sorted(absent),
        "it has besides": [name for name in shapes if name not in expected],
        "of another shape are": [
            f"{name} {shapes[name]} instead of {shape}"
            for name, shape in expected.items()
            if shapes.get(name, shape) != shape
        ],
    }
    return [f"{what} {some(names)}" for what, names in lists.items() if names]


def some(names: Iterable[str]) -> str:
    """The first three, and how many there are.

    Example:
        >>> some(["a", "b", "c", "d"])
        'a, b, c and 1 more'
    """
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
