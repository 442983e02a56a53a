"""Connections: how the blocks of a network join shortcut and branch. ``CONNECTIONS`` is the one dict of their names.

A connection is a frozen dataclass of a few numbers, whose methods answer all that a network asks about its kind. What
joins tensors is an ``nn.Module`` in ``junction.py``, imported only where one is made: this file doesn't import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from reslab.errors import RequestError, unknown
from reslab.layers.spec import BlockSpec

if TYPE_CHECKING:
    from torch import nn

    from reslab.layers.junction import HyperConnection
    from reslab.layers.nd import LayerFactory

AtStart = Literal["identity", "addition", "other"]


class Connection:
    """How the blocks of a network join shortcut and branch: the base of all kinds, and of one of your own.

    ``make_junction`` is all that a kind has to write. The other methods are for kinds that ask for more, such as other
    norms, other initial values or several streams. Make it a frozen dataclass, so that networks can be compared.

    Attributes:
        implies: choices of the architecture that come with it, such as ``norm="none"``.
        at_start: what a block with an identity shortcut computes before training, up to the activation that follows:
            the ``"identity"``, the ``"addition"`` of shortcut and branch, or something ``"other"``.
        attention_gain: constant factor of channel attention.
        zero_start: whether it starts branches and head at zero, in place of ``zero_init_residual``.
    """

    attention_gain = 1.0
    zero_start = False

    @property
    def implies(self) -> Mapping[str, object]:
        return {}

    @property
    def at_start(self) -> AtStart:
        return "addition"

    def make_junction(self, spec: BlockSpec) -> nn.Module:
        """Make what joins the two at this block: a module that is called with ``(shortcut, branch)``."""
        raise NotImplementedError(f"{type(self).__name__} has no make_junction")

    def has_shortcut(self, spec: BlockSpec) -> bool:
        """Whether this block has one; else it is plain."""
        return True

    def make_streams(self, spec: BlockSpec) -> HyperConnection | None:
        """Make what connects this block to several streams in place of shortcut and junction, if anything."""
        return None

    def make_norm(self, layers: LayerFactory, channels: int, *, ends_branch: bool = False) -> nn.Module:
        """Make what stands at the place of a norm, after the stem's convolution too."""
        return layers.make_norm(channels)

    def make_bias(self) -> nn.Module | None:
        """Make what stands before each convolution of a branch and before the head, if anything."""
        return None

    def make_input_scale(self, spec: BlockSpec) -> nn.Module | None:
        """Make what scales the input of this block's branch, if anything."""
        return None

    def initialise(self, block: Any, spec: BlockSpec) -> None:
        """Change the initial values of a block, whose layers have the usual ones and whose junction its own."""


@dataclass(frozen=True)
class Addition(Connection):
    """``shortcut + branch``.

    Reference:
        He et al. 2015, arXiv:1512.03385, eq. 1.
    """

    def make_junction(self, spec: BlockSpec) -> nn.Module:
        from reslab.layers.junction import Add

        return Add(in_place=spec.in_place)


@dataclass(frozen=True)
class Scaling(Connection):
    """``shortcut * constant + branch * scale``, the scale a constant or learned.

    Args:
        branch: factor of the branch, at the start if it is learned.
        shortcut: constant factor of the shortcut.
        learned: ``"no"``, one ``"scalar"`` per block, or one number per ``"channel"``.
        depth_power: the branch's factor is divided by L to this power; 1/2 keeps the variance bounded.
        norm_free: made for networks without norms.

    Reference:
        SkipInit: De and Smith 2020, arXiv:2002.10444, sec. 4. ReZero: Bachlechner et al. 2020, arXiv:2003.04887, eq. 1.
        LayerScale: Touvron et al. 2021, arXiv:2103.17239, sec. 2. Inception: Szegedy et al. 2016, arXiv:1602.07261,
        sec. 3.3. 1 / sqrt(L): Yang et al. 2023, arXiv:2310.02244. Constants: He et al. 2016, arXiv:1603.05027, Table 1.
    """

    branch: float = 1.0
    shortcut: float = 1.0
    learned: Literal["no", "scalar", "channel"] = "no"
    depth_power: float = 0.0
    norm_free: bool = False

    @property
    def implies(self) -> Mapping[str, object]:
        return {"norm": "none"} if self.norm_free else {}

    @property
    def at_start(self) -> AtStart:
        if (self.shortcut, self.branch) == (1, 0):
            return "identity"
        return "addition" if (self.shortcut, self.branch, self.depth_power) == (1, 1, 0) else "other"

    def make_junction(self, spec: BlockSpec) -> nn.Module:
        from reslab.layers.junction import ScaledAdd

        gain = self.branch / spec.num_blocks**self.depth_power
        return ScaledAdd(
            shortcut_gain=self.shortcut, branch_gain=gain, learned=self.learned, channels=spec.out_channels
        )


@dataclass(frozen=True)
class Gating(Connection):
    """``(1 - g) * shortcut + g * branch``, or with ``exclusive=False`` the branch ungated; g by a 1x1 convolution.

    Args:
        bias: of the gate at the start.
        exclusive: whether the branch gets the rest, or all of itself.

    Reference:
        He et al. 2016, arXiv:1603.05027, sec. 3.1 and Table 1: of the biases 0 to -10, -6 was best for both.

    Deviates:
        The gate's weights start at zero, so that the gain of the shortcut at the start is exactly 1 - sigmoid(bias);
        the papers don't say. Where the dimensions change the gate reads the shortcut's result, and not x, which has
        others.
    """

    bias: float = -6.0
    exclusive: bool = True

    at_start = "other"

    def make_junction(self, spec: BlockSpec) -> nn.Module:
        from reslab.layers.junction import GatedAdd

        return GatedAdd(spec.out_channels, bias=self.bias, exclusive=self.exclusive, layers=spec.layers)


@dataclass(frozen=True)
class Highway(Connection):
    """``(1 - T) * x + T * H(x)`` with a 3x3 gate; H ends in its activation. Made for networks without norms.

    Args:
        bias: of the gate at the start; deeper networks want it lower.

    Reference:
        Srivastava et al. 2015, arXiv:1505.00387, eq. 3 and sec. 2.2.

    Deviates:
        H is the block's branch, of as many convolutions as the block has; the paper's has one (block ``"single"``).
        Where the dimensions change the block is plain, as in the paper.
    """

    bias: float = -2.0

    implies = MappingProxyType({"norm": "none", "order": "relu_before"})
    at_start = "other"

    def make_junction(self, spec: BlockSpec) -> nn.Module:
        from reslab.layers.junction import GatedAdd

        return GatedAdd(spec.out_channels, bias=self.bias, kernel=3, layers=spec.layers)

    def has_shortcut(self, spec: BlockSpec) -> bool:
        return not spec.changes


@dataclass(frozen=True)
class ShortcutDropout(Connection):
    """``dropout(shortcut) + branch``.

    Args:
        rate: fraction of the shortcut's elements dropped while training.

    Reference:
        He et al. 2016, arXiv:1603.05027, sec. 3.1 and Table 1: it fails.
    """

    rate: float = 0.5

    def make_junction(self, spec: BlockSpec) -> nn.Module:
        from reslab.layers.junction import DroppedShortcutAdd

        return DroppedShortcutAdd(self.rate)


@dataclass(frozen=True)
class Fixup(Addition):
    """Addition in a network without norms that trains by its initial values and a few scalars.

    The last convolution of each branch and the head start at zero, the other convolutions of a branch are scaled by
    L^(-1 / (2m - 2)); a scalar bias stands before each convolution and activation, a scalar factor ends each branch.

    Reference:
        Zhang et al. 2019, arXiv:1901.09321, sec. 3.
    """

    implies = MappingProxyType({"norm": "none", "conv_bias": "none", "order": "post"})
    at_start = "identity"
    zero_start = True

    def make_norm(self, layers: LayerFactory, channels: int, *, ends_branch: bool = False) -> nn.Module:
        from reslab.layers.branch import ScalarAffine, ScalarBias

        return ScalarAffine() if ends_branch else ScalarBias()

    def make_bias(self) -> nn.Module:
        from reslab.layers.branch import ScalarBias

        return ScalarBias()

    def initialise(self, block: Any, spec: BlockSpec) -> None:
        *others, last = (getattr(block, f"conv{index}") for index in range(1, spec.num_convs + 1))
        for conv in others:
            conv.weight.mul_(spec.num_blocks ** (-1 / (2 * spec.num_convs - 2)))
        last.weight.zero_()


@dataclass(frozen=True)
class NormFree(Connection):
    """``shortcut + alpha * F(act(x) * beta)``: the network without norms whose variance is known at every block.

    beta is one over the expected deviation of x, convolutions have scaled standardised weights.

    Args:
        alpha: factor of the branch.

    Reference:
        Brock et al. 2021, arXiv:2101.08692, sec. 3; arXiv:2102.06171, sec. 4.
    """

    alpha: float = 0.2

    implies = MappingProxyType(
        {"norm": "none", "conv": "scaled", "conv_bias": "all", "order": "pre", "shortcut": "projection_pool"}
    )
    at_start = "identity"
    attention_gain = 2.0

    def make_junction(self, spec: BlockSpec) -> nn.Module:
        from reslab.layers.junction import ScaledAdd

        return ScaledAdd(branch_gain=self.alpha)

    def make_input_scale(self, spec: BlockSpec) -> nn.Module:
        from reslab.layers.branch import Multiply

        return Multiply(self.beta(spec))

    def beta(self, spec: BlockSpec) -> float:
        """Return one over the expected deviation of x: the variance grows by alpha^2 per block, a stage renews it."""
        return float((1 + spec.since_renewal * self.alpha**2) ** -0.5)

    def initialise(self, block: Any, spec: BlockSpec) -> None:
        getattr(block, f"conv{spec.num_convs}").gain.zero_()


@dataclass(frozen=True)
class Streams(Addition):
    """Hyper-connections: n streams instead of one, inside each stage; where the dimensions change, addition.

    Args:
        kind: coefficients that are ``"static"``, ``"dynamic"``, or dynamic on the ``"manifold"`` of doubly stochastic
            matrices (mHC).
        num_streams: n.

    Reference:
        Zhu et al. 2024, arXiv:2409.19606; mHC: Xie et al. 2025, arXiv:2512.24880.
    """

    kind: Literal["static", "dynamic", "manifold"] = "static"
    num_streams: int = 4

    @property
    def at_start(self) -> AtStart:
        return "other" if self.kind == "manifold" and self.num_streams > 1 else "addition"

    def make_streams(self, spec: BlockSpec) -> HyperConnection | None:
        from reslab.layers import junction

        if spec.changes:
            return None
        if self.kind == "static":
            return junction.StaticStreams(self.num_streams, home=spec.index)
        streams = junction.DynamicStreams if self.kind == "dynamic" else junction.ManifoldStreams
        return streams(spec.out_channels, self.num_streams, home=spec.index)


CONNECTIONS: dict[str, Connection] = {
    "add": Addition(),
    # one scaled addition
    "skipinit": Scaling(branch=0.0, learned="scalar", norm_free=True),
    "rezero": Scaling(branch=0.0, learned="scalar"),
    "layer_scale": Scaling(branch=1e-5, learned="channel"),
    "inception_scale": Scaling(branch=0.2),
    "unit_variance": Scaling(branch=0.5**0.5, shortcut=0.5**0.5),  # 1 / sqrt(2)
    "depth_scale": Scaling(depth_power=0.5),  # 1 / sqrt(L)
    # the shortcut modifiers of the identity mappings paper, Table 1
    "constant_half": Scaling(branch=0.5, shortcut=0.5),
    "constant_half_shortcut": Scaling(shortcut=0.5),
    "exclusive_gate": Gating(),
    "shortcut_gate": Gating(exclusive=False),
    "shortcut_dropout": ShortcutDropout(),
    "highway": Highway(),
    # without norms
    "fixup": Fixup(),
    "norm_free": NormFree(),
    # many streams
    "hyper": Streams(),
    "dynamic_hyper": Streams(kind="dynamic"),
    "mhc": Streams(kind="manifold"),
}
"""Every named connection; an object with other numbers is accepted wherever a name is."""


def find_connection(connection: str | Connection) -> Connection:
    """Return the connection of that name, or the object itself.

    Raises:
        RequestError: for an unknown name, or an object that is not a ``Connection``.
    """
    if isinstance(connection, Connection):
        return connection
    if not isinstance(connection, str):
        raise RequestError(f"connection takes a name such as 'rezero', or a Connection, got {connection!r}.")
    if connection not in CONNECTIONS:
        raise unknown("connection", connection, CONNECTIONS)
    return CONNECTIONS[connection]
