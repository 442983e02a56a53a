"""Which network weights are of, read from names and shapes; what these don't tell is assumed, and said.

Shape letters: O and I channels out and in of a convolution, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from reslab.errors import RequestError
from reslab.layers.connections import CONNECTIONS
from reslab.models.architecture import Architecture, change
from reslab.models.catalog import MODELS
from reslab.weights.names import Recognition, differences, name_of, written_out
from reslab.weights.shapes import Shapes, misfits, signature, some

BLOCK_KINDS = {1: "single", 2: "basic", 3: "bottleneck"}
"""Blocks by the convolutions of their branch."""

NOT_IN_THE_KEYS = {"shortcut", "stride_on", "stride_in", "stem", "conv", "norm", "order", "activation"}
"""Choices of which some values have the same keys and shapes as others."""


def recognise(tensors: Mapping[str, Tensor], implied: Mapping[str, Any] | None = None) -> Recognition:
    """The network that has exactly these names and shapes.

    Args:
        tensors: under our names.
        implied: choices that the layout knows, see ``Layout.implies``.

    Raises:
        RequestError: if it is no network of ours; the sentence says which keys stand in the way.
    """
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if found := recognise_other(shapes):
        return found
    if "layer1" not in {name.partition(".")[0] for name in shapes}:
        raise RequestError(
            f"Its keys are of no layout that reslab knows ({some(shapes)}). Known are torchvision's and those of"
            " timm's resnet.py, resnetv2.py and nfnet.py, keras.applications, transformers, mmpretrain, and the CIFAR"
            " repositories of akamaster, kuangliu, chenyaofo and xternalz."
        )
    implied = implied or {}
    architecture = read_architecture(shapes, implied)
    check_signature(shapes, architecture)
    architecture, assumptions = prefer_named(architecture, shapes, implied)
    name, changes = name_of(architecture)
    classes = architecture.num_classes if "fc.weight" in shapes else 0
    assumptions = [*assumed(architecture, shapes, implied), *assumptions]
    return Recognition(name, changes, architecture, classes, architecture.in_channels, tuple(assumptions))


def read_architecture(shapes: Shapes, implied: Mapping[str, Any]) -> Architecture:
    """The choices that names and shapes show, and for the rest the usual ones."""
    num_blocks = blocks_of(shapes)
    num_convs = sum(bool(re.fullmatch(r"layer1\.0\.conv\d\.weight", name)) for name in shapes)
    if num_convs not in BLOCK_KINDS:
        raise RequestError(f"Its first block has {num_convs} convolutions; blocks of ours have 1, 2 or 3.")
    outer = [kernel_of(shapes, f"layer{s}.0.conv{num_convs}.weight") for s in range(1, len(num_blocks) + 1)]
    choices: dict[str, Any] = {
        "block": BLOCK_KINDS[num_convs],
        "num_blocks": num_blocks,
        "widths": tuple(shape[0] // (4 if num_convs == 3 else 1) for shape in outer),
        "ndim": len(outer[0]) - 2,
        **stem_of(shapes),
        **kinds_of(shapes, num_convs),
    }
    if "fc.weight" in shapes:
        if len(shapes["fc.weight"]) != 2:
            raise RequestError(f"Its fc.weight has shape {shapes['fc.weight']}; a head's is (classes, features).")
        choices["num_classes"] = shapes["fc.weight"][0]
    if num_convs == 3:
        choices |= groups_of(shapes, choices["widths"][0])
    choices |= implied
    return with_connection(Architecture(**choices), shapes)


def blocks_of(shapes: Shapes) -> tuple[int, ...]:
    """How many blocks each stage has.

    Example:
        >>> blocks_of({"layer1.0.conv1.weight": (), "layer1.1.conv1.weight": (), "layer2.0.conv1.weight": ()})
        (2, 1)

    Raises:
        RequestError: if one is missing in between.
    """
    found = {(int(m[1]), int(m[2])) for name in shapes if (m := re.match(r"layer(\d+)\.(\d+)\.", name))}
    counts = tuple(sum(stage == s for stage, _ in found) for s in range(1, max(s for s, _ in found) + 1))
    wanted = {(stage, block) for stage, count in enumerate(counts, start=1) for block in range(max(count, 1))}
    if missing := sorted(wanted - found):
        raise RequestError(f"It has no block layer{missing[0][0]}.{missing[0][1]}, but later ones.")
    return counts


def kernel_of(shapes: Shapes, name: str) -> tuple[int, ...]:
    """Shape (O, I / groups, *) of a convolution that must be there."""
    if name not in shapes:
        raise RequestError(f"It has no {name}, which every network of ours with such keys has.")
    if len(shapes[name]) < 3 or min(shapes[name]) < 1:
        raise RequestError(f"Its {name} has shape {shapes[name]}, which is no convolution's.")
    return shapes[name]


def stem_of(shapes: Shapes) -> dict[str, Any]:
    """Kind, width and input channels."""
    if "conv1.weight" in shapes:
        width, channels, side = kernel_of(shapes, "conv1.weight")[:3]
        if side not in (3, 7):
            raise RequestError(f"The kernel of its stem has side {side}; stems of ours have 7 or 3.")
        return {"stem": "imagenet" if side == 7 else "small", "stem_width": width, "in_channels": channels}
    if "conv1.0.weight" not in shapes:
        raise RequestError("It has no conv1.weight, the stem of every network with such keys.")
    first, channels = kernel_of(shapes, "conv1.0.weight")[:2]
    width = kernel_of(shapes, "conv1.6.weight")[0]
    return {"stem": "deep" if 2 * first == width else "deep_tiered", "stem_width": width, "in_channels": channels}


def kinds_of(shapes: Shapes, num_convs: int) -> dict[str, Any]:
    """Kinds of norm, convolution, order, attention and shortcut, and which convolutions have biases."""
    norm = "batch" if "layer1.0.bn1.running_mean" in shapes else "group" if "layer1.0.bn1.weight" in shapes else "none"
    if "layer1.0.conv1.gain" in shapes:
        return {"attention": attention_of(shapes), "connection": "norm_free", **CONNECTIONS["norm_free"].implies}
    inner, last = (f"layer1.0.conv{number}.bias" in shapes for number in (1, num_convs))
    bias = "all" if inner else "last" if last else "none"
    return {
        "norm": norm,
        "order": "pre" if "norm.weight" in shapes else "post",
        "attention": attention_of(shapes),
        "shortcut": shortcut_of(shapes),
        "conv_bias": "auto" if bias == ("all" if norm == "none" else "none") else bias,
    }


def attention_of(shapes: Shapes) -> str:
    """Squeeze-excite, ECA, or none."""
    return "se" if "layer1.0.se.fc1.weight" in shapes else "eca" if "layer1.0.se.conv.weight" in shapes else "none"


def shortcut_of(shapes: Shapes) -> str:
    """By where the convolution of a projection stands; without one it is option A."""
    projections = {name: len(shape) for name, shape in shapes.items() if re.search(r"downsample\.\d\.weight$", name)}
    if not projections:
        return "zero_pad"
    if any(name.endswith("downsample.1.weight") and dims > 2 for name, dims in projections.items()):
        return "projection_pool"
    everywhere = any(re.match(r"layer\d+\.1\.", name) for name in projections)
    return "projection_all" if everywhere else "projection"


def groups_of(shapes: Shapes, width: int) -> dict[str, int]:
    """Groups of the 3x3 convolution and their width, from its shape (O, I / groups, 3, 3)."""
    inner, per_group = kernel_of(shapes, "layer1.0.conv2.weight")[:2]
    groups = inner // per_group
    if not width or not groups:
        raise RequestError(f"Its layer1.0.conv2.weight has {inner} channels out and {per_group} in: no bottleneck's.")
    return {"groups": groups, "width_per_group": inner * 64 // (width * groups)}


def assumed(architecture: Architecture, shapes: Shapes, implied: Mapping[str, Any]) -> list[str]:
    """What was taken for granted, in words."""
    said = []
    if "shortcut" not in implied and shortcut_of(shapes) == "zero_pad" and architecture.connection != "norm_free":
        said.append(
            f"there are no projections, so shortcut={architecture.shortcut!r}: 'zero_pad', 'zero_pad_both' (option A)"
            " and 'none' (a plain network) have the same keys"
        )
    if "stride_on" not in implied and architecture.block == "bottleneck" and architecture.stride_in == "first":
        said.append(
            f"stride_on={architecture.stride_on!r}: '3x3' (torchvision, timm) and '1x1' (the paper, Caffe, Keras) have"
            " the same keys"
        )
    if architecture.norm == "group":
        said.append(
            "norms without running statistics are group norms, of 32 groups where there are 64 channels or more"
        )
    return said


def with_connection(base: Architecture, shapes: Shapes) -> Architecture:
    """The connection whose parameters are there; addition if there are none."""
    if base.connection == "norm_free" or not any(re.search(r"\.(junction|streams|bias1)\.", name) for name in shapes):
        return base
    for name in CONNECTIONS:
        try:
            candidate = change(base, connection=name)
            if not misfits(shapes, signature(candidate)):
                return candidate
        except RequestError:  # a connection that this base can't have
            continue
    return base


def check_signature(shapes: Shapes, architecture: Architecture) -> None:
    """Raises a RequestError if the architecture has other names or shapes."""
    if problems := misfits(shapes, signature(architecture)):
        raise RequestError(
            f"Its keys are those of a residual network with {'-'.join(map(str, architecture.num_blocks))}"
            f" {architecture.block} blocks, but of none of ours: {'; '.join(problems)}."
        )


def prefer_named(
    architecture: Architecture, shapes: Shapes, implied: Mapping[str, Any]
) -> tuple[Architecture, list[str]]:
    """The catalog's network with the same keys and shapes, where the one that was read has no name of its own.

    Returns:
        It, or else the one that was read; and what that assumes.
    """
    if name_of(architecture)[1] == {} and name_of(architecture)[0]:
        return architecture, []
    for name, entry in MODELS.items():
        if not isinstance(entry, Architecture):
            continue
        candidate = replace(entry, num_classes=architecture.num_classes, in_channels=architecture.in_channels)
        others = differences(architecture, candidate)
        if set(others) <= NOT_IN_THE_KEYS - set(implied) and not misfits(shapes, signature(candidate)):
            unsaid = {key: value for key, value in others.items() if key not in ("shortcut", "stride_on")}
            said = f"it is {name}, which the catalog has: one with {', '.join(written_out(unsaid))} has the same keys"
            return candidate, [said] if unsaid else []
    return architecture, []


def recognise_other(shapes: Shapes) -> Recognition | None:
    """A network of the catalog that has no architecture, such as VGG, if names and shapes are exactly its own."""
    heads = [shape for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2]
    kernels = [shape for shape in shapes.values() if len(shape) > 2]
    if not heads or not kernels or "layer1.0.conv1.weight" in shapes:
        return None
    classes, channels = heads[-1][0], kernels[0][1]
    names = [
        name
        for name, entry in MODELS.items()
        if not isinstance(entry, Architecture) and not misfits(shapes, signature(name, classes, channels))
    ]
    if not names:
        return None
    assumptions = [f"it is {names[0]}: {' and '.join(names[1:])} has the same keys"] if names[1:] else []
    return Recognition(names[0], {}, None, classes, channels, tuple(assumptions))
