"""Connections: every way of joining shortcuts to branches, by name. ``CONNECTIONS`` is the one dict of them.

A connection is a frozen record of a few numbers. It makes the junction of each block, and declares what it adds: how
many parameters, whether a block starts as the identity, and the gain of its shortcut at the start. It may ask for
certain choices of the architecture (``implies``): Fixup, for one, is made for networks without norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol

from torch import nn

from reslab.errors import unknown
from reslab.layers.junction import Add, BranchOnly, DroppedShortcutAdd, GatedAdd, ScaledAdd
from reslab.layers.nd import Parts
from reslab.layers.streams import DynamicStreams, ManifoldStreams, StaticStreams


@dataclass(frozen=True)
class Site:
    """Where a block stands.

    Args:
        index: of the block in the network, from 0.
        num_blocks: L, blocks of the network.
        run: blocks since the stream was last renewed: those before this one in its stage, or at the first of a stage
            those of the stage before.
        in_channels: channels of x.
        out_channels: channels of the result.
        width: of the stage.
        stride: of the block.
        num_convs: convolutions of the branch.
        parts: makes the layers.
    """

    index: int
    num_blocks: int
    run: int
    in_channels: int
    out_channels: int
    width: int
    stride: int = 1
    num_convs: int = 2
    parts: Parts = field(default_factory=Parts)

    @property
    def changes(self) -> bool:
        """Whether channels or resolution change here."""
        return self.stride != 1 or self.in_channels != self.out_channels


Start = Literal["identity", "addition", "else"]

NOTHING: Mapping[str, object] = MappingProxyType({})


class Connection(Protocol):
    """What every kind declares.

    Attributes:
        implies: choices of the architecture that it is made for.
        at_start: what a block with an identity shortcut is before training, up to the activation that follows: the
            ``"identity"``, ``"addition"`` of shortcut and branch, or something ``"else"``.
    """

    @property
    def implies(self) -> Mapping[str, object]: ...

    @property
    def at_start(self) -> Start: ...

    def make_junction(self, site: Site, *, in_place: bool) -> nn.Module:
        """What joins shortcut and branch at this block; ``in_place`` allows writing over the branch."""
        ...

    def extra_parameters(self, site: Site) -> int:
        """Parameters of the block beyond those of the same block joined by addition."""
        ...

    def shortcut_gain(self, site: Site) -> float:
        """Factor of the shortcut at the start."""
        ...


@dataclass(frozen=True)
class Addition:
    """``shortcut + branch``.

    Reference:
        He et al. 2015, arXiv:1512.03385, eq. 1.
    """

    implies = NOTHING
    at_start: ClassVar[Start] = "addition"

    def make_junction(self, site: Site, *, in_place: bool) -> nn.Module:
        """``Add``."""
        return Add(in_place=in_place)

    def extra_parameters(self, site: Site) -> int:
        """None."""
        return 0

    def shortcut_gain(self, site: Site) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Scaling:
    """``shortcut * shortcut_factor + branch * scale``: one record for every scaled addition.

    Args:
        branch: factor of the branch, at the start if it is learned.
        shortcut: constant factor of the shortcut.
        learned: ``"no"``, one ``"scalar"`` a block, or one number a ``"channel"``.
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
        """No norms, for SkipInit."""
        return {"norm": "none"} if self.norm_free else NOTHING

    @property
    def at_start(self) -> Start:
        """The identity if the branch starts at zero, addition if it starts whole."""
        numbers = (self.shortcut, self.branch, self.depth_power)
        return "identity" if numbers[:2] == (1, 0) else "addition" if numbers == (1, 1, 0) else "else"

    def make_junction(self, site: Site, *, in_place: bool) -> nn.Module:
        """``ScaledAdd``."""
        gain = self.branch / site.num_blocks**self.depth_power
        return ScaledAdd(
            shortcut_gain=self.shortcut, branch_gain=gain, learned=self.learned, channels=site.out_channels
        )

    def extra_parameters(self, site: Site) -> int:
        """None, 1 or C."""
        return {"no": 0, "scalar": 1, "channel": site.out_channels}[self.learned]

    def shortcut_gain(self, site: Site) -> float:
        """The constant."""
        return self.shortcut


@dataclass(frozen=True)
class Gating:
    """``(1 - g) * shortcut + g * branch``, or with ``exclusive=False`` the branch ungated; g by a 1x1 convolution.

    Args:
        bias: of the gate at the start.
        exclusive: whether the branch gets the other share.

    Reference:
        He et al. 2016, arXiv:1603.05027, sec. 3.1 and Table 1: of the biases 0 to -10, -6 was best for both.
    """

    bias: float = -6.0
    exclusive: bool = True

    implies = NOTHING
    at_start: ClassVar[Start] = "else"

    def make_junction(self, site: Site, *, in_place: bool) -> nn.Module:
        """``GatedAdd``."""
        return GatedAdd(site.out_channels, bias=self.bias, exclusive=self.exclusive, parts=site.parts)

    def extra_parameters(self, site: Site) -> int:
        """C^2 + C."""
        return site.out_channels**2 + site.out_channels

    def shortcut_gain(self, site: Site) -> float:
        """1 - sigmoid(bias)."""
        return 1 - 1 / (1 + math.exp(-self.bias))


@dataclass(frozen=True)
class ShortcutDropout:
    """``dropout(shortcut) + branch``.

    Args:
        rate: share of the shortcut's elements dropped while training.

    Reference:
        He et al. 2016, arXiv:1603.05027, sec. 3.1 and Table 1: it fails.
    """

    rate: float = 0.5

    implies = NOTHING
    at_start: ClassVar[Start] = "addition"  # in eval mode

    def make_junction(self, site: Site, *, in_place: bool) -> nn.Module:
        """``DroppedShortcutAdd``."""
        return DroppedShortcutAdd(self.rate)

    def extra_parameters(self, site: Site) -> int:
        """None."""
        return 0

    def shortcut_gain(self, site: Site) -> float:
        """1, in expectation."""
        return 1.0


@dataclass(frozen=True)
class Highway:
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
    at_start: ClassVar[Start] = "else"

    def make_junction(self, site: Site, *, in_place: bool) -> nn.Module:
        """``GatedAdd``; where the dimensions change, the branch alone."""
        if site.changes:
            return BranchOnly()
        return GatedAdd(site.out_channels, bias=self.bias, kernel=3, parts=site.parts)

    def extra_parameters(self, site: Site) -> int:
        """3^ndim C^2 + C, or none where the dimensions change."""
        return 0 if site.changes else 3**site.parts.ndim * site.out_channels**2 + site.out_channels

    def shortcut_gain(self, site: Site) -> float:
        """1 - sigmoid(bias), or 0 where the dimensions change."""
        return 0.0 if site.changes else 1 - 1 / (1 + math.exp(-self.bias))


@dataclass(frozen=True)
class Fixup(Addition):
    """Addition in a network without norms that trains by its initial values and a few scalars.

    The last convolution of each branch and the head start at zero, the other convolutions of a branch are scaled by
    L^(-1 / (2m - 2)); a scalar bias stands before each convolution and activation, a scalar factor ends each branch.

    Reference:
        Zhang et al. 2019, arXiv:1901.09321, sec. 3.
    """

    implies = MappingProxyType({"norm": "none", "conv_bias": "none", "order": "post"})
    at_start: ClassVar[Start] = "identity"

    def extra_parameters(self, site: Site) -> int:
        """2m scalar biases and a factor, m convolutions."""
        return 2 * site.num_convs + 1


@dataclass(frozen=True)
class NormFree:
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
    at_start: ClassVar[Start] = "identity"

    def make_junction(self, site: Site, *, in_place: bool) -> nn.Module:
        """``ScaledAdd``."""
        return ScaledAdd(branch_gain=self.alpha)

    def beta(self, site: Site) -> float:
        """One over the expected deviation of x: the variance grows by alpha^2 a block, and each stage renews it."""
        return float((1 + site.run * self.alpha**2) ** -0.5)

    def extra_parameters(self, site: Site) -> int:
        """None; the convolutions' gains are counted with the convolutions."""
        return 0

    def shortcut_gain(self, site: Site) -> float:
        """1."""
        return 1.0


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
    def at_start(self) -> Start:  # type: ignore[override]
        """Addition, but for mHC, which starts near it."""
        return "else" if self.kind == "manifold" and self.num_streams > 1 else "addition"

    def make_streams(self, site: Site) -> StaticStreams | ManifoldStreams | None:
        """What connects this block to the streams; None where the dimensions change."""
        if site.changes:
            return None
        if self.kind == "static":
            return StaticStreams(self.num_streams, home=site.index)
        kind = DynamicStreams if self.kind == "dynamic" else ManifoldStreams
        return kind(site.out_channels, self.num_streams, home=site.index)

    def extra_parameters(self, site: Site) -> int:
        """n^2 + 2n static; C (n + 2) + 2 more dynamic; (n^2 + 2n)(nC + 1) + 3 for mHC."""
        n, channels = self.num_streams, site.out_channels
        static = n * n + 2 * n
        counts = {
            "static": static,
            "dynamic": static + channels * (n + 2) + 2,
            "manifold": static * (n * channels + 1) + 3,
        }
        return 0 if site.changes else counts[self.kind]


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
"""Every connection that goes by name; an object with other numbers is accepted wherever a name is."""


def find_connection(connection: str | Connection) -> Connection:
    """The connection of that name, or the object itself.

    Raises:
        RequestError: for an unknown name.
    """
    if not isinstance(connection, str):
        return connection
    if connection not in CONNECTIONS:
        raise unknown("connection", connection, CONNECTIONS)
    return CONNECTIONS[connection]
