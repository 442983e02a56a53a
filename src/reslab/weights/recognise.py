"""Which network weights are of, read from names and shapes; what these don't tell is assumed, and said.

Shape letters: O and I channels out and in of a convolution, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.layers.connections import CONNECTIONS
from reslab.models.architecture import Architecture, change
from reslab.models.catalog import BY_NUMBER, MODELS, create_model, find_entry

Shapes = Mapping[str, tuple[int, ...]]

BLOCK_KINDS = {1: "single", 2: "basic", 3: "bottleneck"}
"""Blocks by the convolutions of their branch."""

NOT_IN_THE_WEIGHTS = {
    "num_classes", "in_channels", "dropout", "block_dropout", "drop_path", "drop_path_rule", "zero_init_residual",
    "checkpoint_blocks", "conv_bias",
}  # fmt: skip
"""Choices that make no other network of weights: for training, or (the biases) compared apart."""

NOT_IN_THE_KEYS = {"shortcut", "stride_on", "stride_in", "stem", "conv", "norm", "order", "activation"}
"""Choices of which some values have the same keys and shapes as others."""


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
    outer = [shape_of(shapes, f"layer{s}.0.conv{num_convs}.weight") for s in range(1, len(num_blocks) + 1)]
    choices: dict[str, Any] = {
        "block": BLOCK_KINDS[num_convs],
        "num_blocks": num_blocks,
        "widths": tuple(shape[0] // (4 if num_convs == 3 else 1) for shape in outer),
        "ndim": len(outer[0]) - 2,
        **stem_of(shapes),
        **kinds_of(shapes, num_convs),
    }
    if "fc.weight" in shapes:
        choices["num_classes"] = shape_of(shapes, "fc.weight")[0]
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


def shape_of(shapes: Shapes, name: str) -> tuple[int, ...]:
    """One shape that must be there."""
    if name not in shapes:
        raise RequestError(f"It has no {name}, which every network of ours with such keys has.")
    return shapes[name]


def stem_of(shapes: Shapes) -> dict[str, Any]:
    """Kind, width and input channels."""
    if "conv1.weight" in shapes:
        width, channels, side = shape_of(shapes, "conv1.weight")[:3]
        if side not in (3, 7):
            raise RequestError(f"The kernel of its stem has side {side}; stems of ours have 7 or 3.")
        return {"stem": "imagenet" if side == 7 else "small", "stem_width": width, "in_channels": channels}
    if "conv1.0.weight" not in shapes:
        raise RequestError("It has no conv1.weight, the stem of every network with such keys.")
    first, channels = shape_of(shapes, "conv1.0.weight")[:2]
    width = shape_of(shapes, "conv1.6.weight")[0]
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
    inner, per_group = shape_of(shapes, "layer1.0.conv2.weight")[:2]
    groups = inner // per_group
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


def signature(network: Architecture | str, num_classes: int | None = None, in_channels: int = 3) -> Shapes:
    """Names and shapes of a network, built without values and without a number from the caller's generator."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        if isinstance(network, Architecture):
            model = create_model(network)
        else:
            model = create_model(network, num_classes, in_channels=in_channels)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def check_signature(shapes: Shapes, architecture: Architecture) -> None:
    """Raises a RequestError if the architecture has other names or shapes."""
    if problems := misfits(shapes, signature(architecture)):
        raise RequestError(
            f"Its keys are those of a residual network with {'-'.join(map(str, architecture.num_blocks))}"
            f" {architecture.block} blocks, but of none of ours: {'; '.join(problems)}."
        )


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


# ---- names


def name_of(architecture: Architecture) -> tuple[str, dict[str, Any]]:
    """The catalog's name that is nearest, and in what the architecture differs from it; at most two choices do."""
    best: tuple[str, dict[str, Any]] = ("", {})
    named = {name: entry for name, entry in MODELS.items() if isinstance(entry, Architecture)}
    for family in BY_NUMBER:
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


def differences(architecture: Architecture, other: Architecture) -> dict[str, Any]:
    """The choices in which the first is another network of weights than the second."""
    found = {
        field.name: getattr(architecture, field.name)
        for field in fields(Architecture)
        if field.name not in NOT_IN_THE_WEIGHTS and getattr(architecture, field.name) != getattr(other, field.name)
    }
    if architecture.parts.conv_bias != other.parts.conv_bias:
        found["conv_bias"] = architecture.conv_bias
    return found


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
