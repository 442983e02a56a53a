"""All choices that make up a residual network, as one frozen dataclass.

``ResNet`` builds it, ``create_model`` changes it, config and ``--help`` read its fields and what its docstring says of
them. Nothing here imports torch before a network is built.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from pydantic import SkipValidation

from reslab.errors import RequestError, unknown
from reslab.layers.connections import Connection, find_connection
from reslab.layers.spec import (
    ActivationKind,
    AttentionKind,
    BlockSpec,
    ConvBias,
    ConvKind,
    DropPathRule,
    Ndim,
    NormKind,
    ShortcutKind,
    StemKind,
    TimePadding,
)
from reslab.options import Count, Fraction, options

if TYPE_CHECKING:
    from reslab.layers.nd import LayerFactory

BlockKind = Literal["basic", "bottleneck", "single"]
Order = Literal["post", "bn_after", "relu_before", "relu_only", "pre"]
"""Order of norm and activation about the junction: He et al. 2016, arXiv:1603.05027, Fig. 4 and Table 2."""


@dataclass(frozen=True)
class Convolution:
    """Dimensions of a convolution of a branch."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1


@options
class Architecture:
    """A residual network, or with shortcut ``"none"`` a plain one, as a set of choices.

    Args:
        block: type of block: "basic" (two 3x3 convolutions), "bottleneck" (1x1, 3x3, 1x1, four times as many channels
            out) or "single" (one 3x3 convolution).
        num_blocks: number of blocks in each stage.
        widths: width of each stage; every stage but the first halves the resolution.
        stem: type of stem; "small" is for images of 8 to 64 pixels, the others for about 224.
        stem_width: output channels of the stem.
        groups: groups of a bottleneck's 3x3 convolution (ResNeXt's cardinality).
        width_per_group: width of each of these groups in a stage of width 64; wider stages have proportionally more.
        stride_on: the convolution of a bottleneck that has the stride: "3x3" ("v1.5", torchvision, timm) or "1x1"
            ("v1", the paper, Caffe, Keras).
        stride_in: the block that has it: "first" of a stage, or "last" of the stage before (TensorFlow, Keras V2).
        order: order of norm and activation around the addition: "post" is the original ResNet, "pre" is pre-activation.
        norm: type of normalisation.
        conv: weights of convolutions: as they are, standardised, or standardised and scaled.
        conv_bias: which convolutions have a bias; "last" are those whose result is added to the stream (stem, shortcut
            and the last of a branch), "auto" is all without norms and none with them.
        activation: type of activation.
        attention: channel attention at the end of each branch: squeeze-and-excite or ECA.
        block_dropout: fraction of activations dropped between the convolutions of a block while training.
        shortcut: type of shortcut; "zero_pad" is option A of the paper, "projection" B, "projection_all" C, "none"
            makes the network plain.
        connection: how shortcut and branch are joined: "add", "rezero", "fixup", "highway", "mhc", ...; in Python also
            a Connection object.
        drop_path: fraction of samples that skip the last branch while training; earlier branches linearly less.
        drop_path_rule: rule of drop path: "timm" drops per sample, "paper" per batch.
        ndim: dimensions of the input: 1 for sequences, 2 for images, 3 for video and volumes.
        time_padding: padding along time in a 3-D network: zeros, or the outermost frame repeated.
        num_classes: number of classes.
        in_channels: channels of the input.
        dropout: fraction of features dropped before the head while training.
        zero_init_residual: start each branch at zero.
        checkpoint_blocks: keep only the inputs of blocks and recompute the rest in the backward pass, which takes less
            memory and more time.

    Raises:
        RequestError: for an unknown choice (with the closest match), or a combination that makes no network.

    Example:
        >>> Architecture(block="bottleneck", num_blocks=(3, 4, 6, 3)).depth
        50
    """

    block: BlockKind
    num_blocks: tuple[Count, ...]
    widths: tuple[Count, ...] = (64, 128, 256, 512)
    stem: StemKind = "imagenet"
    stem_width: Count = 64
    groups: Count = 1
    width_per_group: Count = 64
    stride_on: Literal["3x3", "1x1"] = "3x3"
    stride_in: Literal["first", "last"] = "first"
    order: Order = "post"
    norm: NormKind = "batch"
    conv: ConvKind = "plain"
    conv_bias: Literal["auto", "none", "last", "all"] = "auto"
    activation: ActivationKind = "relu"
    attention: AttentionKind = "none"
    block_dropout: Fraction = 0.0
    shortcut: ShortcutKind = "projection"
    connection: SkipValidation[str | Connection] = "add"  # find_connection says what is wrong
    drop_path: Fraction = 0.0
    drop_path_rule: DropPathRule = "timm"
    ndim: Ndim = 2
    time_padding: TimePadding = "zeros"
    num_classes: Count = 1000
    in_channels: Count = 3
    dropout: Fraction = 0.0
    zero_init_residual: bool = False
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that make no network, before anything is built."""
        check_dimensions(self)
        check_connection(self)
        if self.zero_init_residual:
            check_zero_init(self)

    @property
    def biased_convs(self) -> ConvBias:
        if self.conv_bias == "auto":
            return "all" if self.norm == "none" else "none"
        return self.conv_bias

    @property
    def layers(self) -> LayerFactory:
        from reslab.layers.nd import LayerFactory

        return LayerFactory(self.ndim, self.norm, self.conv, self.biased_convs, self.activation, self.time_padding)

    @property
    def expansion(self) -> int:
        """Output channels of a block, divided by its width."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def depth(self) -> int:
        """Weighted layers on the longest path: stem, convolutions of all branches, head."""
        return sum(self.num_blocks) * len(self.convolutions(1, 64)) + 2

    def convolutions(self, in_channels: int, width: int, stride: int = 1) -> list[Convolution]:
        """Return the convolutions of a branch."""
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

    def block_specs(self) -> list[list[BlockSpec]]:
        """Return the dimensions and position of each block of each stage."""
        stages: list[list[BlockSpec]] = []
        channels, index, since_renewal = self.stem_width, 0, 0
        for stage, (num_blocks, width) in enumerate(zip(self.num_blocks, self.widths, strict=True)):
            stages.append([])
            for block in range(num_blocks):
                spec = BlockSpec(
                    index=index,
                    num_blocks=sum(self.num_blocks),
                    since_renewal=since_renewal if block == 0 else block,
                    in_channels=channels,
                    out_channels=width * self.expansion,
                    width=width,
                    layers=self.layers,
                    stride=self._stride(stage, block),
                    num_convs=len(self.convolutions(1, 64)),
                    in_place=self.order != "relu_before" or self.attention != "none",
                )
                stages[-1].append(spec)
                channels, index = spec.out_channels, index + 1
            since_renewal = num_blocks
        return stages

    def _stride(self, stage: int, block: int) -> int:
        """2 where the resolution is halved: between stages."""
        if self.stride_in == "first":
            return 2 if stage > 0 and block == 0 else 1
        return 2 if stage < len(self.widths) - 1 and block == self.num_blocks[stage] - 1 else 1


def check_dimensions(a: Architecture) -> None:
    if len(a.num_blocks) != len(a.widths) or not a.widths:
        raise RequestError(
            f"num_blocks and widths need one number per stage, got {len(a.num_blocks)} and {len(a.widths)} numbers."
        )
    if a.block != "bottleneck" and (a.groups, a.width_per_group, a.stride_on) != (1, 64, "3x3"):
        raise RequestError(
            f"groups, width_per_group and stride_on='1x1' apply to bottleneck blocks only; this network has {a.block!r}"
            " blocks."
        )
    if a.block == "bottleneck" and (split := [w for w in a.widths if w * a.width_per_group % 64]):
        raise RequestError(
            f"width_per_group={a.width_per_group} gives a fraction of a channel per group in a stage of width"
            f" {split[0]}: {split[0]} * {a.width_per_group} / 64."
        )
    if a.block == "single" and a.block_dropout:
        raise RequestError("block_dropout acts between two convolutions, and a 'single' block has only one.")
    if a.time_padding == "replicate" and a.ndim != 3:
        raise RequestError(f"time_padding='replicate' is for 3-D networks only, got ndim={a.ndim}.")


def check_connection(a: Architecture) -> None:
    connection = find_connection(a.connection)
    if a.shortcut == "none" and connection != find_connection("add"):
        raise RequestError(
            f"A plain network has no shortcut to join, got connection {a.connection!r}. Leave it out, or choose a"
            " shortcut such as 'zero_pad' or 'projection'."
        )
    if a.shortcut == "none" and a.drop_path:
        raise RequestError("drop_path drops whole branches, and a plain network has nothing else. Leave drop_path out.")
    for field, wanted in connection.implies.items():
        if field != "shortcut" and (got := getattr(a, field)) != wanted:
            raise RequestError(
                f"Connection {a.connection!r} is made for {field}={wanted!r}, got {got!r}. Leave {field} out."
            )


def check_zero_init(a: Architecture) -> None:
    if a.shortcut == "none":
        raise RequestError("zero_init_residual would silence a plain network: without shortcuts its output would be 0.")
    if a.order == "relu_before":
        raise RequestError(
            "zero_init_residual would silence the branches permanently: in order 'relu_before' they end in an"
            " activation, which passes back no gradient at 0."
        )
    if find_connection(a.connection).zero_start:
        raise RequestError(
            f"Connection {a.connection!r} starts each branch at zero by itself. Leave zero_init_residual out."
        )
    if a.order in ("bn_after", "pre") and a.conv == "standardised":
        raise RequestError(
            "zero_init_residual sets the last weight of a branch to zero, which a standardised convolution can't have."
        )


def change(architecture: Architecture, num_classes: int | None = None, **changes: object) -> Architecture:
    """Return the architecture with other choices; a connection brings those that it is made for.

    Args:
        architecture: stays as it is.
        num_classes: K; by default as before.
        changes: fields of ``Architecture``.

    Raises:
        RequestError: for a choice that doesn't exist (with the closest match), or doesn't go with the others.

    Example:
        >>> change(Architecture(block="basic", num_blocks=(1, 1), widths=(16, 32)), connection="fixup").norm
        'none'
    """
    choices = [field.name for field in fields(Architecture)]
    for name in changes:
        if name not in choices:
            raise unknown("choice", name, choices, hint="They are the fields of Architecture.")
    if "connection" in changes:
        changes = {**find_connection(changes["connection"]).implies, **changes}  # type: ignore[arg-type]
    if num_classes is not None:
        changes["num_classes"] = num_classes
    return replace(architecture, **changes)  # type: ignore[arg-type]
