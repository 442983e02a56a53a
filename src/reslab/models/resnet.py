"""The residual network and its plain twin: stem, stages of blocks, head.

``ResNet`` builds any ``Architecture``; the families that have names are in ``families.py``, the block in ``block.py``.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from reslab.layers.connections import Fixup
from reslab.layers.fixup import ScalarBias
from reslab.layers.stem import make_stem
from reslab.layers.streams import close_streams, open_streams
from reslab.models.architecture import Architecture, change
from reslab.models.block import Block
from reslab.models.checkpointing import recompute
from reslab.models.features import FeatureInfo, FeaturesOnly, Indices, chosen
from reslab.models.initial_values import initialise


class Stage(nn.Sequential):
    """Blocks of one width. Opens streams before the first block that has them, and closes them at the end.

    Args:
        blocks: in execution order.
        checkpoint: keep the blocks' inputs only, and compute the rest again in the backward pass.

    Shape:
        (N, C_in, *) -> (N, C_out, *)
    """

    def __init__(self, *blocks: Block, checkpoint: bool = False) -> None:
        super().__init__(*blocks)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Tensor:
        """Runs the blocks."""
        is_open = False
        for block in self:
            assert isinstance(block, Block)
            if block.streams is not None and not is_open:
                x, is_open = open_streams(x, block.streams.num_streams), True
            x = recompute(block, x) if self.checkpoint and torch.is_grad_enabled() else block(x)
        return close_streams(x) if is_open else x


class ResNet(nn.Module):
    """A residual network, or with shortcut ``"none"`` its plain twin.

    Initial values depend on torch's global seed alone, and neither on the kind of shortcut nor on the connection: twins
    start equal. ``initial_values.py`` says what they are.

    Args:
        architecture: every choice there is.

    Shape:
        images (N, in_channels, *) -> logits (N, K)

    Example:
        >>> net = ResNet(Architecture("basic", (1, 1, 1), (16, 32, 64), stem="small", stem_width=16, num_classes=10))
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 3; pre-activation: He et al. 2016, arXiv:1603.05027.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        parts, order = architecture.parts, architecture.order
        fixup = isinstance(architecture.joined, Fixup)
        # Drawn before anything else consumes the global generator, so that twins draw the same number.
        seed = int(torch.randint(2**62, (), device="cpu"))

        width = architecture.stem_width
        self.conv1, self.maxpool = make_stem(architecture.stem, architecture.in_channels, width, parts=parts)
        # Pre-activation blocks bring the norm themselves, and those of "relu_only" the activation.
        self.bn1 = ScalarBias() if fixup else nn.Identity() if order == "pre" else parts.make_norm(width)
        self.act = nn.Identity() if order in ("pre", "relu_only") else parts.make_activation()
        sites = architecture.sites()
        for index, stage in enumerate(sites, start=1):
            blocks = [Block(architecture, site) for site in stage]
            # A stage; torchvision's name for it is the public contract.
            self.add_module(f"layer{index}", Stage(*blocks, checkpoint=architecture.checkpoint_blocks))
        self.num_features = sites[-1][-1].out_channels
        self.feature_info = feature_info(architecture)
        self.norm = parts.make_norm(self.num_features) if order == "pre" else nn.Identity()
        self.last_act = parts.make_activation(in_place=False) if order in ("pre", "relu_only") else nn.Identity()
        self.avgpool = parts.make_global_pool()
        self.dropout = nn.Dropout(architecture.dropout)
        self.head_bias = ScalarBias() if fixup else nn.Identity()
        self.fc: nn.Module = nn.Linear(self.num_features, architecture.num_classes)

        initialise(self, seed=seed)

    def stages(self) -> list[Stage]:
        """The stages in execution order."""
        return [getattr(self, f"layer{index + 1}") for index in range(len(self.architecture.widths))]

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Names (``layer1.0``) and blocks in execution order."""
        for index, stage in enumerate(self.stages()):
            for name, block in stage.named_children():
                assert isinstance(block, Block)
                yield f"layer{index + 1}.{name}", block

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

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, *) -> logits (N, K)."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self, images: Tensor, indices: Indices = None, *, intermediates_only: bool = False
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """The last maps, as ``forward_features``, and those of stem and stages.

        Args:
            images: (N, C, *).
            indices: which of ``feature_info``: all, the last n, or these.
            intermediates_only: return the list alone, and run no further than its last map.
        """
        wanted = chosen(indices, len(self.feature_info))
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
        """Gives the head fresh values for K classes; 0 takes it away, and logits are the pooled features."""
        if num_classes:
            like = next(self.parameters())
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            self.architecture = change(self.architecture, num_classes)
        else:
            self.fc = nn.Identity()

    def features_only(self, indices: Indices = None) -> FeaturesOnly:
        """The network as a module that returns maps of stem and stages, sharing the parameters."""
        return FeaturesOnly(self, indices)


def feature_info(architecture: Architecture) -> list[FeatureInfo]:
    """The maps that ``forward_intermediates`` returns: the stem's, then each stage's."""
    small = architecture.stem == "small"
    info = [FeatureInfo("act", architecture.stem_width, 1 if small else 2)]
    reduction = 1 if small else 4
    for index, sites in enumerate(architecture.sites(), start=1):
        for site in sites:
            reduction *= site.stride
        info.append(FeatureInfo(f"layer{index}", sites[-1].out_channels, reduction))
    return info
