"""The one block: a branch, a shortcut, and the junction that joins them.

``x_next = after(junction(shortcut(x), branch(x)))``. Every kind of residual block is a choice of those parts.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position, n streams.
"""

from __future__ import annotations

from torch import Tensor, nn

from reslab.layers.branch import DropPath, EfficientChannelAttention, SqueezeExcite, drop_rates
from reslab.layers.connections import Connection, find_connection
from reslab.layers.junction import BranchOnly
from reslab.layers.shortcut import make_shortcut
from reslab.layers.spec import BlockSpec, ShortcutKind
from reslab.models.architecture import Architecture


class Block(nn.Module):
    """A residual block, or with shortcut ``"none"`` the block of a plain network.

    In every order the branch is convolutions with a norm and an activation between them. The orders differ in what
    stands before the first convolution and after the last:

    | order         | before the branch | end of the branch | after the junction |
    |---------------|-------------------|-------------------|--------------------|
    | `post`        |                   | norm              | activation         |
    | `bn_after`    |                   |                   | norm, activation   |
    | `relu_before` |                   | norm, activation  |                    |
    | `relu_only`   | activation        | norm              |                    |
    | `pre`         | norm, activation  |                   |                    |

    Args:
        architecture: what kind of block.
        spec: its dimensions and position.

    Shape:
        x (N, C_in, *) -> (N, C_out, ceil(* / stride)); in a stage with streams (n, N, C, *) -> (n, N, C, *)

    Reference:
        He et al. 2015, arXiv:1512.03385, Fig. 5; the orders: He et al. 2016, arXiv:1603.05027, Fig. 4.

    Deviates:
        The papers leave open what a shortcut reads where the dimensions change in the orders that start with an
        activation. Here it is the activated input, as in the authors' code for the full pre-activation.
    """

    # The names of layers are torchvision's: state_dict keys are a public contract.
    conv1: nn.Module
    bn1: nn.Module
    act: nn.Module
    entry_act: nn.Module

    def __init__(self, architecture: Architecture, spec: BlockSpec) -> None:
        super().__init__()
        connection = find_connection(architecture.connection)
        self.order = architecture.order
        self.num_convs = spec.num_convs
        self._add_branch(architecture, spec, connection)
        self._add_shortcut(architecture, spec, connection)

    def forward(self, x: Tensor) -> Tensor:
        """Join shortcut and branch."""
        if self.streams is not None:
            return self.forward_streams(x)
        entered = self.entry(x)
        return self.after(self.junction(self.shortcut(entered if self.shares_entry else x), self.branch(entered)))

    def entry(self, x: Tensor) -> Tensor:
        """Compute what the branch reads, and a shortcut that changes the dimensions too."""
        if self.order == "pre":
            x = self.bn1(x)
        if self.order in ("pre", "relu_only"):
            x = self.entry_act(x)
        x = x if self.beta is None else self.beta(x)
        return self.layer("bias", 1)(x) if self.has_biases else x

    def branch(self, x: Tensor) -> Tensor:
        """F(x)."""
        x = self.conv1(x)
        for index in range(2, self.num_convs + 1):
            x = self.act(self.layer("bn", index if self.order == "pre" else index - 1)(x))
            x = self.layer("bias", index)(x) if self.has_biases else x
            x = self.dropout(x) if self.dropout is not None and index == self.num_convs else x
            x = self.layer("conv", index)(x)
        if self.order in ("post", "relu_before", "relu_only"):
            x = self.layer("bn", self.num_convs)(x)
        if self.order == "relu_before":
            x = self.act(x)
        x = x if self.se is None else self.se(x)
        return self.drop_path(x)  # type: ignore[no-any-return]

    def shortcut(self, x: Tensor) -> Tensor | None:
        """S(x); None in a plain block."""
        return self.downsample(x)  # type: ignore[no-any-return]

    def after(self, x: Tensor) -> Tensor:
        """What follows the junction."""
        if self.order == "bn_after":
            x = self.layer("bn", self.num_convs)(x)
        return self.act(x) if self.order in ("post", "bn_after") else x

    def forward_streams(self, streams: Tensor) -> Tensor:
        """The block on n streams: reads one mixture, writes to all."""
        assert self.streams is not None
        x, mix = self.streams.read(streams)
        streams = self.streams(streams, self.branch(self.entry(x)), mix)
        flat = self.after(streams.flatten(0, 1))  # (n, N, C, *) -> (n * N, C, *)
        return flat.reshape(*streams.shape[:2], *flat.shape[1:])

    def layer(self, kind: str, index: int) -> nn.Module:
        """Return the layer of that name and number, such as ``conv2``."""
        return getattr(self, f"{kind}{index}")  # type: ignore[no-any-return]

    def last_layer(self) -> nn.Module:
        """Return the last norm or convolution of the branch: where a branch is zeroed."""
        norm = self.layer("bn", self.num_convs)
        ends_in_norm = self.order in ("post", "relu_before", "relu_only") and not isinstance(norm, nn.Identity)
        return norm if ends_in_norm else self.layer("conv", self.num_convs)

    def extra_repr(self) -> str:
        return f"order={self.order}"

    def _add_branch(self, architecture: Architecture, spec: BlockSpec, connection: Connection) -> None:
        layers = spec.layers
        self.has_biases = False
        for index, conv in enumerate(architecture.convolutions(spec.in_channels, spec.width, spec.stride), start=1):
            last = index == spec.num_convs
            if (bias := connection.make_bias()) is not None:
                self.has_biases = True
                self.add_module(f"bias{index}", bias)
            made = layers.make_conv(
                conv.in_channels, conv.out_channels, conv.kernel, stride=conv.stride, groups=conv.groups, last=last
            )
            self.add_module(f"conv{index}", made)
            channels = conv.in_channels if self.order == "pre" else conv.out_channels
            self.add_module(f"bn{index}", connection.make_norm(layers, channels, ends_branch=last))
        self.act = layers.make_activation()
        if self.order in ("pre", "relu_only"):
            # What it reads is also the shortcut's, unless a norm stands between.
            self.entry_act = layers.make_activation(in_place=self.order == "pre" and layers.norm != "none")
        self.beta = connection.make_input_scale(spec)
        self.dropout = nn.Dropout(architecture.block_dropout) if architecture.block_dropout else None
        self.se: nn.Module | None = None
        if architecture.attention == "se":
            self.se = SqueezeExcite(spec.out_channels, ndim=layers.ndim, gain=connection.attention_gain)
        elif architecture.attention == "eca":
            self.se = EfficientChannelAttention(spec.out_channels, gain=connection.attention_gain)

    def _add_shortcut(self, architecture: Architecture, spec: BlockSpec, connection: Connection) -> None:
        kind: ShortcutKind = architecture.shortcut if connection.has_shortcut(spec) else "none"
        subsamples = architecture.stride_in == "last" and spec.in_channels == spec.out_channels and spec.changes
        if subsamples and kind != "none":
            kind = "zero_pad"  # keeps every second position, no more
        self.shares_entry = spec.changes and not subsamples
        self.downsample = make_shortcut(
            kind,
            spec.in_channels,
            spec.out_channels,
            stride=spec.stride,
            layers=spec.layers,
            norm=self.order != "pre",
        )
        rule = architecture.drop_path_rule
        rate = drop_rates(architecture.drop_path, spec.num_blocks, rule=rule)[spec.index]
        self.drop_path = DropPath(rate, rule=rule) if rate > 0 else nn.Identity()
        self.junction = BranchOnly() if kind == "none" else connection.make_junction(spec)
        self.streams = connection.make_streams(spec)
