"""What can be chosen about the layers of a network, by name, and where a block stands in it.

Nothing here imports torch, so that the config and the command line's help can read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from reslab.layers.nd import LayerFactory

Ndim = Literal[1, 2, 3]

NormKind = Literal["batch", "group", "layer", "frozen_batch", "none"]
"""``group`` has 32 groups; ``layer`` is over channels and positions of a sample; ``frozen_batch`` keeps its statistics
and parameters."""

ConvKind = Literal["plain", "standardised", "scaled"]
"""``standardised``: each filter has mean 0 and variance 1; ``scaled``: besides, variance gain / fan_in."""

ConvBias = Literal["none", "last", "all"]
"""``last``: those convolutions whose result is added to the stream."""

ActivationKind = Literal["relu", "silu", "gelu"]

AttentionKind = Literal["none", "se", "eca"]
"""``se`` is squeeze-and-excite, ``eca`` its form with one short convolution."""

TimePadding = Literal["zeros", "replicate"]

StemKind = Literal["imagenet", "tensorflow", "deep", "deep_tiered", "small"]
"""``imagenet``: 7x7, stride 2, then max-pool. ``tensorflow``: the same, the pool padded with zeros. ``deep`` (ResNet-C
and -D): three 3x3, the first with stride 2, then max-pool. ``deep_tiered``: the same, widths 3/8, 1/2, 1. ``small``:
one 3x3."""

ShortcutKind = Literal[
    "identity", "zero_pad", "zero_pad_both", "projection", "projection_pool", "projection_all", "none"
]
"""``zero_pad`` is option A of the paper, ``projection`` option B, ``projection_all`` option C, ``none`` the plain twin.

``zero_pad_both`` is option A with the new channels split before and after the old ones, as the widespread CIFAR weights
of akamaster/pytorch_resnet_cifar10 expect it. ``projection_pool`` is option B of ResNet-D: a mean takes the stride.
"""
SHORTCUT_KINDS: tuple[ShortcutKind, ...] = get_args(ShortcutKind)

DropPathRule = Literal["timm", "paper"]
"""``timm``: one draw per sample, kept branches are scaled up, eval drops nothing. ``paper``: one draw per batch,
nothing is scaled in training, eval scales branches down by the fraction that was kept."""


@dataclass(frozen=True)
class BlockSpec:
    """Dimensions and position of one block.

    Args:
        index: of the block in the network, from 0.
        num_blocks: L, blocks of the network.
        since_renewal: blocks since the variance of the stream was last renewed: those before this one in its stage, or
            at the first of a stage those of the stage before.
        in_channels: channels of x.
        out_channels: channels of the result.
        width: of the stage.
        layers: makes the layers.
        stride: of the block.
        num_convs: m, convolutions of the branch.
        in_place: whether the junction may write its result over the branch: not where the branch ends in an
            activation, whose derivative needs it.
    """

    index: int
    num_blocks: int
    since_renewal: int
    in_channels: int
    out_channels: int
    width: int
    layers: LayerFactory
    stride: int = 1
    num_convs: int = 2
    in_place: bool = True

    @property
    def changes(self) -> bool:
        """Whether channels or resolution change here."""
        return self.stride != 1 or self.in_channels != self.out_channels
