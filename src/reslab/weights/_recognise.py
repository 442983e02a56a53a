"""The network that weights belong to: by their card, by names, shapes and layout, or by the name that it is given.

What these don't show is assumed, and the report says so. Shape letters: O and I channels out and in, K classes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.errors import RequestError
from reslab.layers.connections import CONNECTIONS
from reslab.models.architecture import Architecture, change
from reslab.models.catalog import CIFAR_FAMILIES, MODELS, create_model, find_entry
from reslab.weights._files import Shapes, WeightsFile, first_few, mismatches, shapes_of
from reslab.weights._layouts import RESLAB, layout_of
from reslab.weights.bundle import find_card

# Choices that don't change which weights fit: for training, or (the biases) compared separately.
NOT_IN_THE_WEIGHTS = {
    "num_classes", "in_channels", "dropout", "block_dropout", "drop_path", "drop_path_rule", "zero_init_residual",
    "checkpoint_blocks", "conv_bias",
}  # fmt: skip
# Choices of which some values have the same keys and shapes as others.
NOT_IN_THE_KEYS = {"shortcut", "stride_on", "stride_in", "stem", "conv", "norm", "order", "activation"}

SIGNS: dict[str, dict[str, str]] = {
    # for each choice its values, by what is found among the names, each with its number of dimensions; the first counts
    "block": {
        "bottleneck": r"layer1\.0\.conv3\.weight",
        "basic": r"layer1\.0\.conv2\.weight",
        "single": r"layer1\.0\.conv1\.weight",
    },
    "norm": {"batch": r"layer1\.0\.bn1\.running_mean", "group": r"layer1\.0\.bn1\.weight", "none": ""},
    "order": {"pre": r"norm\.weight", "post": ""},
    "attention": {"se": r"layer1\.0\.se\.fc1\.weight", "eca": r"layer1\.0\.se\.conv\.weight", "none": ""},
    "conv_bias": {"all": r"layer1\.0\.conv1\.bias", "last": r"layer1\.0\.conv[23]\.bias", "none": ""},
    "shortcut": {
        "projection_pool": r"layer\d+\.\d+\.downsample\.1\.weight [345]",  # a convolution after the pool
        "projection_all": r"layer\d+\.1\.downsample\.0\.weight",
        "projection": r"layer\d+\.0\.downsample\.0\.weight",
        "zero_pad": "",
    },
}


@dataclass(frozen=True)
class Recognition:
    """The network that weights belong to."""

    network: Architecture | str  # the name of a network that has no architecture (VGG, MobileNet)
    num_classes: int  # 0 if the weights have no head
    in_channels: int
    assumptions: tuple[str, ...] = ()  # what names and shapes don't show, and what was assumed

    @cached_property
    def nearest(self) -> tuple[str, dict[str, Any]]:
        """The nearest name of the catalog, and the choices that differ from it; the name is empty if none is near."""
        return (self.network, {}) if isinstance(self.network, str) else nearest_name(self.network)

    @property
    def call(self) -> str:
        """The call that builds it, such as ``create_model('resnet20', num_classes=10, shortcut='zero_pad_both')``."""
        name, changes = self.nearest
        if not name:
            return f"create_model({self.network!r})"
        sizes = {"num_classes": self.num_classes} if self.num_classes else {}
        sizes |= {"in_channels": self.in_channels} if self.in_channels != 3 else {}
        return f"create_model({', '.join([repr(name), *as_arguments(sizes | changes)])})"

    @property
    def title(self) -> str:
        """The name and what differs from it, for a sentence."""
        name, changes = self.nearest
        return (name or "a network without a name") + (
            f" with {' and '.join(as_arguments(changes))}" if changes else ""
        )

    def build(self, num_classes: int | None = None) -> nn.Module:
        """Build the network with fresh values; a RequestError if nobody says how many classes it has."""
        if not (classes := num_classes or self.num_classes):
            raise RequestError(
                f"The file has {self.title} without its head. Say how many classes the new head has:"
                " num_classes=K, on the command line --num-classes K."
            )
        return create_model(self.network, classes, in_channels=self.in_channels)


def as_arguments(changes: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value!r}" for key, value in changes.items()]


def nearest_name(architecture: Architecture) -> tuple[str, dict[str, Any]]:
    """Find the catalog's name that differs in the fewest choices, at most two; the name is empty if there is none."""
    entries = dict(MODELS)
    for family in CIFAR_FAMILIES:
        with suppress(RequestError):  # the depth is not 6n+2
            entries.setdefault(f"{family}{architecture.depth}", find_entry(f"{family}{architecture.depth}"))
    found = {name: differences(architecture, e) for name, e in entries.items() if isinstance(e, Architecture)}
    name = min(found, key=lambda name: len(found[name]))
    return (name, found[name]) if len(found[name]) <= 2 else ("", {})


def differences(architecture: Architecture, other: Architecture) -> dict[str, Any]:
    """List the choices by which the first has other weights than the second."""
    names = [field.name for field in fields(Architecture) if field.name not in NOT_IN_THE_WEIGHTS]
    differing = [name for name in names if getattr(architecture, name) != getattr(other, name)]
    differing += ["conv_bias"] if architecture.biased_convs != other.biased_convs else []
    return {name: getattr(architecture, name) for name in differing}


# ---- of a file


def identify(file: WeightsFile, model: str | Architecture | None = None) -> Recognition:
    """Find the network that a file's weights belong to, or a RequestError that doesn't name the file.

    A ``model`` that was asked for gets the file's classes and channels, and what the file's layout implies.
    """
    layout = layout_of(file.tensors) or RESLAB
    if layout.refusal:
        raise RequestError(f"Its layout is that of {layout.title}, and {layout.refusal}.")
    translation = layout.read(file.tensors)
    shapes, reason = shapes_of(translation.tensors), (layout.reason,) if layout.reason else ()
    classes, channels = _classes_and_channels(shapes)
    if model is not None:
        entry = find_entry(model) if isinstance(model, str) else model
        if not isinstance(entry, Architecture):
            return Recognition(str(model), classes, channels)
        network = change(entry, in_channels=channels, num_classes=classes or entry.num_classes, **layout.implies)
        return Recognition(network, classes, channels, reason if differences(network, entry) else ())
    if translation.unknown:
        raise RequestError(
            f"Its layout is that of {layout.title}, but no network of ours has a place for"
            f" {len(translation.unknown)} of its keys: {first_few(translation.unknown)}."
        )
    if (described := architecture_by_card(file.path, shapes)) is not None:
        return Recognition(described, described.num_classes if "fc.weight" in shapes else 0, channels)
    found = recognise(shapes, layout.implies)
    return replace(found, assumptions=(*reason, *found.assumptions))


def architecture_by_card(path: Path, shapes: Shapes) -> Architecture | None:
    """Build what the file's card describes; None without a card, or where it is the card of other weights."""
    if (card := find_card(path)) is None:
        return None
    known = {field.name for field in fields(Architecture)}
    choices: Any = {key: value for key, value in card.model.items() if key in known}
    choices |= {key: tuple(value) for key, value in choices.items() if isinstance(value, list)}
    classes, choices["in_channels"] = _classes_and_channels(shapes)
    choices |= {"num_classes": classes} if classes else {}
    with suppress(RequestError, TypeError):
        entry = find_entry(card.model["name"]) if card.model["name"] else Architecture(**choices)
        if isinstance(entry, Architecture) and not _misfit(shapes, network := change(entry, **choices)):
            return network
    return None


def _classes_and_channels(shapes: Shapes) -> tuple[int, int]:
    heads = [shape[0] for name, shape in shapes.items() if len(shape) == 2 and name.endswith("weight")]
    kernels = [shape[1] for shape in shapes.values() if len(shape) > 2]
    return heads[-1] if heads else 0, kernels[0] if kernels else 3


def _misfit(shapes: Shapes, network: Architecture | str, **sizes: Any) -> list[str]:
    """Say how the network's names and shapes differ; a missing head and missing counts of batches don't matter."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):  # without values, and without the caller's numbers
        state = create_model(network, **sizes).state_dict()
    optional = {name for name in state if name.endswith("num_batches_tracked")}
    if not {"fc.weight", "fc.bias"} & shapes.keys():
        optional |= {"fc.weight", "fc.bias"}
    expected = {name: value for name, value in state.items() if name in shapes or name not in optional}
    return mismatches(shapes, shapes_of(expected))


# ---- by names and shapes


def recognise(shapes: Shapes, implied: Mapping[str, Any]) -> Recognition:
    """Find the network that has exactly these names and shapes, with the choices that the layout knows.

    The RequestError for any other says which keys stand in the way.
    """
    if "layer1.0.conv1.weight" not in shapes and (baseline := _recognise_baseline(shapes)):
        return baseline
    if not any(name.startswith("layer1.") for name in shapes):
        raise RequestError(
            f"Its keys are of no layout that reslab knows ({first_few(shapes)}). Known are torchvision's and those of"
            " timm's resnet.py, resnetv2.py and nfnet.py, keras.applications, transformers, mmpretrain, and the CIFAR"
            " repositories of akamaster, kuangliu, chenyaofo and xternalz."
        )
    read = _with_connection(_read_architecture(shapes, implied), shapes)
    if problems := _misfit(shapes, read):
        raise RequestError(
            f"Its keys are those of a residual network with {'-'.join(map(str, read.num_blocks))} {read.block} blocks,"
            f" but no network of ours has exactly these: {'; '.join(problems)}."
        )
    network, assumption = _prefer_named(read, shapes, implied)
    classes = network.num_classes if "fc.weight" in shapes else 0
    return Recognition(network, classes, network.in_channels, (*_assumptions(network, implied), *assumption))


def _recognise_baseline(shapes: Shapes) -> Recognition | None:
    """Find a network of the catalog that has no architecture, such as VGG, by its names and shapes."""
    classes, channels = _classes_and_channels(shapes)
    if not classes or not channels:
        return None
    baselines = [name for name, entry in MODELS.items() if not isinstance(entry, Architecture)]
    names = [name for name in baselines if not _misfit(shapes, name, num_classes=classes, in_channels=channels)]
    same = (f"it is {names[0]}: {' and '.join(names[1:])} has the same keys",) if names[1:] else ()
    return Recognition(names[0], classes, channels, same) if names else None


def _read_architecture(shapes: Shapes, implied: Mapping[str, Any]) -> Architecture:
    """Read the choices that names and shapes show, and take the usual ones for the rest."""

    def kernel(name: str) -> tuple[int, ...]:  # (O, I / groups, *)
        if name not in shapes:
            raise RequestError(f"It has no {name}, which every network of ours with such keys has.")
        if len(shapes[name]) < 3 or min(shapes[name]) < 1:
            raise RequestError(f"Its {name} has shape {shapes[name]}, which is not a convolution's.")
        return shapes[name]

    num_blocks = _count_blocks(shapes)
    kernel("layer1.0.conv1.weight")
    names = [f"{name} {len(shape)}" for name, shape in shapes.items()]
    choices: dict[str, Any] = {
        choice: next(value for value, sign in signs.items() if any(re.match(sign, name) for name in names))
        for choice, signs in SIGNS.items()
    }
    if choices["conv_bias"] == ("all" if choices["norm"] == "none" else "none"):
        choices["conv_bias"] = "auto"
    is_bottleneck = choices["block"] == "bottleneck"
    last = {"single": 1, "basic": 2, "bottleneck": 3}[choices["block"]]
    outer = [kernel(f"layer{stage}.0.conv{last}.weight") for stage in range(1, len(num_blocks) + 1)]
    widths = tuple(shape[0] // (4 if is_bottleneck else 1) for shape in outer)
    choices |= {"num_blocks": num_blocks, "widths": widths, "ndim": len(outer[0]) - 2}

    if "conv1.0.weight" in shapes:
        first, width = kernel("conv1.0.weight"), kernel("conv1.6.weight")[0]
        choices["stem"] = "deep" if 2 * first[0] == width else "deep_tiered"
    else:
        first = kernel("conv1.weight")
        if first[2] not in (3, 7):
            raise RequestError(f"The kernel of its stem has side {first[2]}; stems of ours have 7 or 3.")
        choices["stem"], width = "imagenet" if first[2] == 7 else "small", first[0]
    choices |= {"stem_width": width, "in_channels": first[1]}

    if is_bottleneck:
        inner, per_group = kernel("layer1.0.conv2.weight")[:2]
        if not widths[0] or inner < per_group:
            raise RequestError(f"Its layer1.0.conv2.weight has shape {inner}, {per_group}, which is no bottleneck's.")
        choices["groups"] = inner // per_group
        choices["width_per_group"] = inner * 64 // (widths[0] * choices["groups"])
    if "fc.weight" in shapes:
        if len(shapes["fc.weight"]) != 2:
            raise RequestError(f"Its fc.weight has shape {shapes['fc.weight']}; a head's is (classes, features).")
        choices["num_classes"] = shapes["fc.weight"][0]
    return Architecture(**{**choices, **implied})


def _count_blocks(shapes: Shapes) -> tuple[int, ...]:
    found = {(int(m[1]), int(m[2])) for name in shapes if (m := re.match(r"layer(\d+)\.(\d+)\.", name))}
    counts = Counter(stage for stage, _ in found)
    wanted = [(stage, block) for stage in range(1, len(counts) + 1) for block in range(max(counts[stage], 1))]
    if missing := [place for place in wanted if place not in found]:
        raise RequestError("It has no block layer{}.{}, but later ones.".format(*missing[0]))
    return tuple(counts[stage] for stage in range(1, len(counts) + 1))


def _with_connection(base: Architecture, shapes: Shapes) -> Architecture:
    """Find the connection whose parameters are there; addition if there are none."""
    if any(re.search(r"\.(junction|streams|bias1)\.|conv1\.gain", name) for name in shapes):
        for name in ["norm_free"] if "layer1.0.conv1.gain" in shapes else CONNECTIONS:
            with suppress(RequestError):  # a connection that this base can't have
                if not _misfit(shapes, candidate := change(base, connection=name)):
                    return candidate
    return base


def _prefer_named(read: Architecture, shapes: Shapes, implied: Mapping[str, Any]) -> tuple[Architecture, list[str]]:
    """Take the catalog's network with the same keys and shapes, if there is one; return also what that assumes."""
    silent = NOT_IN_THE_KEYS - set(implied)
    entries = {name: entry for name, entry in MODELS.items() if isinstance(entry, Architecture)}
    others = {name: differences(read, entry) for name, entry in entries.items()}
    for name in sorted((name for name in others if others[name].keys() <= silent), key=lambda name: len(others[name])):
        network = replace(entries[name], num_classes=read.num_classes, in_channels=read.in_channels)
        if not others[name]:
            return read, []
        if not _misfit(shapes, network):
            said = as_arguments({k: v for k, v in others[name].items() if k not in ("shortcut", "stride_on")})
            text = f"it is {name}, which the catalog has: one with {', '.join(said)} has the same keys"
            return network, [text] if said else []
    return read, []


def _assumptions(network: Architecture, implied: Mapping[str, Any]) -> list[str]:
    said = []
    if "shortcut" not in implied and network.shortcut in ("zero_pad", "zero_pad_both", "none"):
        said.append(
            f"there are no projections, so shortcut={network.shortcut!r}: 'zero_pad', 'zero_pad_both' (option A)"
            " and 'none' (a plain network) have the same keys"
        )
    if "stride_on" not in implied and network.block == "bottleneck" and network.stride_in == "first":
        said.append(
            f"stride_on={network.stride_on!r}: '3x3' (torchvision, timm) and '1x1' (the paper, Caffe, Keras) have"
            " the same keys"
        )
    if network.norm == "group":
        said.append("norms without running statistics are group norms, of 32 groups from 64 channels up")
    return said
