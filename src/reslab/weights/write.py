"""Writes weights for others: under torchvision's or timm's names, as safetensors with a card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
from torch import Tensor

from reslab.errors import RequestError, unknown
from reslab.models.architecture import Architecture
from reslab.records import encode, write_atomic
from reslab.version import __version__
from reslab.weights.card import METADATA_KEY
from reslab.weights.layouts import NF_RULES, timm_v2_rules
from reslab.weights.names import Recognition, written_out
from reslab.weights.report import LoadReport
from reslab.weights.translation import Rule, renamed

Target = Literal["reslab", "torchvision", "timm"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class Family:
    """Networks of a library: what they can be, and how they call their parts.

    Args:
        title: where they are defined.
        allowed: for each choice of the architecture the values that they have; any value where it isn't listed.
        rules: from their names to ours; none if the names are the same.
    """

    title: str
    allowed: Mapping[str, tuple[Any, ...]]
    rules: tuple[Rule, ...] = ()


COMMON: dict[str, tuple[Any, ...]] = {
    "block": ("basic", "bottleneck"),
    "stride_on": ("3x3",),
    "stride_in": ("first",),
    "order": ("post",),
    "norm": ("batch", "group"),
    "conv": ("plain",),
    "conv_bias": ("auto", "none"),
    "activation": ("relu",),
    "attention": ("none",),
    "connection": ("add",),
    "ndim": (2,),
}
OPTION_A_OR_B = ("projection", "projection_all", "zero_pad", "zero_pad_both", "identity", "none")
PRE: dict[str, tuple[Any, ...]] = {**COMMON, "order": ("pre",), "norm": ("batch",), "groups": (1,)}
BIT: dict[str, tuple[Any, ...]] = {"stem": ("tensorflow",), "norm": ("group",), "conv": ("standardised",)}

FAMILIES: dict[str, tuple[Family, ...]] = {
    "torchvision": (
        Family("torchvision's resnet.py", {**COMMON, "stem": ("imagenet", "small"), "shortcut": OPTION_A_OR_B}),
    ),
    "timm": (
        Family(
            "timm's resnet.py",
            {
                **COMMON,
                "stem": ("imagenet", "deep", "deep_tiered", "small"),
                "shortcut": (*OPTION_A_OR_B, "projection_pool"),
                "attention": ("none", "se", "eca"),
            },
        ),
        Family("timm's resnetv2.py", {**PRE, "stem": ("imagenet",), "shortcut": ("projection",)}, timm_v2_rules(0)),
        Family(
            "timm's resnetv2.py with deep stem",
            {**PRE, "stem": ("deep", "deep_tiered"), "shortcut": ("projection_pool",)},
            timm_v2_rules(1),
        ),
        Family(
            "timm's resnetv2.py, Big Transfer",
            {
                **PRE,
                "stem": ("tensorflow",),
                "shortcut": ("projection",),
                "norm": ("group",),
                "conv": ("standardised",),
            },
            timm_v2_rules(0),
        ),
        Family(
            "timm's nfnet.py",
            {
                "block": ("bottleneck",),
                "stem": ("imagenet",),
                "stride_on": ("3x3",),
                "stride_in": ("first",),
                "activation": ("relu",),
                "connection": ("norm_free",),
                "width_per_group": (64,),
                "groups": (1,),
                "ndim": (2,),
            },
            NF_RULES,
        ),
    ),
}

TORCHVISION_TWINS = {"vgg11_bn", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"}
"""Names of networks without an architecture that torchvision has too."""
NO_TWIN = "the names are {}'s, but {} builds no such network by itself: it has {}"


def to_layout(
    state: Mapping[str, Tensor], layout: Target, network: Architecture | str
) -> tuple[dict[str, Tensor], list[str]]:
    """A state_dict of ours under the names of another library.

    Args:
        state: of one of our networks.
        layout: ``"reslab"`` changes nothing.
        network: its architecture; of a family that has none, its name.

    Returns:
        The tensors, and what the reader should know: where the library has the names but no such network.

    Raises:
        RequestError: if the library has no network that computes the same; it names the choices that stand in the way.

    Example:
        >>> import torch
        >>> from reslab.models.catalog import MODELS
        >>> list(to_layout({"layer1.0.bn2.bias": torch.zeros(1)}, "timm", MODELS["preresnet50"])[0])
        ['stages.0.blocks.0.norm2.bias']
    """
    if layout not in TARGETS:
        raise unknown("layout", layout, TARGETS)
    if layout == "reslab":
        return dict(state), []
    if isinstance(network, str):
        return dict(state), without_architecture(layout, network)
    family = family_of(layout, network)
    made = {}
    for name, value in state.items():
        new, rule = renamed(name, family.rules, forward=False) if family.rules else (name, None)
        assert new is not None, f"{family.title} has no name for {name}"
        made[new] = rule.to_theirs(value) if rule and rule.to_theirs else value
    return made, twinless(layout, network)


def without_architecture(layout: str, name: str) -> list[str]:
    """What to know about VGG and MobileNet: their names are torchvision's, and not timm's.

    Raises:
        RequestError: for timm.
    """
    if layout != "torchvision":
        raise RequestError(
            f"{layout} calls the parts of {name} otherwise than torchvision and reslab. Write it under"
            " torchvision's names: layout 'torchvision'."
        )
    return [] if name in TORCHVISION_TWINS else [NO_TWIN.format(layout, layout, "a form for small images")]


def family_of(layout: str, architecture: Architecture) -> Family:
    """The family of a library that the network belongs to.

    Raises:
        RequestError: if there is none; it names what the nearest family lacks.
    """
    misfits = [(obstacles(architecture, family), family) for family in FAMILIES[layout]]
    # Order and connection tell families apart; the nearest is one that agrees in them.
    wrong, family = min(misfits, key=lambda pair: (bool({"order", "connection"} & set(pair[0])), len(pair[0])))
    if not wrong:
        return family
    have = " and ".join(written_out({key: getattr(architecture, key) for key in wrong}))
    want = " and ".join(f"{key} {' or '.join(map(repr, family.allowed[key]))}" for key in wrong)
    raise RequestError(
        f"{layout} has no network that computes the same: this one has {have}, those of {family.title} have {want}."
        " Write it under our own names: layout 'reslab'."
    )


def obstacles(architecture: Architecture, family: Family) -> list[str]:
    """The choices in which a network is none of the family."""
    return [key for key, values in family.allowed.items() if getattr(architecture, key) not in values]


def twinless(layout: str, architecture: Architecture) -> list[str]:
    """What to know where a library has the names, but builds no such network by itself."""
    reasons = []
    if len(architecture.widths) != 4:
        reasons.append(f"{len(architecture.widths)} stages where those have 4")
    if architecture.stem == "small":
        reasons.append("a 3x3 stem without max-pool")
    if architecture.shortcut in ("zero_pad", "zero_pad_both", "projection_all", "none"):
        reasons.append(f"shortcut={architecture.shortcut!r}")
    if architecture.norm == "group" and layout == "torchvision":
        reasons.append("group norm, which torchvision takes as norm_layer")
    if not reasons:
        return []
    return [NO_TWIN.format(layout, layout, ", ".join(reasons))]


# ---- files


def make_card(found: Recognition, report: LoadReport, *, layout: Target, num_classes: int) -> dict[str, Any]:
    """What the weights are, for people and programs; ``card.py`` reads it."""
    assert found.architecture is not None or found.name, "a network has a name or an architecture"
    choices = found.changes if found.name or found.architecture is None else asdict(found.architecture)
    return {
        "task": "classify",
        "model": {"name": found.name, **choices, "in_channels": found.in_channels},
        "num_classes": num_classes,
        "layout": layout,
        "source": {
            "file": Path(report.file).name,
            "sha256": digest(Path(report.file)),
            "kind": report.kind,
            "layout": report.layout,
            "entry": report.entry,
        },
        "assumptions": report.assumptions,
        "notes": report.notes,
        "reslab": __version__,
    }


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_weights(path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Writes safetensors that carry the card, and the card beside them, each whole or not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = encode(dict(card), indent=2)
    # "format" is what transformers asks for.
    write_atomic(path, safetensors.torch.save(plain, metadata={"format": "pt", METADATA_KEY: text}))
    write_atomic(path.with_suffix(".json"), text + "\n")


def check_place(path: Path, source: Path, *, force: bool) -> None:
    """Refuses a place where something would be lost.

    Raises:
        RequestError: if the suffix is another, the file is the source itself, or is there and ``force`` isn't given.
    """
    if path.suffix != ".safetensors":
        raise RequestError(f"Weights are written as safetensors: name a file that ends so, got {path}.")
    if path.exists() and path.resolve() == source.resolve():
        raise RequestError(f"{path} is the file that is read. Write to another: --out FILE.safetensors.")
    there = [str(place) for place in (path, path.with_suffix(".json")) if place.exists()]
    if there and not force:
        raise RequestError(f"{' and '.join(there)} exist already. --force overwrites, --out writes elsewhere.")
