"""What tells one network from another, as one frozen record: ``ResNet`` builds from it, ``create_model`` changes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, get_args

from reslab.errors import RequestError, unknown
from reslab.layers.attention import AttentionKind
from reslab.layers.connections import Addition, Connection, Fixup, Site, find_connection
from reslab.layers.drop_path import DropPathRule
from reslab.layers.nd import ActivationKind, ConvKind, Ndim, NormKind, Parts, TimePadding
from reslab.layers.shortcut import ShortcutKind
from reslab.layers.stem import StemKind


@dataclass(frozen=True)
class Convolution:
    """Dimensions of a convolution of a branch."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1


BlockKind = Literal["basic", "bottleneck", "single"]
Order = Literal["post", "bn_after", "relu_before", "relu_only", "pre"]
"""Order of norm and activation about the junction: He et al. 2016, arXiv:1603.05027, Fig. 4 and Table 2."""


@dataclass(frozen=True)
class Architecture:
    """A residual network, or with shortcut ``"none"`` a plain one, as a set of choices.

    Args:
        block: ``"basic"`` (two 3x3 convolutions), ``"bottleneck"`` (1x1, 3x3, 1x1, four times as many channels out), or
            ``"single"`` (one 3x3 convolution).
        num_blocks: blocks of each stage.
        widths: width of each stage; every stage but the first halves the resolution.
        stem: kind of the stem.
        stem_width: channels that the stem puts out.
        groups: groups of the 3x3 convolution of a bottleneck, ResNeXt's cardinality.
        width_per_group: width of the 3x3 convolution is ``width * width_per_group / 64 * groups``.
        stride_on: which convolution of a bottleneck has the stride: ``"3x3"`` ("v1.5", torchvision, timm) or ``"1x1"``
            ("v1": the paper, Caffe, Keras).
        stride_in: which block of a stage has it: ``"first"``, or ``"last"`` of the stage before (TensorFlow, Keras V2).
        order: order of norm and activation about the junction.
        norm: kind of the norms.
        conv: kind of the convolutions' weights: as they are, standardised, or standardised and scaled.
        conv_bias: which convolutions have one: ``"none"``; ``"all"``; ``"last"``, those whose result is added to the
            stream: stem, shortcut and the last of a branch; ``"auto"`` is all without norms and none with them.
        activation: kind of the activations.
        attention: channel attention at the end of each branch.
        block_dropout: share of activations dropped between the convolutions of a basic block while training.
        shortcut: kind of the shortcuts.
        connection: how shortcut and branch are joined: a name of ``CONNECTIONS`` or such an object.
        drop_path: share of samples whose last branch is dropped while training; earlier ones linearly less.
        drop_path_rule: whose rule.
        ndim: 1 for sequences, 2 for images, 3 for video and volumes.
        time_padding: of 3-D convolutions along the first axis: with zeros, or by repeating the outermost frame.
        num_classes: K.
        in_channels: channels of the image.
        dropout: share of features dropped before the head while training.
        zero_init_residual: start each branch at zero.
        checkpoint_blocks: keep only the blocks' inputs for the backward pass and compute the rest again.

    Raises:
        RequestError: for an unknown choice (with the closest match), or a combination that makes no network.
    """

    block: BlockKind
    num_blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: StemKind = "imagenet"
    stem_width: int = 64
    groups: int = 1
    width_per_group: int = 64
    stride_on: Literal["3x3", "1x1"] = "3x3"
    stride_in: Literal["first", "last"] = "first"
    order: Order = "post"
    norm: NormKind = "batch"
    conv: ConvKind = "plain"
    conv_bias: Literal["auto", "none", "last", "all"] = "auto"
    activation: ActivationKind = "relu"
    attention: AttentionKind = "none"
    block_dropout: float = 0.0
    shortcut: ShortcutKind = "projection"
    connection: str | Connection = "add"
    drop_path: float = 0.0
    drop_path_rule: DropPathRule = "timm"
    ndim: Ndim = 2
    time_padding: TimePadding = "zeros"
    num_classes: int = 1000
    in_channels: int = 3
    dropout: float = 0.0
    zero_init_residual: bool = False
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no network, before anything is built."""
        for field, kind in CHOICES.items():
            if (value := getattr(self, field)) not in get_args(kind):
                raise unknown(field, str(value), map(str, get_args(kind)))
        check_sizes(self)
        check_combinations(self)

    @property
    def parts(self) -> Parts:
        """What makes the layers."""
        bias = ("all" if self.norm == "none" else "none") if self.conv_bias == "auto" else self.conv_bias
        return Parts(self.ndim, self.norm, self.conv, bias, self.activation, self.time_padding)

    @property
    def joined(self) -> Connection:
        """The connection as an object."""
        return find_connection(self.connection)

    @property
    def expansion(self) -> int:
        """Channels that a block puts out, over its width."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def depth(self) -> int:
        """Weighted layers on the longest path: stem, convolutions of all branches, head."""
        return sum(self.num_blocks) * len(self.convolutions(1, 64)) + 2

    def convolutions(self, in_channels: int, width: int, stride: int = 1) -> list[Convolution]:
        """The convolutions of a branch."""
        if self.block == "single":
            return [Convolution(in_channels, width, 3, stride)]
        if self.block == "basic":
            return [Convolution(in_channels, width, 3, stride), Convolution(width, width, 3)]
        inner = width * self.width_per_group // 64 * self.groups
        outer, middle = (stride, 1) if self.stride_on == "1x1" else (1, stride)
        return [
            Convolution(in_channels, inner, 1, outer),
            Convolution(inner, inner, 3, middle, self.groups),
            Convolution(inner, width * self.expansion, 1),
        ]

    def sites(self) -> list[list[Site]]:
        """Where each block of each stage stands."""
        stages: list[list[Site]] = []
        channels, index, run = self.stem_width, 0, 0
        for stage, (num_blocks, width) in enumerate(zip(self.num_blocks, self.widths, strict=True)):
            sites = []
            for block in range(num_blocks):
                site = Site(
                    index=index,
                    num_blocks=sum(self.num_blocks),
                    run=run if block == 0 else block,
                    in_channels=channels,
                    out_channels=width * self.expansion,
                    width=width,
                    stride=self.stride_of(stage, block),
                    num_convs=len(self.convolutions(1, 64)),
                    parts=self.parts,
                )
                sites.append(site)
                channels, index = site.out_channels, index + 1
            run = num_blocks
            stages.append(sites)
        return stages

    def stride_of(self, stage: int, block: int) -> int:
        """2 where the resolution is halved: between stages."""
        if self.stride_in == "first":
            return 2 if stage > 0 and block == 0 else 1
        return 2 if stage < len(self.widths) - 1 and block == self.num_blocks[stage] - 1 else 1


CHOICES: dict[str, Any] = {
    "block": BlockKind,
    "stem": StemKind,
    "stride_on": Literal["3x3", "1x1"],
    "stride_in": Literal["first", "last"],
    "order": Order,
    "norm": NormKind,
    "conv": ConvKind,
    "conv_bias": Literal["auto", "none", "last", "all"],
    "activation": ActivationKind,
    "attention": AttentionKind,
    "shortcut": ShortcutKind,
    "drop_path_rule": DropPathRule,
    "ndim": Ndim,
    "time_padding": TimePadding,
}


def check_sizes(a: Architecture) -> None:
    """Counts and shares are in their ranges."""
    if len(a.num_blocks) != len(a.widths) or not a.widths:
        raise RequestError(
            f"num_blocks and widths have a number for each stage, got {len(a.num_blocks)} and {len(a.widths)}."
        )
    if min(*a.num_blocks, *a.widths, a.stem_width, a.groups, a.width_per_group) < 1:
        raise RequestError(
            f"num_blocks, widths, stem_width, groups and width_per_group count from 1, got {a.num_blocks}, {a.widths},"
            f" {a.stem_width}, {a.groups} and {a.width_per_group}."
        )
    if a.num_classes < 1 or a.in_channels < 1:
        raise RequestError(f"num_classes and in_channels must be at least 1, got {a.num_classes} and {a.in_channels}.")
    for field in ("dropout", "block_dropout", "drop_path"):
        if not 0 <= (share := getattr(a, field)) < 1:
            raise RequestError(f"{field} is a share in [0, 1), got {share}.")


def check_combinations(a: Architecture) -> None:
    """Choices go together."""
    plain = a.shortcut == "none"
    if plain and a.connection not in ("add", Addition()):
        raise RequestError(
            f"A plain network has no shortcut to join, got connection {a.connection!r}. Leave it out, or take a"
            " shortcut such as 'zero_pad' or 'projection'."
        )
    if plain and a.drop_path:
        raise RequestError("drop_path leaves branches out, and a plain network is nothing but branches.")
    if plain and a.zero_init_residual:
        raise RequestError("zero_init_residual would silence a plain network: without shortcuts its output would be 0.")
    if a.zero_init_residual and a.order == "relu_before":
        raise RequestError(
            "zero_init_residual would silence the branches for ever: in order 'relu_before' they end in an activation,"
            " which passes no gradient at 0."
        )
    if a.zero_init_residual and isinstance(a.joined, Fixup):
        raise RequestError("Connection 'fixup' starts each branch at zero by itself. Leave zero_init_residual out.")
    if a.zero_init_residual and a.order in ("bn_after", "pre") and a.conv == "standardised":
        raise RequestError(
            "zero_init_residual sets the last weight of a branch to zero, which a standardised convolution can't have."
        )
    if a.block != "bottleneck" and (a.groups, a.width_per_group, a.stride_on) != (1, 64, "3x3"):
        raise RequestError(
            f"groups, width_per_group and stride_on='1x1' are choices of bottleneck blocks; this network has"
            f" {a.block!r} ones."
        )
    if a.block == "bottleneck" and (split := [w for w in a.widths if w * a.width_per_group % 64]):
        raise RequestError(
            f"width_per_group={a.width_per_group} divides stage width {split[0]} into a fraction of a channel a group:"
            f" {split[0]} * {a.width_per_group} / 64."
        )
    if a.block == "single" and a.block_dropout:
        raise RequestError("block_dropout stands between two convolutions; a single-convolution block has one.")
    if a.time_padding == "replicate" and a.ndim != 3:
        raise RequestError(f"time_padding='replicate' is a choice of 3-D networks, got ndim={a.ndim}.")
    for field, wanted in a.joined.implies.items():
        if field != "shortcut" and (got := getattr(a, field)) != wanted:
            raise RequestError(
                f"Connection {a.connection!r} is made for {field}={wanted!r}, got {got!r}. Leave {field} out."
            )


class Changes(TypedDict, total=False):
    """What ``create_model`` can change about a network: the fields of ``Architecture`` but ``num_classes``."""

    block: BlockKind
    num_blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: StemKind
    stem_width: int
    groups: int
    width_per_group: int
    stride_on: Literal["3x3", "1x1"]
    stride_in: Literal["first", "last"]
    order: Order
    norm: NormKind
    conv: ConvKind
    conv_bias: Literal["auto", "none", "last", "all"]
    activation: ActivationKind
    attention: AttentionKind
    block_dropout: float
    shortcut: ShortcutKind
    connection: str | Connection
    drop_path: float
    drop_path_rule: DropPathRule
    ndim: Ndim
    time_padding: TimePadding
    in_channels: int
    dropout: float
    zero_init_residual: bool
    checkpoint_blocks: bool


def change(architecture: Architecture, num_classes: int | None = None, **changes: Unpack[Changes]) -> Architecture:
    """The architecture with other choices; a connection brings those that it is made for.

    Raises:
        RequestError: for a choice that doesn't exist (with the closest match), or doesn't go with the others.

    Example:
        >>> change(Architecture("basic", (1, 1), (16, 32)), connection="fixup").norm
        'none'
    """
    fields = [field.name for field in dataclasses.fields(Architecture)]
    for name in changes:
        if name not in fields:
            raise unknown("choice", name, fields, hint="They are the fields of Architecture.")
    implied: Mapping[str, object] = {}
    if "connection" in changes:
        implied = find_connection(changes["connection"]).implies
    classes = {} if num_classes is None else {"num_classes": num_classes}
    return dataclasses.replace(architecture, **{**implied, **changes, **classes})  # type: ignore[arg-type]
