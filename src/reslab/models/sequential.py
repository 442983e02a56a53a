"""Baselines that are one sequence of layers and a head: VGG, stacks of any depth, and torchvision's MobileNets.

Shape letters: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from reslab.errors import RequestError, unknown
from reslab.layers.nd import GLOBAL_POOLS, MAX_POOLS, LayerFactory
from reslab.layers.spec import Ndim
from reslab.models.features import FeatureInfo, FeaturesOnly, Indices, check_sizes, has_values, run_layers
from reslab.models.initial_values import draw_values

VGG_DEPTHS = {
    # depth: (convolutions of each stage, parameters with batch norm and 1000 classes), a test counts them
    11: ((1, 1, 2, 2, 2), 132_868_840),
    13: ((2, 2, 2, 2, 2), 133_053_736),
    16: ((2, 2, 3, 3, 3), 138_365_992),
    19: ((2, 2, 4, 4, 4), 143_678_248),
}
MOBILENETS = {
    # name in torchvision: (hidden units of the head, parameters with 1000 classes), a test counts them
    "mobilenet_v2": (None, 3_504_872),
    "mobilenet_v3_small": (1024, 2_542_856),
    "mobilenet_v3_large": (1280, 5_483_032),
}


@dataclass(frozen=True)
class Parts:
    """What a sequential network is made of, with initial values.

    Args:
        features: the layers.
        classifier: the head; nothing for no classes.
        feature_info: maps that the layers put out, named ``features.3`` and so on.
        num_features: D, values of the pooled map.
        pool: from the last map to the features.
        dropout: of the pooled features.
        min_side: pixels that an image needs on each side.
    """

    features: nn.Sequential
    classifier: nn.Module
    feature_info: list[FeatureInfo]
    num_features: int
    pool: nn.Module
    dropout: nn.Module = field(default_factory=nn.Identity)
    min_side: int = 1


class SequentialNetwork(nn.Module):
    """A network that is one sequence of layers, a pool and a head; its blocks, if any, are layers of the sequence.

    The functions below build it.

    Args:
        make_parts: makes the parts for K classes; it draws initial values from torch's global generator.
        num_classes: K; 0 for no head.

    Shape:
        images (N, C, H, W) -> logits (N, K), or with K = 0 the pooled features (N, D)

    Raises:
        RequestError: for a negative number of classes.

    Example:
        >>> net = plain_stack(8)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> [info.reduction for info in net.feature_info]
        [1, 2, 4]
    """

    def __init__(self, make_parts: Callable[[int], Parts], num_classes: int) -> None:
        super().__init__()
        check_sizes(num_classes)
        self.make_parts, self.num_classes = make_parts, num_classes
        self._random_state = torch.get_rng_state()
        parts = make_parts(num_classes)
        self.features, self.feature_info = parts.features, parts.feature_info
        self.ends = [int(info.name.removeprefix("features.")) for info in parts.feature_info]
        self.num_features, self.min_side = parts.num_features, parts.min_side
        self.avgpool, self.dropout, self.classifier = parts.pool, parts.dropout, parts.classifier

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
        """Return the last map and those asked for, or these alone."""
        self._check_side(images)
        return run_layers(self.features, images, self.ends, indices, intermediates_only=intermediates_only)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Maps (N, D, H', W') -> logits (N, K), or the pooled features with ``pre_logits``."""
        pooled: Tensor = self.dropout(self.avgpool(features).flatten(1))  # (N, C, 7, 7) -> (N, 49 C), or -> (N, C)
        return pooled if pre_logits else self.classifier(pooled)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one for ``num_classes``; 0 removes the whole head.

        It gets the values that it would have been created with. Hidden layers stay, unless the head is still as it was
        created: then all of it becomes the one that a network with ``num_classes`` is created with.
        """
        check_sizes(num_classes)
        head = self._recreate_head(num_classes) if num_classes else nn.Identity()
        if isinstance(head, nn.Sequential) and isinstance(self.classifier, nn.Sequential):
            as_created = has_values(self.classifier, self._recreate_head(self.num_classes).state_dict())
            if not as_created:  # a new sequence: the old one may belong to another network too, see `without_head`
                head = nn.Sequential(*self.classifier[:-1], head[-1])
        self.classifier, self.num_classes = head, num_classes

    def features_only(self, indices: Indices = None) -> FeaturesOnly:
        """Return this network without its head, as a backbone that gives a list of maps."""
        return FeaturesOnly(self, indices)

    def _recreate_head(self, num_classes: int) -> nn.Module:
        """Make the head that a network is created with, wherever this one is now."""
        like = next(self.features.parameters())
        with torch.random.fork_rng(devices=[]), torch.device("meta" if like.is_meta else "cpu"):
            torch.set_rng_state(self._random_state)
            return self.make_parts(num_classes).classifier.to(like)

    def _check_side(self, images: Tensor) -> None:
        """Refuse images of which max pools that round down would leave nothing."""
        if min(images.shape[2:]) < self.min_side:
            raise RequestError(
                f"Images are {'x'.join(map(str, images.shape[2:]))}, this network takes {self.min_side} pixels per side"
                " or more. The forms for small images, such as vgg16_bn_cifar, take any."
            )


# ---- stacks


@dataclass(frozen=True)
class StackSpec:
    """Depth, widths and form of a plain stack: convolution, batch norm and ReLU, again and again.

    Args:
        num_convs: convolutions of each stage; a max pool stands between two stages.
        widths: channels of each stage.
        small: max pools that round up, so that maps never vanish, one average over each map, and one linear layer as
            head. Otherwise they round down, averages are over a grid of 7x7, and the head has two hidden layers.
        pool_last: a max pool after the last stage too.
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
        if self.ndim not in MAX_POOLS:
            raise RequestError(f"ndim is 1 for sequences, 2 for images or 3 for volumes, got {self.ndim}.")
        if not self.widths or min(self.widths) < 1:
            raise RequestError(f"widths are one or more numbers of channels, at least 1 each, got {self.widths}.")


def stack(spec: StackSpec, num_classes: int, *, in_channels: int = 3, dropout: float = 0.0) -> SequentialNetwork:
    """Build a plain stack.

    Its maps are each stage's before its pool, and what the last pool gives: those of timm's ``vgg11_bn`` to
    ``vgg19_bn``, in the same order. ``initial_values.py`` says what values it starts with.

    Args:
        spec: depth, widths and form.
        num_classes: K; 0 for no head.
        in_channels: channels of the image.
        dropout: fraction of features dropped while training: before the head of the small form, after each hidden layer
            of the other.

    Raises:
        RequestError: for a negative number of classes, no input channels, or a dropout outside [0, 1).
    """
    check_sizes(num_classes, in_channels=in_channels, dropout=dropout)
    return SequentialNetwork(partial(stack_parts, spec, in_channels=in_channels, dropout=dropout), num_classes)


def stack_parts(spec: StackSpec, num_classes: int, *, in_channels: int, dropout: float) -> Parts:
    seed = int(torch.randint(2**62, (), device="cpu"))  # before anything else consumes the global generator
    features, ends = stack_layers(spec, in_channels)
    widths = (*spec.widths, spec.widths[-1])
    infos = [FeatureInfo(f"features.{end}", widths[index], 2**index) for index, end in enumerate(ends)]
    grid = 1 if spec.small else 7
    num_features = spec.widths[-1] * grid**spec.ndim
    if num_classes == 0:
        classifier: nn.Module = nn.Identity()
    elif spec.small:
        classifier = nn.Linear(num_features, num_classes)
    else:
        hidden = [nn.Linear(num_features, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        hidden += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        classifier = nn.Sequential(*hidden, nn.Linear(4096, num_classes))
    draw_values(nn.Sequential(features, classifier), seed=seed, linear_std=0.01)
    return Parts(
        features,
        classifier,
        infos,
        num_features,
        pool=GLOBAL_POOLS[spec.ndim](grid),
        dropout=nn.Dropout(dropout) if spec.small else nn.Identity(),
        min_side=1 if spec.small else 2 ** len(spec.widths),
    )


def stack_layers(spec: StackSpec, in_channels: int) -> tuple[nn.Sequential, list[int]]:
    """Make the convolutional part, and the indices of the layers that put out its maps."""
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
) -> SequentialNetwork:
    """Build the VGG network with batch norm, with the names and the layout of torchvision's.

    With ``small`` it is the form for small images: the same convolutions, then an average over the map and one linear
    layer, with the names of kuangliu/pytorch-cifar's.

    Args:
        depth: 11, 13, 16 or 19. It counts the three linear layers of the paper, of which the small form has one.
        num_classes: K; 0 for no head.
        small: for images of any side, such as 32 pixels.
        in_channels: channels of the image.
        dropout: see ``stack``.
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
    return stack(spec, num_classes, in_channels=in_channels, dropout=dropout)


def plain_stack(
    depth: int,
    num_classes: int = 10,
    *,
    widths: tuple[int, ...] = (16, 32, 64),
    in_channels: int = 3,
    dropout: float = 0.0,
    ndim: Ndim = 2,
) -> SequentialNetwork:
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
        >>> [info.name for info in plain_stack(20).feature_info]
        ['features.20', 'features.39', 'features.58']

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
    return stack(spec, num_classes, in_channels=in_channels, dropout=dropout)


# ---- MobileNets


def mobilenet(
    kind: str, num_classes: int, *, in_channels: int = 3, dropout: float = 0.2, small: bool = False
) -> SequentialNetwork:
    """Build torchvision's MobileNet: inverted residual blocks, narrow between them, wide and depthwise within.

    Each block has its shortcut inside. The maps are the last of each resolution. Initial values are torchvision's.

    Args:
        kind: a key of ``MOBILENETS``.
        num_classes: K; 0 for no head.
        in_channels: channels of the image; other than 3, the first convolution gets new values.
        dropout: fraction of features dropped before the last layer while training.
        small: for images of about 32 pixels, the first two convolutions of those with stride 2 get stride 1. These are
            the stem and the 3x3 depthwise one of the first block that halves the resolution (V2: ``features.2``, V3
            small: ``features.1``, V3 large: ``features.2``). The last map is then reduced 8 times, not 32 times.
            Nothing else changes, neither weights nor shortcuts.

    Raises:
        RequestError: for an unknown kind, a negative number of classes, no input channels, or a dropout outside [0, 1).

    Example:
        >>> net = mobilenet("mobilenet_v2", num_classes=10, small=True)
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
    if kind not in MOBILENETS:
        raise unknown("MobileNet", kind, MOBILENETS)
    check_sizes(num_classes, in_channels=in_channels, dropout=dropout)
    parts = partial(mobilenet_parts, kind, in_channels=in_channels, dropout=dropout, small=small)
    return SequentialNetwork(parts, num_classes)


def mobilenet_parts(kind: str, num_classes: int, *, in_channels: int, dropout: float, small: bool) -> Parts:
    import torchvision  # here, not above: it takes longer to import than torch does

    features: nn.Sequential = getattr(torchvision.models, kind)().features
    strided = strided_convolutions(features)
    if in_channels != 3:
        new = nn.Conv2d(in_channels, strided[0].out_channels, kernel_size=3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(new.weight, mode="fan_out")
        features[0][0] = strided[0] = new  # type: ignore[operator]
    starts = [index for index, layer in enumerate(features) if strided_convolutions(layer)]
    ends = [start - 1 for start in starts[1:]] + [len(features) - 1]  # the last layer of each resolution
    if small:
        for conv in strided[:2]:
            conv.stride = (1, 1)
    infos, reduction = [], 1
    for index, layer in enumerate(features):
        reduction *= 2 ** len(strided_convolutions(layer))
        if index in ends:
            infos.append(FeatureInfo(f"features.{index}", int(layer.out_channels), reduction))  # type: ignore[arg-type]
    num_features = infos[-1].channels
    head = mobilenet_head(num_features, MOBILENETS[kind][0], num_classes, dropout=dropout)
    return Parts(features, head, infos, num_features, pool=nn.AdaptiveAvgPool2d(1))


def strided_convolutions(layers: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions that halve the resolution, in execution order."""
    return [module for module in layers.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)]


def mobilenet_head(num_features: int, num_hidden: int | None, num_classes: int, *, dropout: float) -> nn.Module:
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
