"""MobileNet V2 and V3: torchvision's own modules with torchvision's names, asked for maps like every other network.

Shape letters: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reslab.errors import unknown
from reslab.models.features import FeatureInfo, FeaturesOnly, Indices, check_sizes, has_values, run_layers

MOBILENETS = {
    # name in torchvision: (hidden units of the head, parameters with 1000 classes), a test counts them
    "mobilenet_v2": (None, 3_504_872),
    "mobilenet_v3_small": (1024, 2_542_856),
    "mobilenet_v3_large": (1280, 5_483_032),
}


class MobileNet(nn.Module):
    """A network of inverted residual blocks: narrow between the blocks, wide and depthwise within.

    Each block has its shortcut inside, so here a network is one sequence of layers: stem, blocks, a 1x1 convolution.
    The maps are the last of each resolution. Initial values are torchvision's, drawn from torch's global generator.

    Args:
        kind: a key of ``MOBILENETS``.
        num_classes: K; 0 for no head.
        in_channels: channels of the image; other than 3, the first convolution gets new values.
        dropout: fraction of features dropped before the last layer while training.
        small: for images of about 32 pixels, the first two convolutions of those with stride 2 get stride 1. These are
            the stem and the 3x3 depthwise one of the first block that halves the resolution (V2: ``features.2``, V3
            small: ``features.1``, V3 large: ``features.2``). The last map is then reduced 8 times, not 32 times.
            Nothing else changes, neither weights nor shortcuts.

    Shape:
        images (N, in_channels, H, W) -> logits (N, K), or with K = 0 the pooled features (N, D)

    Raises:
        RequestError: for an unknown kind, a negative number of classes, no input channels, or a dropout outside [0, 1).

    Example:
        >>> net = MobileNet("mobilenet_v2", num_classes=10, small=True)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> [info.reduction for info in net.feature_info]
        [1, 1, 2, 4, 8]

    Reference:
        V2: Sandler et al. 2018, arXiv:1801.04381, Table 2. V3: Howard et al. 2019, arXiv:1905.02244, Tables 1 and 2.

    Deviates:
        Initial values and norms as in torchvision: normal with variance 2 / fan_out, linear layers with standard
        deviation 0.01. The small form is not in the papers; for V2 its strides are kuangliu/pytorch-cifar's.
    """

    def __init__(
        self, kind: str, *, num_classes: int, in_channels: int = 3, dropout: float = 0.2, small: bool = False
    ) -> None:
        super().__init__()
        if kind not in MOBILENETS:
            raise unknown("MobileNet", kind, MOBILENETS)
        check_sizes(num_classes, in_channels=in_channels, dropout=dropout)
        import torchvision  # here, not above: it takes longer to import than torch does

        build: Callable[[], nn.Module] = getattr(torchvision.models, kind)
        self.features: nn.Sequential = build().features  # type: ignore[assignment]
        self.ends = ends_of_resolutions(self.features)
        if in_channels != 3:
            replace_first_convolution(self.features, in_channels)
        if small:
            for conv in strided_convolutions(self.features)[:2]:
                conv.stride = (1, 1)
        self.feature_info = describe_maps(self.features, self.ends)
        self.num_features = self.feature_info[-1].channels
        self.num_hidden, self.drop_rate, self.num_classes = MOBILENETS[kind][0], dropout, num_classes
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self._state_before_head = torch.get_rng_state()
        self.classifier = make_head(self.num_features, self.num_hidden, num_classes, dropout=dropout)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> the last map (N, D, H', W')."""
        out: Tensor = self.features(images)
        return out

    def forward_intermediates(
        self, images: Tensor, indices: Indices = None, *, intermediates_only: bool = False
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Return the last map and those asked for, or these alone."""
        return run_layers(self.features, images, self.ends, indices, intermediates_only=intermediates_only)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Maps (N, D, H', W') -> logits (N, K), or the pooled features (N, D) with ``pre_logits``."""
        pooled: Tensor = self.avgpool(features).flatten(1)  # (N, D, 1, 1) -> (N, D)
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        return self.forward_head(self.forward_features(images))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for ``num_classes``; 0 removes the whole head.

        It gets the values that it would have been created with. A hidden layer stays, unless the head is still as it
        was created: then all of it becomes the one that a network with ``num_classes`` is created with.
        """
        check_sizes(num_classes)
        head = self._make_head(num_classes)
        as_created = has_values(self.classifier, self._make_head(self.num_classes).state_dict())
        if isinstance(head, nn.Sequential) and isinstance(self.classifier, nn.Sequential) and not as_created:
            # A new sequence: the old one may belong to another network too, see `without_head`.
            head = nn.Sequential(*self.classifier[:-1], head[-1])
        self.classifier, self.num_classes = head, num_classes

    def features_only(self, indices: Indices = None) -> FeaturesOnly:
        """Return this network without its head, as a backbone that gives a list of maps."""
        return FeaturesOnly(self, indices)

    def _make_head(self, num_classes: int) -> nn.Module:
        """Make the head that a network is created with, wherever this one is now."""
        like = next(self.features.parameters())
        with torch.random.fork_rng(devices=[]), torch.device("meta" if like.is_meta else "cpu"):
            torch.set_rng_state(self._state_before_head)
            return make_head(self.num_features, self.num_hidden, num_classes, dropout=self.drop_rate).to(like)


def strided_convolutions(layers: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions that halve the resolution, in execution order."""
    return [module for module in layers.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)]


def ends_of_resolutions(layers: nn.Sequential) -> list[int]:
    """Return the index of the last layer of each resolution, that of the stem's stride being the first."""
    starts = [index for index, layer in enumerate(layers) if strided_convolutions(layer)]
    return [start - 1 for start in starts[1:]] + [len(layers) - 1]


def describe_maps(layers: nn.Sequential, ends: list[int]) -> list[FeatureInfo]:
    """Describe the maps that layers ``ends`` put out."""
    infos, reduction = [], 1
    for index, layer in enumerate(layers):
        reduction *= 2 ** len(strided_convolutions(layer))
        if index in ends:
            infos.append(FeatureInfo(f"features.{index}", int(layer.out_channels), reduction))  # type: ignore[arg-type]
    return infos


def replace_first_convolution(layers: nn.Sequential, in_channels: int) -> None:
    """Make the first convolution fit other images, with new values."""
    old = strided_convolutions(layers)[0]
    new = nn.Conv2d(in_channels, old.out_channels, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out")
    layers[0][0] = new  # type: ignore[operator]


def make_head(num_features: int, num_hidden: int | None, num_classes: int, *, dropout: float) -> nn.Module:
    """Make dropout and a linear layer, after a hidden one if there are hidden units; with no classes nothing."""
    if num_classes == 0:
        return nn.Identity()
    if num_hidden is None:
        head = nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, num_classes))
    else:
        hidden = nn.Linear(num_features, num_hidden)
        last = nn.Linear(num_hidden, num_classes)
        head = nn.Sequential(hidden, nn.Hardswish(inplace=True), nn.Dropout(dropout, inplace=True), last)
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return head
