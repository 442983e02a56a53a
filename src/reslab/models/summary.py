"""What a network of the catalog is, in a row of a table."""

from __future__ import annotations

from typing import Any

import torch

from reslab.models.catalog import depth_of, find_builder


def describe_model(name: str) -> dict[str, Any]:
    """Parameters counted on the meta device, where nothing is allocated; depth, blocks, shortcut, stem, classes."""
    with torch.device("meta"):
        model = find_builder(name)()
    architecture = model.architecture
    return {
        "name": name,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "depth": depth_of(name),
        "blocks": f"{architecture.block.__name__} {'-'.join(map(str, architecture.num_blocks))}",
        "shortcut": architecture.shortcut,
        "stem": architecture.stem,
        "num_classes": model.fc.out_features,
    }
