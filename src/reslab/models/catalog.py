"""The one dict of names and builders, and the two functions that read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial

from torch import nn

from reslab.errors import RequestError, unknown
from reslab.layers.shortcut import ShortcutKind
from reslab.models.resnet import IMAGENET_DEPTHS, ResNet, cifar_resnet, imagenet_resnet

Builder = Callable[..., ResNet]

MODELS: dict[str, Builder] = {
    # CIFAR networks of He et al. 2015: width 16-32-64, option A
    "resnet20": partial(cifar_resnet, 20),
    "resnet32": partial(cifar_resnet, 32),
    "resnet44": partial(cifar_resnet, 44),
    "resnet56": partial(cifar_resnet, 56),
    "resnet110": partial(cifar_resnet, 110),
    "resnet1202": partial(cifar_resnet, 1202),
    # their plain twins
    "plain20": partial(cifar_resnet, 20, shortcut="none"),
    "plain32": partial(cifar_resnet, 32, shortcut="none"),
    "plain44": partial(cifar_resnet, 44, shortcut="none"),
    "plain56": partial(cifar_resnet, 56, shortcut="none"),
    "plain110": partial(cifar_resnet, 110, shortcut="none"),
    # ImageNet networks of He et al. 2015: width 64-128-256-512, option B
    "resnet18": partial(imagenet_resnet, 18),
    "resnet34": partial(imagenet_resnet, 34),
    "resnet50": partial(imagenet_resnet, 50),
    "resnet101": partial(imagenet_resnet, 101),
    "resnet152": partial(imagenet_resnet, 152),
    # their plain twins
    "plain18": partial(imagenet_resnet, 18, shortcut="none"),
    "plain34": partial(imagenet_resnet, 34, shortcut="none"),
    "plain50": partial(imagenet_resnet, 50, shortcut="none"),
    "plain101": partial(imagenet_resnet, 101, shortcut="none"),
    "plain152": partial(imagenet_resnet, 152, shortcut="none"),
    # the ImageNet networks with a 3x3 stem, for images of 8 to 64 pixels
    "resnet18_small": partial(imagenet_resnet, 18, stem="small"),
    "resnet34_small": partial(imagenet_resnet, 34, stem="small"),
    "resnet50_small": partial(imagenet_resnet, 50, stem="small"),
    "resnet101_small": partial(imagenet_resnet, 101, stem="small"),
    "resnet152_small": partial(imagenet_resnet, 152, stem="small"),
    "plain18_small": partial(imagenet_resnet, 18, stem="small", shortcut="none"),
    "plain34_small": partial(imagenet_resnet, 34, stem="small", shortcut="none"),
    "plain50_small": partial(imagenet_resnet, 50, stem="small", shortcut="none"),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the catalog that match a shell pattern, in its order.

    Any other CIFAR depth 6n+2 can be built by number too (``resnet38``, ``plain26``), but is not listed.

    Example:
        >>> list_models("plain5*")
        ['plain56', 'plain50', 'plain50_small']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def create_model(
    name: str | Callable[..., nn.Module],
    num_classes: int | None = None,
    *,
    in_channels: int = 3,
    shortcut: ShortcutKind | None = None,
    zero_init_residual: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """Builds a network by name: an ordinary ``nn.Module`` with fresh values from torch's global seed.

    Args:
        name: a name of the catalog, ``resnetN`` or ``plainN`` with any N = 6n+2, or a builder of your own, which is
            called with ``num_classes`` and ``in_channels``.
        num_classes: K; by default the name's own (10 for CIFAR, 1000 for ImageNet networks).
        in_channels: channels of the image.
        shortcut: another kind than the name's own. A plain network takes none.
        zero_init_residual: start each branch at zero.
        dropout: share of features dropped before the head while training.

    Raises:
        RequestError: for an unknown name (with the closest matches), a depth that is not 6n+2, or a plain network with
            a shortcut.

    Example:
        >>> twin = create_model("plain56", num_classes=10)
        >>> type(twin).__name__
        'ResNet'
    """
    if not isinstance(name, str):
        if shortcut is not None or zero_init_residual or dropout:
            raise RequestError("shortcut, zero_init_residual and dropout are options of the catalog's networks only.")
        return name(num_classes=num_classes, in_channels=in_channels)
    builder = find_builder(name)
    if shortcut not in (None, "none") and name.startswith("plain"):
        raise RequestError(
            f"{name} is a plain network and takes no shortcut, got {shortcut!r}."
            f" Its residual twin is {name.replace('plain', 'resnet', 1)!r}."
        )
    own = {} if num_classes is None else {"num_classes": num_classes}
    kind = {} if shortcut is None else {"shortcut": shortcut}
    return builder(**own, **kind, in_channels=in_channels, zero_init_residual=zero_init_residual, dropout=dropout)


def find_builder(name: str) -> Builder:
    """The catalog's builder of that name, or one for a CIFAR depth that the catalog doesn't list."""
    if name in MODELS:
        return MODELS[name]
    match = re.fullmatch(r"(resnet|plain)([1-9][0-9]*)", name)  # no leading zero: resnet050 isn't resnet50
    if not match:
        raise unknown("model", name, MODELS, hint="`reslab models` lists all; any CIFAR depth 6n+2 goes by number.")
    depth = int(match[2])
    if (depth - 2) % 6 or depth < 8:
        nearest = sorted(MODELS, key=lambda known: (not known.startswith(match[1]), abs(depth_of(known) - depth)))[:2]
        near = max(8, depth - (depth - 2) % 6)
        # An ImageNet depth that happens to be 6n+2, such as 50, names another family.
        cifar = [other for other in range(max(8, near - 6), near + 13, 6) if other not in IMAGENET_DEPTHS]
        below, above = sorted(sorted(cifar, key=lambda other: abs(other - depth))[:2])
        raise RequestError(
            f"Unknown model {name!r}: {depth} is neither an ImageNet depth nor 6n+2, the depth of a CIFAR network."
            f" The nearest CIFAR depths are '{match[1]}{below}' and '{match[1]}{above}'; the nearest in the catalog"
            f" {' and '.join(map(repr, nearest))}. See `reslab models`."
        )
    return partial(cifar_resnet, depth, shortcut="none" if match[1] == "plain" else "zero_pad")


def depth_of(name: str) -> int:
    """The number in a catalog name: its count of weighted layers on the longest path."""
    match = re.search(r"\d+", name)
    assert match, f"catalog name {name!r} has no depth"
    return int(match[0])


def twin_of(name: str) -> str:
    """The plain twin's name of a residual network and the other way round.

    Example:
        >>> twin_of("resnet56"), twin_of("plain18_small")
        ('plain56', 'resnet18_small')
    """
    swap = {"resnet": "plain", "plain": "resnet"}
    return re.sub(r"^(resnet|plain)", lambda match: swap[match[1]], name)
