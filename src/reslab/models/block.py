"""The one block: a branch, a shortcut, and the junction that joins them.

``x_next = after(junction(shortcut(x), branch(x)))``. Every kind of residual block is a choice of those parts.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position, n streams.
"""

from __future__ import annotations

from torch import Tensor, nn

from reslab.layers.attention import make_attention
from reslab.layers.connections import Fixup, Highway, NormFree, Site, Streams
from reslab.layers.drop_path import drop_rates, make_drop_path
from reslab.layers.fixup import Multiply, ScalarAffine, ScalarBias
from reslab.layers.junction import BranchOnly
from reslab.layers.shortcut import make_shortcut
from reslab.models.architecture import Architecture, Order

ORDERS: dict[Order, tuple[tuple[str, str, str], int, int]] = {
    # order: (what a convolution comes with, steps before the branch, steps after the junction)
    "post": (("conv", "bn", "act"), 0, 1),
    "bn_after": (("conv", "bn", "act"), 0, 2),
    "relu_before": (("conv", "bn", "act"), 0, 0),
    "relu_only": (("act", "conv", "bn"), 1, 0),
    "pre": (("bn", "act", "conv"), 2, 0),
}
"""The five orders of He et al. 2016, arXiv:1603.05027, Fig. 4: one sequence of norms, activations and convolutions, cut
at the places where the stream is read and where it is joined again."""


class Block(nn.Module):
    """A residual block, or with shortcut ``"none"`` the block of a plain network.

    ``steps`` names the branch's layers in order; ``entry_steps`` those before it, which a shortcut that changes the
    dimensions shares; ``after_steps`` those after the junction.

    Args:
        architecture: what kind of block.
        site: where it stands: its dimensions, and how deep.

    Shape:
        x (N, C_in, *) -> (N, C_out, ceil(* / stride)); in a stage with streams (n, N, C, *) -> (n, N, C, *)

    Reference:
        He et al. 2015, arXiv:1512.03385, Fig. 5; the orders: He et al. 2016, arXiv:1603.05027, Fig. 4.

    Deviates:
        The papers leave open what a shortcut reads where the dimensions change in the orders that start with an
        activation. Here it is the activated input, as in the authors' code for the full pre-activation.
    """

    def __init__(self, architecture: Architecture, site: Site) -> None:
        super().__init__()
        self.entry_steps, self.steps, self.after_steps = steps_of(architecture, site)
        self.add_branch(architecture, site)
        self.add_shortcut(architecture, site)
        self.add_junction(architecture, site)

    def add_branch(self, architecture: Architecture, site: Site) -> None:
        """The layers that ``steps`` name."""
        parts = architecture.parts
        specs = architecture.convolutions(site.in_channels, site.width, site.stride)
        fixup = isinstance(architecture.joined, Fixup)
        for index, spec in enumerate(specs, start=1):
            if fixup:
                setattr(self, f"bias{index}", ScalarBias())
            last = index == len(specs)
            conv = parts.make_conv(
                spec.in_channels, spec.out_channels, spec.kernel, stride=spec.stride, groups=spec.groups, last=last
            )
            setattr(self, f"conv{index}", conv)
            channels = spec.in_channels if architecture.order == "pre" else spec.out_channels
            stand_in = ScalarAffine() if last else ScalarBias()
            setattr(self, f"bn{index}", stand_in if fixup else parts.make_norm(channels))
        self.act = parts.make_activation()
        if "entry_act" in self.entry_steps:  # what it reads is also the shortcut's, unless a norm stands between
            in_place = architecture.order == "pre" and parts.norm != "none"
            self.entry_act = parts.make_activation(in_place=in_place)
        if isinstance(architecture.joined, NormFree):
            self.beta = Multiply(architecture.joined.beta(site))
        if architecture.block_dropout:
            self.dropout = nn.Dropout(architecture.block_dropout)
        if architecture.attention != "none":
            gain = 2.0 if isinstance(architecture.joined, NormFree) else 1.0
            self.se = make_attention(architecture.attention, site.out_channels, ndim=architecture.ndim, gain=gain)

    def add_shortcut(self, architecture: Architecture, site: Site) -> None:
        """What goes past the branch. ``downsample`` is torchvision's name; its keys are a public contract."""
        kind, shared = architecture.shortcut, site.changes
        if architecture.stride_in == "last" and site.in_channels == site.out_channels and kind != "none":
            kind, shared = "zero_pad" if site.changes else kind, False  # keeps every second position, no more
        if isinstance(architecture.joined, Highway) and site.changes:
            kind = "none"
        self.shares_entry = shared
        self.downsample = make_shortcut(
            kind,
            site.in_channels,
            site.out_channels,
            stride=site.stride,
            parts=architecture.parts,
            norm=architecture.order != "pre",
        )

    def add_junction(self, architecture: Architecture, site: Site) -> None:
        """What joins the two, and drop path, which stands before it."""
        rates = drop_rates(architecture.drop_path, site.num_blocks, rule=architecture.drop_path_rule)
        self.drop_path = make_drop_path(rates[site.index], rule=architecture.drop_path_rule)
        connection = architecture.joined
        if architecture.shortcut == "none":
            self.junction: nn.Module = BranchOnly()
        else:
            ends_in_norm_or_conv = self.steps[-1] not in ("act", "dropout")
            self.junction = connection.make_junction(site, in_place=ends_in_norm_or_conv)
        self.streams = connection.make_streams(site) if isinstance(connection, Streams) else None

    def entry(self, x: Tensor) -> Tensor:
        """What comes before the branch, and before a shortcut that changes the dimensions."""
        return self.run(self.entry_steps, x)

    def branch(self, x: Tensor) -> Tensor:
        """F(x)."""
        out: Tensor = self.drop_path(self.run(self.steps, x))
        return out

    def shortcut(self, x: Tensor) -> Tensor | None:
        """S(x); None in a plain block."""
        out: Tensor | None = self.downsample(x)
        return out

    def after(self, x: Tensor) -> Tensor:
        """What follows the junction."""
        return self.run(self.after_steps, x)

    def forward(self, x: Tensor) -> Tensor:
        """One block, one line."""
        if self.streams is not None:
            return self.forward_streams(x)
        entered = self.entry(x)
        return self.after(self.junction(self.shortcut(entered if self.shares_entry else x), self.branch(entered)))

    def forward_streams(self, streams: Tensor) -> Tensor:
        """The block on n streams: reads one mixture, writes to all."""
        assert self.streams is not None
        x, mix = self.streams.read(streams)
        streams = self.streams.write(streams, self.branch(self.entry(x)), mix)
        flat = self.after(streams.flatten(0, 1))  # (n, N, C, *) -> (n * N, C, *)
        return flat.reshape(*streams.shape[:2], *flat.shape[1:])

    def run(self, steps: tuple[str, ...], x: Tensor) -> Tensor:
        """The layers of these names, one after the other."""
        for step in steps:
            x = getattr(self, step)(x)
        return x

    def extra_repr(self) -> str:
        """What ``print`` shows: the order in which the layers run."""
        return " ".join((*self.entry_steps, "|", *self.steps, "|", *self.after_steps))


def steps_of(architecture: Architecture, site: Site) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of the layers before the branch, of the branch, and after the junction.

    Example:
        >>> a = Architecture("basic", (1,), (64,), order="pre")
        >>> steps_of(a, a.sites()[0][0])
        (('bn1', 'entry_act'), ('conv1', 'bn2', 'act', 'conv2'), ())
    """
    unit, num_entry, num_after = ORDERS[architecture.order]
    sequence: list[str] = []
    for index in range(1, site.num_convs + 1):
        names = [name if name == "act" else f"{name}{index}" for name in unit]
        sequence += [f"bias{index}", *names] if isinstance(architecture.joined, Fixup) else names
    if architecture.block_dropout:
        sequence.insert(sequence.index(f"conv{site.num_convs}"), "dropout")
    if isinstance(architecture.joined, Fixup):
        num_entry = 1
    entry = ["entry_act" if name == "act" else name for name in sequence[:num_entry]]
    if isinstance(architecture.joined, NormFree):
        entry.append("beta")
    end = len(sequence) - num_after
    attention = [] if architecture.attention == "none" else ["se"]
    return tuple(entry), (*sequence[num_entry:end], *attention), tuple(sequence[end:])


def last_layer(block: Block) -> nn.Module:
    """The last norm or convolution of the branch: where a branch is zeroed."""
    layers = [getattr(block, name) for name in block.steps if name.startswith(("conv", "bn"))]
    found: nn.Module = [layer for layer in layers if not isinstance(layer, nn.Identity)][-1]
    return found
