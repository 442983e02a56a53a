"""The catalog at small depth and width: every entry with at most two blocks per stage, equal ones once.

Size adds nothing to what the suites ask of a network but time; that the full depths are built is tested by counting.
"""

from dataclasses import fields, replace
from functools import partial

import torch
from torch import nn

from reslab.models.architecture import Architecture
from reslab.models.catalog import MODELS, create_model
from reslab.models.sequential import StackSpec, stack


def shrink(entry: Architecture) -> Architecture:
    """Two blocks per stage; a stem of 16 channels; stages as much wider than the stem as they were, at most twice."""
    first = 16 * min(entry.widths[0] // entry.stem_width, 2)
    return replace(
        entry,
        num_blocks=tuple(min(count, 2) for count in entry.num_blocks),
        widths=tuple(first * width // entry.widths[0] for width in entry.widths),
        stem_width=16,
        num_classes=7,
    )


def shrunk_catalog() -> dict[str, Architecture]:
    """The first name of each."""
    found: dict[Architecture, str] = {}
    for name, entry in MODELS.items():
        if isinstance(entry, Architecture):
            found.setdefault(shrink(entry), name)
    return {name: architecture for architecture, name in found.items()}


def covering(catalog: dict[str, Architecture]) -> list[str]:
    """Few networks that together show every value of every choice that some network makes, found greedily."""

    def shown(architecture: Architecture) -> set[tuple[str, object]]:
        values = {field.name: getattr(architecture, field.name) for field in fields(Architecture)}
        named = {(field, value) for field, value in values.items() if isinstance(value, str)}
        return {*named, ("grouped", architecture.groups > 1), ("wide", architecture.width_per_group > 64)}

    missing = set().union(*map(shown, catalog.values()))
    found = []
    while missing:
        best = max(catalog, key=lambda name: len(shown(catalog[name]) & missing))
        missing -= shown(catalog[best])
        found.append(best)
    return found


SHRUNK = shrunk_catalog()
VGG_IN_SMALL = StackSpec((1, 2, 1), (8, 12, 16), small=False, pool_last=True, conv_bias=True)
BASELINES = {
    "vgg11_bn": partial(stack, VGG_IN_SMALL, num_classes=1000),
    **{name: entry for name, entry in MODELS.items() if "_cifar" in name or name.startswith("mobilenet")},
}
ENTRIES = {**SHRUNK, **BASELINES}


def build(name: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    return create_model(ENTRIES[name], 7, **changes)


def images_for(name: str, *, batch: int = 4, in_channels: int = 3) -> torch.Tensor:
    small = SHRUNK[name].stem == "small" if name in SHRUNK else name.endswith("_cifar")
    side = 16 if small else 64
    return torch.randn(batch, in_channels, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def settle_norms(net: nn.Module, images: torch.Tensor) -> nn.Module:
    """Running statistics equal to this batch's, so that a fresh network of any depth is finite in eval mode."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()
