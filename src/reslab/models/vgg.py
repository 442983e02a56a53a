"""Plain stacks of 3x3 convolutions: the VGG networks, their small forms, and a stack of any depth.

They are the baseline that residual networks are measured against: no block, no shortcut, a max pool between stages.

Shape letters: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.layers.nd import GLOBAL_POOLS, MAX_POOLS, LayerFactory
from reslab.layers.spec import Ndim
from reslab.models.features import FeatureInfo, FeaturesOnly, Indices, check_sizes, run_layers
from reslab.models.initial_values import draw_values

VGG_DEPTHS = {
    # depth: (convolutions of each stage, parameters with batch norm and 1000 classes), a test counts them
    11: ((1, 1, 2, 2, 2), 132_868_840),
    13: ((2, 2, 2, 2, 2), 133_053_736),
    16: ((2, 2, 3, 3, 3), 138_365_992),
    19: ((2, 2, 4, 4, 4), 143_678_248),
}


@dataclass(frozen=True)
class StackSpec:
    """Depth, widths and form of a plain stack.

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
    ndim: Ndim = 2

    def __post_init__(self) -> None:
        """Check dimensions and widths."""
        if self.ndim not in MAX_POOLS:
            raise RequestError(f"ndim is 1 for sequences, 2 for images or 3 for volumes, got {self.ndim}.")
        if not self.widths or min(self.widths) < 1:
            raise RequestError(f"widths are one or more numbers of channels, at least 1 each, got {self.widths}.")


class VGG(nn.Module):
    """A plain stack: convolution, batch norm and ReLU, again and again, with a max pool between stages.

    Args:
        spec: depth, widths and form.
        num_classes: K; 0 for no head.
        in_channels: channels of the image.
        dropout: fraction of features dropped while training: before the head of the small form, after each hidden layer
            of the other.
        seed: of the initial values (``initial_values.py``); by default it is drawn from torch's global generator.

    Shape:
        images (N, in_channels, H, W) -> logits (N, K), or with K = 0 the pooled features (N, D)

    Raises:
        RequestError: for a negative number of classes, no input channels, or a dropout outside [0, 1).

    Example:
        >>> net = VGG(StackSpec(num_convs=(2, 1), widths=(8, 16)), num_classes=10)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> [info.reduction for info in net.feature_info]
        [1, 2]
    """

    def __init__(
        self,
        spec: StackSpec,
        *,
        num_classes: int,
        in_channels: int = 3,
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(num_classes, in_channels=in_channels, dropout=dropout)
        # Drawn before anything else consumes the global generator.
        self.seed = int(torch.randint(2**62, (), device="cpu")) if seed is None else seed
        self.spec, self.num_classes, self.in_channels, self.drop_rate = spec, num_classes, in_channels, dropout
        self.features, self.ends = make_layers(spec, in_channels)
        self.feature_info = [
            FeatureInfo(f"features.{end}", width, 2**index)
            for index, (end, width) in enumerate(zip(self.ends, (*spec.widths, spec.widths[-1]), strict=False))
        ]
        grid = 1 if spec.small else 7
        self.avgpool = GLOBAL_POOLS[spec.ndim](grid)
        self.dropout = nn.Dropout(dropout) if spec.small else nn.Identity()  # else it is in the head
        self.num_features = spec.widths[-1] * grid**spec.ndim
        self.classifier = self._make_head()
        draw_values(self, seed=self.seed, linear_std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> the last map (N, D, H', W')."""
        self._check_side(images)
        out: Tensor = self.features(images)
        return out

    def forward_intermediates(
        self, images: Tensor, indices: Indices = None, *, intermediates_only: bool = False
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Return the last map and those asked for, or these alone.

        They are each stage's before its pool, and what the last pool gives.

        Reference:
            The same maps in the same order as timm's ``vgg11_bn`` to ``vgg19_bn`` with ``features_only``.
        """
        self._check_side(images)
        return run_layers(self.features, images, self.ends, indices, intermediates_only=intermediates_only)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Maps (N, D, H', W') -> logits (N, K), or the pooled features with ``pre_logits``."""
        pooled: Tensor = self.dropout(self.avgpool(features).flatten(1))  # (N, D, 7, 7) -> (N, 49 D), or -> (N, D)
        return pooled if pre_logits else self.classifier(pooled)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for ``num_classes``, hidden layers kept; 0 removes the whole head.

        It gets the values that it would have been created with.
        """
        check_sizes(num_classes)
        head: nn.Module = nn.Identity()
        if num_classes:
            with torch.random.fork_rng(devices=[]):
                sizes = {"num_classes": num_classes, "in_channels": self.in_channels}
                head = VGG(self.spec, **sizes, dropout=self.drop_rate, seed=self.seed).classifier
            head.to(next(self.features.parameters()))
        if isinstance(head, nn.Sequential) and isinstance(self.classifier, nn.Sequential):
            # A new sequence: the old one may belong to another network too, see `without_head`.
            head = nn.Sequential(*self.classifier[:-1], head[-1])
        self.classifier, self.num_classes = head, num_classes

    def features_only(self, indices: Indices = None) -> FeaturesOnly:
        """Return this network without its head, as a backbone that gives a list of maps."""
        return FeaturesOnly(self, indices)

    def _check_side(self, images: Tensor) -> None:
        """Refuse images of which max pools that round down would leave nothing."""
        least = 2 ** len(self.spec.widths)
        if not self.spec.small and min(images.shape[2:]) < least:
            raise RequestError(
                f"Images are {'x'.join(map(str, images.shape[2:]))}, this network takes {least} pixels per side or"
                " more. The forms for small images, such as vgg16_bn_cifar, take any."
            )

    def _make_head(self) -> nn.Module:
        """Make one linear layer, or two hidden ones before it, each with dropout; with no classes nothing."""
        if self.num_classes == 0:
            return nn.Identity()
        if self.spec.small:
            return nn.Linear(self.num_features, self.num_classes)
        return nn.Sequential(
            nn.Linear(self.num_features, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(self.drop_rate),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(self.drop_rate),
            nn.Linear(4096, self.num_classes),
        )


def make_layers(spec: StackSpec, in_channels: int) -> tuple[nn.Sequential, list[int]]:
    """Make the convolutional part, and the indices of the layers that put out the maps of ``feature_info``."""
    factory = LayerFactory(spec.ndim, conv_bias="all" if spec.conv_bias else "none")
    channels, layers, ends = in_channels, list[nn.Module](), []
    for stage, (num_convs, width) in enumerate(zip(spec.num_convs, spec.widths, strict=True), start=1):
        for _ in range(num_convs):
            layers += [factory.make_conv(channels, width, 3), factory.make_norm(width), factory.make_activation()]
            channels = width
        ends.append(len(layers) - 1)
        if stage < len(spec.widths) or spec.pool_last:
            layers.append(MAX_POOLS[spec.ndim](kernel_size=2, stride=2, ceil_mode=spec.small))
    if spec.pool_last:
        ends.append(len(layers) - 1)
    return nn.Sequential(*layers), ends


def vgg(
    depth: int,
    num_classes: int = 1000,
    *,
    small: bool = False,
    in_channels: int = 3,
    dropout: float = 0.5,
    ndim: Ndim = 2,
) -> VGG:
    """Build the VGG network with batch norm, with the names and the layout of torchvision's.

    With ``small`` it is the form for small images: the same convolutions, then an average over the map and one linear
    layer, with the names of kuangliu/pytorch-cifar's.

    Args:
        depth: 11, 13, 16 or 19. It counts the three linear layers of the paper, of which the small form has one.
        num_classes: K; 0 for no head.
        small: for images of any side, such as 32 pixels.
        in_channels: channels of the image.
        dropout: see ``VGG``.
        ndim: 1 for sequences, 2 for images, 3 for video and volumes.

    Raises:
        RequestError: if ``depth`` is not one of these.

    Example:
        >>> vgg(11, 10, small=True, dropout=0.0)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])

    Reference:
        Simonyan and Zisserman 2014, arXiv:1409.1556, Table 1, columns A, B, D and E.

    Deviates:
        Batch norm after each convolution, which the paper didn't have yet; initial values of convolutions as in
        torchvision, where the paper starts from a trained shallower network. Images of another size than 224 are
        averaged over a grid of 7x7 before the head. Max pools of the small form round up, which for images of 32 pixels
        makes no difference and lets smaller ones through.
    """
    if depth not in VGG_DEPTHS:
        known = ", ".join(map(str, VGG_DEPTHS))
        raise RequestError(f"VGG networks have depth {known}; got {depth}. plain_stack takes any depth.")
    widths = (64, 128, 256, 512, 512)
    spec = StackSpec(VGG_DEPTHS[depth][0], widths, small=small, pool_last=True, conv_bias=True, ndim=ndim)
    return VGG(spec, num_classes=num_classes, in_channels=in_channels, dropout=dropout)


def plain_stack(
    depth: int,
    num_classes: int = 10,
    *,
    widths: tuple[int, ...] = (16, 32, 64),
    in_channels: int = 3,
    dropout: float = 0.0,
    ndim: Ndim = 2,
) -> VGG:
    """Build a stack of any depth in the manner of VGG: ``depth - 1`` convolutions, an average, one linear layer.

    The convolutions are divided among the stages as evenly as possible; the first stages have one more where the
    division leaves a rest. So with depth 6n+2 and three stages it has the layers of the paper's plain network: the
    first is its stem, 2n follow in each stage; a max pool stands where that one has a stride.

    Args:
        depth: layers with weights, at least one more than there are stages.
        num_classes: K; 0 for no head.
        widths: channels of each stage; a max pool between two stages halves the resolution.
        in_channels: channels of the image.
        dropout: fraction of features dropped before the head while training.
        ndim: 1 for sequences, 2 for images, 3 for video and volumes.

    Raises:
        RequestError: if ``depth`` leaves a stage without a convolution.

    Example:
        >>> plain_stack(20).spec.num_convs, plain_stack(56).spec.num_convs
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
    each, rest = divmod(depth - 1, max(1, len(widths)))  # no stage at all is refused by StackSpec
    num_convs = tuple(each + (stage < rest) for stage in range(len(widths)))
    spec = StackSpec(num_convs, tuple(widths), ndim=ndim)
    return VGG(spec, num_classes=num_classes, in_channels=in_channels, dropout=dropout)
