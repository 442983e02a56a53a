"""What a network of the catalog is, in a row of a table."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from reslab.models.architecture import Architecture
from reslab.models.catalog import create_model, depth_of, find_entry
from reslab.models.count import count_operations

BLOCK_NAMES = {"basic": "BasicBlock", "bottleneck": "Bottleneck", "single": "SingleBlock"}


def image_shape(name: str) -> tuple[int, int, int]:
    """The image that MACs and activations are counted with: 32x32 where the stem is small, else 224x224."""
    entry = find_entry(name)
    small = entry.stem == "small" if isinstance(entry, Architecture) else name.endswith("_cifar")
    return (3, 32, 32) if small else (3, 224, 224)


def describe_model(name: str) -> dict[str, Any]:
    """The row: parameters, and what one image costs, counted by running it on the meta device; and the main choices."""
    with torch.device("meta"):
        model = create_model(name)
    shape = image_shape(name)
    cost = count_operations(model, shape)
    return {
        "name": name,
        "num_parameters": cost.num_parameters,
        "macs": cost.macs,
        "activations": cost.activations,
        **choices(name),
        "image": shape[-1],
    }


def choices(name: str) -> dict[str, Any]:
    """Depth, blocks, shortcut, connection, stem and classes; what a baseline doesn't have is empty."""
    entry = find_entry(name)
    if not isinstance(entry, Architecture):
        return baseline_choices(name)
    return {
        "depth": depth_of(name),
        "blocks": f"{BLOCK_NAMES[entry.block]} {'-'.join(map(str, entry.num_blocks))}",
        "shortcut": entry.shortcut,
        "connection": entry.connection,
        "order": entry.order,
        "stem": entry.stem,
        "num_classes": entry.num_classes,
    }


def baseline_choices(name: str) -> dict[str, Any]:
    """The same keys for a network that isn't an ``Architecture``."""
    entry = find_entry(name)
    assert callable(entry)
    return {
        "depth": depth_of(name) if name.startswith("vgg") else None,
        "blocks": "none" if name.startswith("vgg") else "inverted residual",
        "shortcut": "none" if name.startswith("vgg") else "identity",
        "connection": "add",
        "order": "post",
        "stem": "small" if name.endswith("_cifar") else "own",
        "num_classes": inspect.signature(entry).parameters["num_classes"].default,
    }
