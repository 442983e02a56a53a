"""The one dict of names, and the functions that read it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial

from torch import nn

from reslab.errors import RequestError, unknown
from reslab.models.architecture import Architecture, change
from reslab.models.families import (
    IMAGENET_DEPTHS,
    cifar,
    cifar_bottleneck,
    cifar_resnext,
    highway,
    imagenet,
    wide,
)
from reslab.models.resnet import ResNet
from reslab.models.sequential import mobilenet, plain_stack, vgg

Entry = Architecture | Callable[..., nn.Module]

RESNET_D = {"stem": "deep", "shortcut": "projection_pool"}
RESNET_T = {"stem": "deep_tiered", "shortcut": "projection_pool"}
TENSORFLOW = {"order": "pre", "stride_in": "last", "stem": "tensorflow", "conv_bias": "last"}
BIT = {"order": "pre", "norm": "group", "conv": "standardised", "stem": "tensorflow"}

MODELS: dict[str, Entry] = {
    # CIFAR networks of He et al. 2015: width 16-32-64, option A
    "resnet20": cifar(20),
    "resnet32": cifar(32),
    "resnet44": cifar(44),
    "resnet56": cifar(56),
    "resnet110": cifar(110),
    "resnet1202": cifar(1202),
    # their plain twins
    "plain20": cifar(20, shortcut="none"),
    "plain32": cifar(32, shortcut="none"),
    "plain44": cifar(44, shortcut="none"),
    "plain56": cifar(56, shortcut="none"),
    "plain110": cifar(110, shortcut="none"),
    # CIFAR networks of He et al. 2016: bottlenecks, pre-activation
    "resnet164": cifar_bottleneck(164),
    "resnet1001": cifar_bottleneck(1001),
    "preresnet20": cifar(20, order="pre"),
    "preresnet56": cifar(56, order="pre"),
    "preresnet110": cifar(110, order="pre"),
    "preresnet164": cifar_bottleneck(164, order="pre"),
    "preresnet1001": cifar_bottleneck(1001, order="pre"),
    # wide, with many groups, with channel attention
    "wide_resnet16_4": wide(16, 4),
    "wide_resnet28_10": wide(28, 10),
    "wide_resnet40_4": wide(40, 4),
    "resnext29_8x64d": cifar_resnext(29, 8, 64),
    "resnext29_16x64d": cifar_resnext(29, 16, 64),
    "seresnet20": cifar(20, attention="se"),
    "seresnet56": cifar(56, attention="se"),
    "seresnet110": cifar(110, attention="se"),
    "ecaresnet20": cifar(20, attention="eca"),
    "ecaresnet56": cifar(56, attention="eca"),
    # other connections at CIFAR depths
    "highway20": highway(20),
    "highway32": highway(32),
    "fixup_resnet20": cifar(20, connection="fixup"),
    "fixup_resnet56": cifar(56, connection="fixup"),
    "fixup_resnet110": cifar(110, connection="fixup"),
    "nf_resnet20": cifar(20, connection="norm_free"),
    "nf_resnet56": cifar(56, connection="norm_free"),
    "hyper_resnet56": cifar(56, connection="hyper"),
    "mhc_resnet56": cifar(56, connection="mhc"),
    # ImageNet networks of He et al. 2015: width 64-128-256-512, option B
    "resnet18": imagenet(18),
    "resnet34": imagenet(34),
    "resnet50": imagenet(50),
    "resnet101": imagenet(101),
    "resnet152": imagenet(152),
    # their plain twins
    "plain18": imagenet(18, shortcut="none"),
    "plain34": imagenet(34, shortcut="none"),
    "plain50": imagenet(50, shortcut="none"),
    "plain101": imagenet(101, shortcut="none"),
    "plain152": imagenet(152, shortcut="none"),
    # with the stride on the first 1x1, as in the paper, Caffe and Keras
    "resnet50_v1": imagenet(50, stride_on="1x1"),
    "resnet101_v1": imagenet(101, stride_on="1x1"),
    "resnet152_v1": imagenet(152, stride_on="1x1"),
    # ImageNet networks of He et al. 2016: pre-activation; _tf as in TensorFlow and Keras V2
    "preresnet18": imagenet(18, order="pre"),
    "preresnet34": imagenet(34, order="pre"),
    "preresnet50": imagenet(50, order="pre"),
    "preresnet101": imagenet(101, order="pre"),
    "preresnet152": imagenet(152, order="pre"),
    "preresnet200": imagenet(200, order="pre"),
    "preresnet50_tf": imagenet(50, **TENSORFLOW),
    "preresnet101_tf": imagenet(101, **TENSORFLOW),
    "preresnet152_tf": imagenet(152, **TENSORFLOW),
    # deep stems (C), and pooled shortcuts besides (D; T tiered)
    "resnet50c": imagenet(50, stem="deep"),
    "resnet18d": imagenet(18, **RESNET_D),
    "resnet34d": imagenet(34, **RESNET_D),
    "resnet50d": imagenet(50, **RESNET_D),
    "resnet101d": imagenet(101, **RESNET_D),
    "resnet152d": imagenet(152, **RESNET_D),
    "preresnet50d": imagenet(50, **RESNET_D, order="pre"),
    # wide, and with many groups
    "wide_resnet50_2": imagenet(50, width_per_group=128),
    "wide_resnet101_2": imagenet(101, width_per_group=128),
    "resnext50_32x4d": imagenet(50, groups=32, width_per_group=4),
    "resnext101_32x8d": imagenet(101, groups=32, width_per_group=8),
    "resnext101_64x4d": imagenet(101, groups=64, width_per_group=4),
    # with channel attention
    "seresnet18": imagenet(18, attention="se"),
    "seresnet34": imagenet(34, attention="se"),
    "seresnet50": imagenet(50, attention="se"),
    "seresnet101": imagenet(101, attention="se"),
    "seresnet152": imagenet(152, attention="se"),
    "seresnext50_32x4d": imagenet(50, attention="se", groups=32, width_per_group=4),
    "ecaresnet50": imagenet(50, attention="eca"),
    "ecaresnet50d": imagenet(50, **RESNET_D, attention="eca"),
    "ecaresnet50t": imagenet(50, **RESNET_T, attention="eca"),
    "ecaresnet101d": imagenet(101, **RESNET_D, attention="eca"),
    # with other norms, and with none
    "resnet50_gn": imagenet(50, norm="group"),
    "preresnet50_bit": imagenet(50, **BIT),
    "preresnet101_bit": imagenet(101, **BIT),
    "fixup_resnet50": imagenet(50, connection="fixup"),
    "nf_resnet26": imagenet(50, connection="norm_free", num_blocks=(2, 2, 2, 2)),
    "nf_resnet50": imagenet(50, connection="norm_free"),
    "nf_resnet101": imagenet(101, connection="norm_free"),
    "nf_seresnet50": imagenet(50, connection="norm_free", attention="se"),
    # the ImageNet networks with a 3x3 stem, for images of 8 to 64 pixels
    "resnet18_small": imagenet(18, stem="small"),
    "resnet34_small": imagenet(34, stem="small"),
    "resnet50_small": imagenet(50, stem="small"),
    "resnet101_small": imagenet(101, stem="small"),
    "resnet152_small": imagenet(152, stem="small"),
    "preresnet18_small": imagenet(18, stem="small", order="pre"),
    "plain18_small": imagenet(18, stem="small", shortcut="none"),
    "plain34_small": imagenet(34, stem="small", shortcut="none"),
    "plain50_small": imagenet(50, stem="small", shortcut="none"),
    # baselines to compare with: stacks without blocks, and the small networks of phones
    "vgg11_bn": partial(vgg, 11),
    "vgg16_bn": partial(vgg, 16),
    "vgg11_bn_cifar": partial(vgg, 11, num_classes=10, small=True, dropout=0.0),
    "vgg16_bn_cifar": partial(vgg, 16, num_classes=10, small=True, dropout=0.0),
    "vgg20_cifar": partial(plain_stack, 20),
    "vgg56_cifar": partial(plain_stack, 56),
    "mobilenet_v2": partial(mobilenet, "mobilenet_v2", num_classes=1000),
    "mobilenet_v3_small": partial(mobilenet, "mobilenet_v3_small", num_classes=1000),
    "mobilenet_v3_large": partial(mobilenet, "mobilenet_v3_large", num_classes=1000),
    "mobilenet_v2_cifar": partial(mobilenet, "mobilenet_v2", num_classes=10, small=True),
    "mobilenet_v3_small_cifar": partial(mobilenet, "mobilenet_v3_small", num_classes=10, small=True),
    "mobilenet_v3_large_cifar": partial(mobilenet, "mobilenet_v3_large", num_classes=10, small=True),
}

CIFAR_FAMILIES: dict[str, dict[str, str]] = {"resnet": {}, "plain": {"shortcut": "none"}, "preresnet": {"order": "pre"}}
"""Families in which any CIFAR depth 6n+2 can be built."""


def list_models(pattern: str = "*") -> list[str]:
    """Return the catalog's names that match a shell pattern, in its order.

    Any other CIFAR depth 6n+2 can be built too (``resnet38``, ``plain26``), but is not listed.

    Example:
        >>> list_models("plain5*")
        ['plain56', 'plain50', 'plain50_small']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def create_model(
    name: str | Architecture | Callable[..., nn.Module],
    num_classes: int | None = None,
    **changes: object,
) -> nn.Module:
    """Build a network by name: an ordinary ``nn.Module`` with fresh values from torch's global seed.

    Args:
        name: a name of the catalog; ``resnetN``, ``plainN`` or ``preresnetN`` with any N = 6n+2; an ``Architecture``;
            or a builder of your own, called with ``num_classes`` and the changes.
        num_classes: K; by default the name's own (10 for CIFAR, 1000 for ImageNet networks).
        changes: other choices than the name's own, the fields of ``Architecture``: ``in_channels``, ``shortcut``,
            ``connection``, ``norm``, ``order``, ``drop_path``, ``ndim``, ``dropout``, ``zero_init_residual``,
            ``checkpoint_blocks`` and so on.

    Raises:
        RequestError: for an unknown name or choice (with the closest matches), a depth that is not 6n+2, or choices
            that don't go together.

    Example:
        >>> twin = create_model("plain56", num_classes=10)
        >>> type(twin).__name__
        'ResNet'
        >>> create_model("resnet20", connection="rezero", norm="group").architecture.norm
        'group'
    """
    entry = find_entry(name) if isinstance(name, str) else name
    if isinstance(entry, Architecture):
        if isinstance(name, str) and name.startswith("plain") and changes.get("shortcut", "none") != "none":
            raise RequestError(
                f"{name} is a plain network and takes no shortcut, got {changes['shortcut']!r}."
                f" Its residual twin is {name.replace('plain', 'resnet', 1)!r}."
            )
        return ResNet(change(entry, num_classes, **changes))
    if num_classes is not None:
        changes["num_classes"] = num_classes
    return call_builder(entry, name, changes)


def call_builder(builder: Callable[..., nn.Module], name: object, changes: Mapping[str, object]) -> nn.Module:
    """Call a builder, which takes fewer choices than an architecture has."""
    what = name if isinstance(name, str) else getattr(builder, "__name__", "the builder")
    taken = inspect.signature(builder).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        for choice in changes:
            if choice not in taken:
                raise unknown(f"choice of {what}", choice, taken)
    return builder(**changes)


def find_entry(name: str) -> Entry:
    """Return the catalog's entry of that name, or one for a CIFAR depth that the catalog doesn't list."""
    if name in MODELS:
        return MODELS[name]
    match = re.fullmatch(rf"({'|'.join(CIFAR_FAMILIES)})([1-9][0-9]*)", name)  # no leading zero: resnet050 is unknown
    if not match:
        hint = "`reslab models` lists all; any CIFAR depth 6n+2 can be built, such as 'resnet38'."
        raise unknown("model", name, MODELS, hint=hint)
    family, depth = match[1], int(match[2])
    if (depth - 2) % 6 or depth < 8:
        raise no_such_depth(name, family, depth)
    return cifar(depth, **CIFAR_FAMILIES[family])


def no_such_depth(name: str, family: str, depth: int) -> RequestError:
    numbered = [known for known in MODELS if re.fullmatch(family + r"\d+", known)]
    nearest = sorted(numbered, key=lambda known: abs(depth_of(known) - depth))[:2]
    near = max(8, depth - (depth - 2) % 6)
    # An ImageNet depth that happens to be 6n+2, such as 50, names another family.
    cifar_depths = [other for other in range(max(8, near - 6), near + 13, 6) if other not in IMAGENET_DEPTHS]
    below, above = sorted(sorted(cifar_depths, key=lambda other: abs(other - depth))[:2])
    return RequestError(
        f"Unknown model {name!r}: {depth} is neither an ImageNet depth nor 6n+2, the depth of a CIFAR network."
        f" The nearest CIFAR depths are '{family}{below}' and '{family}{above}'; the nearest in the catalog"
        f" {' and '.join(map(repr, nearest))}. See `reslab models`."
    )


def depth_of(name: str) -> int:
    """Return the number in a catalog name: its count of weighted layers on the longest path."""
    match = re.search(r"\d+", name)
    assert match, f"catalog name {name!r} has no depth"
    return int(match[0])


def twin_of(name: str) -> str:
    """Return the plain twin's name of a residual network, and the other way round.

    Example:
        >>> twin_of("resnet56"), twin_of("plain18_small")
        ('plain56', 'resnet18_small')
    """
    swap = {"resnet": "plain", "plain": "resnet"}
    return re.sub(r"^(resnet|plain)", lambda match: swap[match[1]], name)
