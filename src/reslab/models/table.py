"""The catalog as a table: its rows from ``catalog.json``, which needs no torch, and one row by counting a network.

``make docs`` writes the file by building and counting every network; a test counts them again.
"""

from __future__ import annotations

import inspect
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

CATALOG_FILE = Path(__file__).with_name("catalog.json")
BLOCK_NAMES = {"basic": "BasicBlock", "bottleneck": "Bottleneck", "single": "SingleBlock"}


def catalog_rows(pattern: str = "*") -> list[dict[str, Any]]:
    """Return the rows of the networks whose names match a shell pattern, in the catalog's order.

    Example:
        >>> [row["num_parameters"] for row in catalog_rows("plain20")]
        [269722]
    """
    rows: list[dict[str, Any]] = json.loads(CATALOG_FILE.read_text(encoding="utf-8"))
    return [row for row in rows if fnmatchcase(row["name"], pattern)]


def describe_model(name: str) -> dict[str, Any]:
    """Return the row of one network: what one image costs, counted on the meta device, and its choices."""
    import torch

    from reslab.models.catalog import create_model
    from reslab.models.count import count_operations

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


def image_shape(name: str) -> tuple[int, int, int]:
    """Return the shape of image that a network is counted with: 32x32 where the stem is small, else 224x224."""
    from reslab.models.catalog import find_entry

    entry = find_entry(name)
    small = name.endswith("_cifar") if callable(entry) else entry.stem == "small"
    return (3, 32, 32) if small else (3, 224, 224)


def choices(name: str) -> dict[str, Any]:
    """Depth, blocks, shortcut, connection, stem and classes; of a baseline, which has no ``Architecture``, likewise."""
    from reslab.models.catalog import depth_of, find_entry

    entry = find_entry(name)
    if callable(entry):
        is_vgg = name.startswith("vgg")
        return {
            "depth": depth_of(name) if is_vgg else None,
            "blocks": "none" if is_vgg else "inverted residual",
            "shortcut": "none" if is_vgg else "identity",
            "connection": "add",
            "order": "post",
            "stem": "small" if name.endswith("_cifar") else "own",
            "num_classes": inspect.signature(entry).parameters["num_classes"].default,
        }
    return {
        "depth": depth_of(name),
        "blocks": f"{BLOCK_NAMES[entry.block]} {'-'.join(map(str, entry.num_blocks))}",
        "shortcut": entry.shortcut,
        "connection": entry.connection,
        "order": entry.order,
        "stem": entry.stem,
        "num_classes": entry.num_classes,
    }
