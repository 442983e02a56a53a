"""The residual network and its plain twin: stem, stages of blocks, head.

``ResNet`` builds any ``Architecture``; the families that have names are in ``families.py``, the block in ``block.py``.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from reslab.errors import RequestError
from reslab.layers.connections import find_connection
from reslab.layers.nd import LayerFactory, ZeroPaddedMaxPool
from reslab.layers.spec import StemKind
from reslab.models.architecture import Architecture, change
from reslab.models.block import Block
from reslab.models.features import FeatureInfo, FeaturesOnly, Indices, has_values, resolve_indices
from reslab.models.initial_values import OWN_TO_THE_CONNECTION, draw_values, start_block


class ResNet(nn.Module):
    """A residual network, or with shortcut ``"none"`` its plain twin.

    Initial values depend on the seed alone, and neither on the kind of shortcut nor on the connection: twins start
    equal. ``initial_values.py`` says what they are.

    Args:
        architecture: all choices.
        seed: of the initial values; by default it is drawn from torch's global generator.

    Shape:
        images (N, in_channels, *) -> logits (N, K)

    Example:
        >>> net = ResNet(Architecture(block="basic", num_blocks=(1, 1), widths=(64, 128), num_classes=10))
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 3; pre-activation: He et al. 2016, arXiv:1603.05027.
    """

    def __init__(self, architecture: Architecture, *, seed: int | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        layers, order, width = architecture.layers, architecture.order, architecture.stem_width
        connection = find_connection(architecture.connection)
        # Drawn before anything else consumes the global generator, so that twins draw the same number.
        self.seed = int(torch.randint(2**62, (), device="cpu")) if seed is None else seed

        self.conv1, self.maxpool = make_stem(architecture.stem, architecture.in_channels, width, layers=layers)
        # Pre-activation blocks bring the norm themselves, and those of "relu_only" the activation.
        self.bn1 = nn.Identity() if order == "pre" else connection.make_norm(layers, width)
        self.act = nn.Identity() if order in ("pre", "relu_only") else layers.make_activation()
        stages = architecture.block_specs()
        self.num_stages = len(stages)
        for index, specs in enumerate(stages, start=1):
            blocks = [Block(architecture, spec) for spec in specs]
            # A stage; torchvision's name for it is the public contract.
            self.add_module(f"layer{index}", Stage(*blocks, checkpoint=architecture.checkpoint_blocks))
        self.num_features = stages[-1][-1].out_channels
        self.feature_info = feature_info(architecture)
        self.norm = layers.make_norm(self.num_features) if order == "pre" else nn.Identity()
        self.last_act = layers.make_activation(in_place=False) if order in ("pre", "relu_only") else nn.Identity()
        self.avgpool = layers.make_global_pool()
        self.dropout = nn.Dropout(architecture.dropout)
        self.head_bias = connection.make_bias() or nn.Identity()
        self.fc: nn.Module = nn.Linear(self.num_features, architecture.num_classes)

        draw_values(self, seed=self.seed)
        for spec, (_, block) in zip([spec for specs in stages for spec in specs], self.blocks(), strict=True):
            start_block(block, spec, connection, zero_branch=architecture.zero_init_residual)
        if connection.zero_start:
            for parameter in self.fc.parameters():
                nn.init.zeros_(parameter)

    def stages(self) -> list[Stage]:
        """Return the stages in execution order."""
        return [getattr(self, f"layer{index + 1}") for index in range(self.num_stages)]

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Yield names (``layer1.0``) and blocks in execution order."""
        for index, stage in enumerate(self.stages(), start=1):
            for name, block in stage.named_children():
                assert isinstance(block, Block)
                yield f"layer{index}.{name}", block

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, *) -> logits (N, K)."""
        return self.forward_head(self.forward_features(images))

    def forward_stem(self, images: Tensor) -> Tensor:
        """Images (N, C, *) -> the stem's maps, before its pool."""
        out: Tensor = self.act(self.bn1(self.conv1(images)))
        return out

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (N, C, *) -> the last maps (N, D, *), after the last norm and activation."""
        x: Tensor = self.maxpool(self.forward_stem(images))
        for stage in self.stages():
            x = stage(x)
        out: Tensor = self.last_act(self.norm(x))
        return out

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Maps (N, D, *) -> logits (N, K), or the pooled features (N, D) with ``pre_logits``."""
        pooled: Tensor = self.dropout(self.avgpool(features).flatten(1))  # (N, D, 1, ...) -> (N, D)
        return pooled if pre_logits else self.fc(self.head_bias(pooled))

    def forward_intermediates(
        self, images: Tensor, indices: Indices = None, *, intermediates_only: bool = False
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Return the last maps, as ``forward_features``, and those of stem and stages.

        Args:
            images: (N, C, *).
            indices: which of ``feature_info``: all, the last n, or these.
            intermediates_only: return the list alone, and run no further than its last map.
        """
        wanted = resolve_indices(indices, len(self.feature_info))
        x = self.forward_stem(images)
        maps = {0: x}
        x = self.maxpool(x)
        for index, stage in enumerate(self.stages(), start=1):
            if intermediates_only and index > max(wanted, default=0):
                break
            maps[index] = x = stage(x)
        found = [maps[index] for index in wanted]
        return found if intermediates_only else (self.last_act(self.norm(x)), found)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a fresh one for K classes; 0 removes it, and logits are the pooled features.

        The head gets the values that it would have been created with for K classes. A network that is still as it was
        created becomes in every value the one that ``create_model`` makes for K classes: shortcuts that have values are
        drawn after the head, and so depend on its size.
        """
        if num_classes == 0:
            self.fc = nn.Identity()
            return
        fresh = self._recreate(change(self.architecture, num_classes))
        drawn_last = {
            name: value
            for name, value in fresh.state_dict().items()
            if value.ndim > 1 and any(part in name for part in OWN_TO_THE_CONNECTION)
        }
        if drawn_last and has_values(self, self._recreate(self.architecture).state_dict()):  # it is as it was created
            self.load_state_dict(drawn_last, strict=False)
        self.architecture, self.fc = fresh.architecture, fresh.fc

    def features_only(self, indices: Indices = None) -> FeaturesOnly:
        """Return the network as a module that gives maps of stem and stages, sharing the parameters."""
        return FeaturesOnly(self, indices)

    def _recreate(self, architecture: Architecture) -> ResNet:
        """Build what this network's seed gives, on its device and of its type."""
        like = next(self.parameters())
        with torch.random.fork_rng(devices=[]), torch.device("meta" if like.is_meta else "cpu"):
            return ResNet(architecture, seed=self.seed).to(device=like.device, dtype=like.dtype)


class Stage(nn.Sequential):
    """Blocks of one width. Streams are opened before blocks that have them, and closed after them.

    Args:
        blocks: in execution order.
        checkpoint: keep only the blocks' inputs, and recompute the rest in the backward pass.

    Shape:
        (N, C_in, *) -> (N, C_out, *)
    """

    def __init__(self, *blocks: Block, checkpoint: bool = False) -> None:
        super().__init__(*blocks)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Tensor:
        streams = None
        for block in self:
            assert isinstance(block, Block)
            if streams is None and block.streams is not None:
                x = block.streams.open(x)
            elif streams is not None and block.streams is None:
                x = streams.close(x)
            streams = block.streams
            x = recompute(block, x) if self.checkpoint and torch.is_grad_enabled() else block(x)
        return x if streams is None else streams.close(x)


def make_stem(kind: StemKind, in_channels: int, width: int, *, layers: LayerFactory) -> tuple[nn.Module, nn.Module]:
    """Make the stem's convolution, or convolutions, and its pool; norm and activation stand between the two.

    Args:
        kind: see ``StemKind``. The small stem is for images of 8 to 64 pixels, the others for about 224.
        in_channels: channels of the image.
        width: channels of the result.
        layers: makes the layers.

    Shape:
        (N, C, H, W) -> (N, width, H / 4, W / 4), but for ``small`` (N, width, H, W)

    Reference:
        He et al. 2015, arXiv:1512.03385, Table 1 and sec. 4.2; deep: He et al. 2018, arXiv:1812.01187, Fig. 2b; tiered:
        timm's "t" networks.
    """
    if kind == "small":
        return layers.make_conv(in_channels, width, 3, last=True), nn.Identity()
    if kind in ("imagenet", "tensorflow"):
        pool = ZeroPaddedMaxPool(layers.ndim) if kind == "tensorflow" else layers.make_max_pool()
        return layers.make_conv(in_channels, width, 7, stride=2, last=True), pool
    first = 3 * width // 8 if kind == "deep_tiered" else width // 2
    return nn.Sequential(
        layers.make_conv(in_channels, first, 3, stride=2),
        layers.make_norm(first),
        layers.make_activation(),
        layers.make_conv(first, width // 2, 3),
        layers.make_norm(width // 2),
        layers.make_activation(),
        layers.make_conv(width // 2, width, 3, last=True),
    ), layers.make_max_pool()


def feature_info(architecture: Architecture) -> list[FeatureInfo]:
    """Describe the maps that ``forward_intermediates`` returns: the stem's, then each stage's."""
    small = architecture.stem == "small"
    info = [FeatureInfo("act", architecture.stem_width, 1 if small else 2)]
    reduction = 1 if small else 4
    for index, specs in enumerate(architecture.block_specs(), start=1):
        reduction *= math.prod(spec.stride for spec in specs)
        info.append(FeatureInfo(f"layer{index}", specs[-1].out_channels, reduction))
    return info


# ---- memory for time


def recompute(block: nn.Module, x: Tensor) -> Tensor:
    """Compute ``block(x)``, drop its activations and compute them again in the backward pass.

    Random numbers are replayed, and the second pass leaves the running statistics of batch norms alone: without that
    each step would count twice.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), without_running_statistics(block)

    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return out


@contextmanager
def without_running_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training normalise by the batch as usual, but record nothing: their momentum is 0."""
    norms = [part for part in module.modules() if isinstance(part, _NormBase) and part.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


# ---- from images to clips


@torch.no_grad()
def inflate(net: ResNet) -> ResNet:
    """Return the 3-D network with the weights of a 2-D one: kernels repeated along time and divided by their length.

    Time is padded by repeating frames and its resolution falls with that of space, so that a clip of one repeated frame
    stays one in every layer, and the outputs are equal. Where weights are standardised and scaled, the gain takes the
    division, since the standardised weight doesn't depend on the scale of the stored one.

    Args:
        net: 2-D; it is left as it is.

    Shape:
        clips (N, C, T, H, W) -> logits (N, K)

    Raises:
        RequestError: if ``net`` is not 2-D, or its convolutions are standardised without a gain that could be divided.

    Example:
        >>> from reslab import create_model
        >>> clip = torch.zeros(1, 3, 8, 32, 32)
        >>> inflate(create_model("resnet20")).eval()(clip).shape
        torch.Size([1, 10])

    Reference:
        Carreira and Zisserman 2017, arXiv:1705.07750, sec. 2.4, "Bootstrapping 3D filters from 2D filters".

    Deviates:
        The paper pads time with zeros and leaves it unpooled in the first layers; both are choices of the architecture.
    """
    old = net.architecture
    if old.ndim != 2:
        raise RequestError(f"Only a 2-D network can be inflated to 3-D, got one with ndim={old.ndim}.")
    if old.conv == "standardised":
        raise RequestError(
            "A network with standardised weights can't be inflated: the weights are scaled anew at every use, so"
            " dividing them by the kernel's length changes nothing. One with conv='plain' or 'scaled' can."
        )
    inflated = net._recreate(change(old, ndim=3, time_padding="replicate")).train(net.training)
    weights, target = net.state_dict(), inflated.state_dict()
    lengths = {name: target[name].shape[2] for name, value in weights.items() if target[name].ndim > value.ndim}
    inflated.load_state_dict({name: repeat_in_time(name, value, lengths) for name, value in weights.items()})
    return inflated


def repeat_in_time(name: str, value: Tensor, lengths: dict[str, int]) -> Tensor:
    """Turn one tensor of the 2-D network into the 3-D network's; ``lengths`` are those of kernels along time."""
    if name.endswith(".gain"):  # (C_out, 1, 1, 1) -> (C_out, 1, 1, 1, 1); fan_in grows by the length, sums by it too
        return value.unsqueeze(2) / math.sqrt(lengths[name.removesuffix("gain") + "weight"])
    if name not in lengths:
        return value
    kernel = value.unsqueeze(2).repeat(1, 1, lengths[name], *[1] * (value.ndim - 2))  # (O, I, H, W) -> (O, I, T, H, W)
    scaled = name.removesuffix("weight") + "gain"
    return kernel if scaled in lengths else kernel / lengths[name]
