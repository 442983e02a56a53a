"""Plain stacks of 3x3 convolutions: the VGG networks, their small forms, and a stack of any depth.

They are the baseline that residual networks are measured against: no block, no shortcut, a max pool between stages.

Shape letters: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.models.features import FeatureInfo, FeaturesOnly, Indices, run_layers

VGG_DEPTHS = {
    # depth: (convolutions of each stage, parameters with batch norm and 1000 classes), a test counts them
    11: ((1, 1, 2, 2, 2), 132_868_840),
    13: ((2, 2, 2, 2, 2), 133_053_736),
    16: ((2, 2, 3, 3, 3), 138_365_992),
    19: ((2, 2, 4, 4, 4), 143_678_248),
}

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


@dataclass(frozen=True)
class Layout:
    """What tells one network of this family from another.

    Args:
        num_convs: convolutions of each stage.
        widths: channels of each stage.
        small: max pools that round up, so that maps never vanish, one average over each map, and one linear layer as
            head. Otherwise they round down, averages are over a grid of 7x7, and the head has two hidden layers.
        pool_last: a max pool after the last stage too, not only between stages.
        conv_bias: convolutions have a bias, though the norm that follows takes it away again.
        ndim: 1 for sequences, 2 for images, 3 for video and volumes.
    """

    num_convs: tuple[int, ...]
    widths: tuple[int, ...]
    small: bool = True
    pool_last: bool = False
    conv_bias: bool = False
    ndim: Literal[1, 2, 3] = 2

    def __post_init__(self) -> None:
        """Refuses what makes no network."""
        if self.ndim not in CONV:
            raise RequestError(f"ndim is 1 for sequences, 2 for images or 3 for volumes, got {self.ndim}.")
        if not self.widths or min(self.widths) < 1:
            raise RequestError(f"widths are one or more numbers of channels, at least 1 each, got {self.widths}.")


class VGG(nn.Module):
    """A plain stack: convolution, batch norm and ReLU, again and again, with a max pool between stages.

    Convolutions start from a normal distribution with variance 2 / fan_out, linear layers from one with standard
    deviation 0.01, norms as the identity, biases at zero. The values depend on torch's global seed alone.

    Args:
        layout: depth, widths and form.
        num_classes: K; 0 for no head.
        in_channels: channels of the image.
        dropout: share of features dropped while training: before the head of the small form, after each hidden layer of
            the other.

    Shape:
        images (N, in_channels, H, W) -> logits (N, K), or with K = 0 the pooled features (N, D)

    Raises:
        RequestError: for a negative number of classes, no input channels, or a share outside [0, 1).

    Example:
        >>> net = VGG(Layout(num_convs=(2, 1), widths=(8, 16)), num_classes=10)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> [info.reduction for info in net.feature_info]
        [1, 2]
    """

    def __init__(self, layout: Layout, *, num_classes: int, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if in_channels < 1:
            raise RequestError(f"in_channels must be at least 1, got {in_channels}.")
        if not 0 <= dropout < 1:
            raise RequestError(f"dropout is a share of features in [0, 1), got {dropout}.")
        seed = int(torch.randint(2**62, (), device="cpu"))  # before anything else consumes the global generator
        self.layout, self.num_classes, self.drop_rate = layout, num_classes, dropout
        self.features, self.ends = make_layers(layout, in_channels)
        self.feature_info = [
            FeatureInfo(f"features.{end}", width, 2**index)
            for index, (end, width) in enumerate(zip(self.ends, (*layout.widths, layout.widths[-1]), strict=False))
        ]
        grid = 1 if layout.small else 7
        self.avgpool = AVERAGE_POOL[layout.ndim](grid)
        self.dropout = nn.Dropout(dropout) if layout.small else nn.Identity()  # else it is in the head
        self.num_features = layout.widths[-1] * grid**layout.ndim
        self.classifier = make_head(layout, self.num_features, num_classes, dropout=dropout)
        initialise(self, seed=seed)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> the last map (N, D, H', W')."""
        self.check_size(images)
        out: Tensor = self.features(images)
        return out

    def forward_intermediates(
        self, images: Tensor, indices: Indices = None, *, intermediates_only: bool = False
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """The last map and those asked for, or these alone: each stage's before its pool, and what the last pool gives.

        Reference:
            The same maps in the same order as timm's ``vgg11_bn`` to ``vgg19_bn`` with ``features_only``.
        """
        self.check_size(images)
        return run_layers(self.features, images, self.ends, indices, intermediates_only=intermediates_only)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Maps (N, D, H', W') -> logits (N, K), or the pooled features with ``pre_logits``."""
        pooled: Tensor = self.dropout(self.avgpool(features).flatten(1))  # (N, D, 7, 7) -> (N, 49 D), or -> (N, D)
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        return self.forward_head(self.forward_features(images))

    def reset_classifier(self, num_classes: int) -> None:
        """Makes the last layer anew for ``num_classes``, hidden layers kept; 0 takes the whole head away."""
        check_classes(num_classes)
        old, like = self.classifier, next(self.features.parameters())
        if num_classes and isinstance(old, nn.Sequential):
            new: nn.Module = nn.Linear(4096, num_classes)
            # A new row of layers: the old one may belong to another network too, see `without_head`.
            self.classifier = nn.Sequential(*old[:-1], new)
        else:
            self.classifier = new = make_head(self.layout, self.num_features, num_classes, dropout=self.drop_rate)
        if num_classes:
            initialise(new.to(like), seed=int(torch.randint(2**62, (), device="cpu")))
        self.num_classes = num_classes

    def features_only(self, indices: Indices = None) -> FeaturesOnly:
        """This network without its head, as a backbone that gives a list of maps."""
        return FeaturesOnly(self, indices)

    def check_size(self, images: Tensor) -> None:
        """Refuses images that max pools which round down would leave nothing of."""
        least = 2 ** len(self.layout.widths)
        if not self.layout.small and min(images.shape[2:]) < least:
            raise RequestError(
                f"Images are {'x'.join(map(str, images.shape[2:]))}, this network takes {least} pixels a side or more."
                " The forms for small images, such as vgg16_bn_cifar, take any."
            )


def make_layers(layout: Layout, in_channels: int) -> tuple[nn.Sequential, list[int]]:
    """The convolutional part in one row, and the indices of the layers that put out the maps of ``feature_info``."""
    channels, layers, ends = in_channels, list[nn.Module](), []
    for stage, (num_convs, width) in enumerate(zip(layout.num_convs, layout.widths, strict=True), start=1):
        for _ in range(num_convs):
            conv = CONV[layout.ndim](channels, width, kernel_size=3, padding=1, bias=layout.conv_bias)
            layers += [conv, NORM[layout.ndim](width), nn.ReLU(inplace=True)]
            channels = width
        ends.append(len(layers) - 1)
        if stage < len(layout.widths) or layout.pool_last:
            layers.append(MAX_POOL[layout.ndim](kernel_size=2, stride=2, ceil_mode=layout.small))
    if layout.pool_last:
        ends.append(len(layers) - 1)
    return nn.Sequential(*layers), ends


def make_head(layout: Layout, num_features: int, num_classes: int, *, dropout: float) -> nn.Module:
    """One linear layer, or two hidden layers of 4096, each with dropout, before it; with no classes nothing."""
    check_classes(num_classes)
    if num_classes == 0:
        return nn.Identity()
    if layout.small:
        return nn.Linear(num_features, num_classes)
    return nn.Sequential(
        nn.Linear(num_features, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(4096, num_classes),
    )


def check_classes(num_classes: int) -> None:
    """Refuses a negative number of classes; 0 is a network without a head."""
    if num_classes < 0:
        raise RequestError(f"num_classes is a number of classes, or 0 for no head, got {num_classes}.")


@torch.no_grad()
def initialise(model: nn.Module, *, seed: int) -> None:
    """Gives every convolution, norm and linear layer its initial values: this is the only place that does.

    | layer       | weight                         | bias |
    |-------------|--------------------------------|------|
    | convolution | normal, variance 2 / fan_out   | 0    |
    | norm        | 1                              | 0    |
    | linear      | normal, standard deviation .01 | 0    |

    Nothing happens on the meta device, where there are no values.
    """
    device = next(model.parameters()).device
    if device.type == "meta":
        return
    generator = torch.Generator(device=device).manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def vgg(
    depth: int,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    dropout: float = 0.5,
    ndim: Literal[1, 2, 3] = 2,
) -> VGG:
    """The VGG network with batch norm, depth 11, 13, 16 or 19, with the names and the layout of torchvision's.

    Raises:
        RequestError: if ``depth`` is not one of these.

    Example:
        >>> with torch.device("meta"):
        ...     net = vgg(16)
        >>> sum(parameter.numel() for parameter in net.parameters()) == VGG_DEPTHS[16][1]
        True

    Reference:
        Simonyan and Zisserman 2014, arXiv:1409.1556, Table 1, columns A, B, D and E.

    Deviates:
        Batch norm after each convolution, which the paper didn't have yet; initial values of convolutions as in
        torchvision, where the paper starts from a trained shallower network. Images of another size than 224 are
        averaged over a grid of 7x7 before the head.
    """
    layout = classic_layout(depth, small=False, ndim=ndim)
    return VGG(layout, num_classes=num_classes, in_channels=in_channels, dropout=dropout)


def vgg_cifar(
    depth: int,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    dropout: float = 0.0,
    ndim: Literal[1, 2, 3] = 2,
) -> VGG:
    """The VGG network for small images: the convolutions of ``vgg``, then an average over the map and one linear layer.

    Its names are those of kuangliu/pytorch-cifar's VGG.

    Raises:
        RequestError: if ``depth`` is not 11, 13, 16 or 19.

    Example:
        >>> vgg_cifar(11)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])

    Reference:
        Simonyan and Zisserman 2014, arXiv:1409.1556, Table 1; the form for CIFAR is kuangliu/pytorch-cifar's.

    Deviates:
        One linear layer instead of three, so ``depth`` counts two layers more than there are. Max pools round up, which
        for images of 32 pixels makes no difference and lets smaller ones through.
    """
    layout = classic_layout(depth, small=True, ndim=ndim)
    return VGG(layout, num_classes=num_classes, in_channels=in_channels, dropout=dropout)


def classic_layout(depth: int, *, small: bool, ndim: Literal[1, 2, 3]) -> Layout:
    """Layout of the paper's network of that depth."""
    if depth not in VGG_DEPTHS:
        known = ", ".join(map(str, VGG_DEPTHS))
        raise RequestError(f"VGG networks have depth {known}; got {depth}. plain_stack takes any depth.")
    widths = (64, 128, 256, 512, 512)
    return Layout(VGG_DEPTHS[depth][0], widths, small=small, pool_last=True, conv_bias=True, ndim=ndim)


def plain_stack(
    depth: int,
    num_classes: int = 10,
    *,
    widths: tuple[int, ...] = (16, 32, 64),
    in_channels: int = 3,
    dropout: float = 0.0,
    ndim: Literal[1, 2, 3] = 2,
) -> VGG:
    """A stack of any depth in the manner of VGG: ``depth - 1`` convolutions, an average over the map, one linear layer.

    The convolutions are shared out among the stages as evenly as can be, the first stages having one more where they
    don't divide. So with depth 6n+2 and three stages it has the layers of the paper's plain network: the first is its
    stem, 2n follow in each stage; a max pool stands where that one has a stride.

    Args:
        depth: layers with weights, at least one more than there are stages.
        num_classes: K; 0 for no head.
        widths: channels of each stage; a max pool between two stages halves the resolution.
        in_channels: channels of the image.
        dropout: share of features dropped before the head while training.
        ndim: 1 for sequences, 2 for images, 3 for video and volumes.

    Raises:
        RequestError: if ``depth`` leaves a stage without a convolution.

    Example:
        >>> plain_stack(20).layout.num_convs, plain_stack(56).layout.num_convs
        ((7, 6, 6), (19, 18, 18))

    Reference:
        Simonyan and Zisserman 2014, arXiv:1409.1556, sec. 2.1; widths and depths are those of the plain networks of
        He et al. 2015, arXiv:1512.03385, sec. 4.2.

    Deviates:
        From VGG: narrower, batch norm, no bias in convolutions, no max pool after the last stage, one linear layer.
    """
    if depth <= len(widths):
        raise RequestError(
            f"A stack of {len(widths)} stages has a convolution in each and a head: depth is at least"
            f" {len(widths) + 1}, got {depth}."
        )
    each, rest = divmod(depth - 1, max(1, len(widths)))  # no stage at all is refused by Layout
    num_convs = tuple(each + (stage < rest) for stage in range(len(widths)))
    layout = Layout(num_convs, tuple(widths), ndim=ndim)
    return VGG(layout, num_classes=num_classes, in_channels=in_channels, dropout=dropout)
