"""The structure of a network: enough to print or draw it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LAYERS = "layers"
"""Kind of layers in a row that belong to no block."""
LayerKind = Literal["conv", "linear", "norm", "activation", "pool", "attention", "other"]


@dataclass(frozen=True)
class LayerRecord:
    """One layer, as a diagram labels it.

    Args:
        kind: what sort of layer.
        text: such as ``"3x3 conv, 64, /2"`` or ``"batch norm"``; its parts are separated by ``", "``.
    """

    kind: LayerKind
    text: str


@dataclass(frozen=True)
class BlockRecord:
    """A run of equal blocks: one described, and how many there are. Numbers are of one block.

    Args:
        name: of the first block, such as ``layer1.0``.
        last: name of the last one.
        count: how many.
        kind: ``SingleBlock``, ``BasicBlock``, ``Bottleneck``, or what its class is called; ``LAYERS`` for layers in no
            block.
        in_shape: channels and resolution of one sample, such as (64, 56, 56).
        out_shape: the same of the result.
        entry: layers before the way forks.
        branch: layers of F(x) in executed order.
        shortcut: ``identity``, ``zero_pad``, ``projection``, ``projection_pool``, ``subsample``, ``other``; ``none`` of
            a plain block; ``inside`` where the block's inner ways are not told apart.
        shortcut_layers: layers of S(x).
        junction: how both are joined, in words; empty without a shortcut.
        after: layers that follow the junction.
        num_parameters: all of them.
        macs: multiply-accumulates of convolutions and linear layers for one sample.
    """

    name: str
    last: str
    count: int
    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    entry: tuple[LayerRecord, ...]
    branch: tuple[LayerRecord, ...]
    shortcut: str
    shortcut_layers: tuple[LayerRecord, ...]
    junction: str
    after: tuple[LayerRecord, ...]
    num_parameters: int
    macs: int


@dataclass(frozen=True)
class StageRecord:
    """Stem, stage or head: layers in a row, or blocks in a row.

    Args:
        name: such as ``layer1``.
        in_shape: channels and resolution of one sample.
        out_shape: the same of the result.
        layers: of a stem or head; empty in a stage.
        blocks: runs of equal blocks; empty in a stem or head.
        num_parameters: of all its blocks together.
        macs: of all its blocks together.
    """

    name: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    layers: tuple[LayerRecord, ...]
    blocks: tuple[BlockRecord, ...]
    num_parameters: int
    macs: int


@dataclass(frozen=True)
class StructureRecord:
    """What a network is made of, equal blocks folded: enough to print or draw it.

    Args:
        name: of the network.
        in_shape: channels and resolution of one sample.
        depth: convolutions and linear layers in a row, those of shortcuts and attention not counted.
        num_parameters: all of them.
        macs: multiply-accumulates of convolutions and linear layers for one sample.
        stages: stem, stages and head in executed order.
    """

    name: str
    in_shape: tuple[int, ...]
    depth: int
    num_parameters: int
    macs: int
    stages: tuple[StageRecord, ...]
