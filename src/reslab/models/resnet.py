"""Residual networks of He et al. and their plain twins: the block, the network, and the builders by family.

Every block is one line, ``x_next = after(junction(shortcut(x), branch(x)))``. A plain twin is the same network with the
shortcut taken away: same parameters, same names and, from one seed, the same values.

Shape letters: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reslab.errors import RequestError, unknown
from reslab.layers.junction import Add, BranchOnly
from reslab.layers.shortcut import SHORTCUT_KINDS, ShortcutKind, make_shortcut
from reslab.layers.stem import StemKind, make_stem

CIFAR_DEPTHS = {
    # depth: parameters with ten classes and option A, as many as the plain twin has (a test counts them)
    20: 269_722,
    32: 464_154,
    44: 658_586,
    56: 853_018,
    110: 1_727_962,
    1202: 19_421_274,
}

IMAGENET_DEPTHS = {
    # depth: (bottleneck blocks?, blocks a stage, parameters with 1000 classes and option B)
    18: (False, (2, 2, 2, 2), 11_689_512),
    34: (False, (3, 4, 6, 3), 21_797_672),
    50: (True, (3, 4, 6, 3), 25_557_032),
    101: (True, (3, 4, 23, 3), 44_549_160),
    152: (True, (3, 8, 36, 3), 60_192_808),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut; ReLU after the junction.

    Args:
        in_channels: channels of ``x``.
        width: channels of both convolutions and of the result.
        stride: stride of the first convolution and of the shortcut.
        shortcut: kind of the shortcut; ``"none"`` makes the block of a plain network.

    Shape:
        x (N, C, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))

    Reference:
        He et al. 2015, arXiv:1512.03385, Fig. 5 left.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int = 1, shortcut: ShortcutKind = "projection") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        # `downsample` is torchvision's name for the shortcut; its state_dict keys are a public contract.
        self.downsample = make_shortcut(shortcut, in_channels, width, stride=stride)
        self.junction = BranchOnly() if shortcut == "none" else Add()

    def branch(self, x: Tensor) -> Tensor:
        """F(x), up to and including the last norm."""
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.conv2(x))
        return out

    def shortcut(self, x: Tensor) -> Tensor | None:
        """S(x); None in a plain block."""
        out: Tensor | None = self.downsample(x)
        return out

    def after(self, x: Tensor) -> Tensor:
        """What follows the junction."""
        out: Tensor = self.relu(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """One block, one line."""
        return self.after(self.junction(self.shortcut(x), self.branch(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm beside a shortcut; ReLU after the junction.

    Args:
        in_channels: channels of ``x``.
        width: channels of the 3x3 convolution; the result has four times as many.
        stride: stride of the 3x3 convolution and of the shortcut.
        shortcut: kind of the shortcut; ``"none"`` makes the block of a plain network.

    Shape:
        x (N, C, H, W) -> (N, 4 * width, ceil(H / stride), ceil(W / stride))

    Reference:
        He et al. 2015, arXiv:1512.03385, Fig. 5 right.

    Deviates:
        The stride sits on the 3x3 convolution, as in torchvision ("v1.5"), not on the first 1x1 as in the paper.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int = 1, shortcut: ShortcutKind = "projection") -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride=stride)
        self.junction = BranchOnly() if shortcut == "none" else Add()

    def branch(self, x: Tensor) -> Tensor:
        """F(x), up to and including the last norm."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.bn3(self.conv3(x))
        return out

    def shortcut(self, x: Tensor) -> Tensor | None:
        """S(x); None in a plain block."""
        out: Tensor | None = self.downsample(x)
        return out

    def after(self, x: Tensor) -> Tensor:
        """What follows the junction."""
        out: Tensor = self.relu(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """One block, one line."""
        return self.after(self.junction(self.shortcut(x), self.branch(x)))


@dataclass(frozen=True)
class Architecture:
    """What tells one network of this family from another.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        num_blocks: blocks of each stage.
        widths: width of each stage; every stage but the first starts with stride 2.
        stem: kind of the stem.
        shortcut: kind of the shortcuts.
    """

    block: type[BasicBlock] | type[Bottleneck]
    num_blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: StemKind = "imagenet"
    shortcut: ShortcutKind = "projection"

    def __post_init__(self) -> None:
        """Refuses an unknown shortcut before anything is built."""
        if self.shortcut not in SHORTCUT_KINDS:
            raise unknown("shortcut", self.shortcut, SHORTCUT_KINDS)


class ResNet(nn.Module):
    """A residual network, or with shortcut ``"none"`` its plain twin.

    Convolutions start from a normal distribution with variance 2 / fan_out, norms as the identity. The values depend on
    torch's global seed alone, and not on the kind of shortcut: twins start equal.

    Args:
        architecture: block, depth, widths, stem and shortcut.
        num_classes: K.
        in_channels: channels of the image.
        zero_init_residual: start each branch at zero, by the scale of its last norm.
        dropout: share of features dropped before the head while training.

    Shape:
        images (N, in_channels, H, W) -> logits (N, K)

    Example:
        >>> net = ResNet(Architecture(BasicBlock, (1, 1, 1), (16, 32, 64), stem="small"), num_classes=10)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 3; initial values from He et al. 2015, arXiv:1502.01852, eq. 14;
        zero_init_residual from Goyal et al. 2017, arXiv:1706.02677, sec. 5.1.

    Deviates:
        Initial variance is 2 / fan_out, as in torchvision; the paper doesn't say which fan it took.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        in_channels: int = 3,
        zero_init_residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise RequestError(f"num_classes and in_channels must be at least 1, got {num_classes} and {in_channels}.")
        if not 0 <= dropout < 1:
            raise RequestError(f"dropout is a share of features in [0, 1), got {dropout}.")
        self.architecture = architecture
        # Drawn before anything else consumes the global generator, so that twins draw the same number.
        seed = int(torch.randint(2**62, (), device="cpu"))

        self.conv1, self.bn1, self.maxpool = make_stem(architecture.stem, in_channels, architecture.widths[0])
        self.relu = nn.ReLU(inplace=True)
        channels = architecture.widths[0]
        for index, (num_blocks, width) in enumerate(zip(architecture.num_blocks, architecture.widths, strict=True)):
            stage, channels = make_stage(architecture, channels, width, num_blocks, stride=1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", stage)  # a stage; torchvision's name for it is the public contract
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

        initialise(self, seed=seed)
        if zero_init_residual:
            zero_branches(self)

    def stages(self) -> list[nn.Sequential]:
        """The stages in execution order."""
        return [getattr(self, f"layer{index + 1}") for index in range(len(self.architecture.widths))]

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Names (``layer1.0``) and blocks in execution order."""
        for index, stage in enumerate(self.stages()):
            for name, block in stage.named_children():
                yield f"layer{index + 1}.{name}", block

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> the last stage's maps (N, D, H', W')."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in self.stages():
            x = stage(x)
        return x

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Maps (N, D, H', W') -> logits (N, K), or the pooled features (N, D) with ``pre_logits``."""
        pooled: Tensor = self.dropout(self.avgpool(features).flatten(1))  # (N, D, 1, 1) -> (N, D)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K)."""
        return self.forward_head(self.forward_features(images))


def make_stage(
    architecture: Architecture, in_channels: int, width: int, num_blocks: int, *, stride: int
) -> tuple[nn.Sequential, int]:
    """A stage of ``num_blocks`` blocks, the first with ``stride``, and the channels that it puts out."""
    channels, blocks = in_channels, []
    for index in range(num_blocks):
        blocks.append(
            architecture.block(channels, width, stride=stride if index == 0 else 1, shortcut=architecture.shortcut)
        )
        channels = width * architecture.block.expansion
    return nn.Sequential(*blocks), channels


@torch.no_grad()
def initialise(model: nn.Module, *, seed: int) -> None:
    """Gives every convolution, norm and linear layer its initial values: this is the only place that does.

    | layer       | weight                                    | bias                     |
    |-------------|-------------------------------------------|--------------------------|
    | convolution | normal, variance 2 / fan_out              | none in this family      |
    | norm        | 1                                         | 0                        |
    | linear      | uniform within 1 / sqrt(fan_in)           | the same                 |

    Shortcuts are filled last, from the same stream of numbers, so that a network with them and one without agree in all
    the rest. Nothing happens on the meta device, where there are no values.
    """
    parameters = list(model.parameters())
    if parameters[0].is_meta:
        return
    generator = torch.Generator(device=parameters[0].device).manual_seed(seed)
    named = list(model.named_modules())
    for _, module in sorted(named, key=lambda item: "downsample" in item[0]):  # a stable sort: order stays otherwise
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            module.weight.uniform_(-bound, bound, generator=generator)
            module.bias.uniform_(-bound, bound, generator=generator)


def zero_branches(model: ResNet) -> None:
    """Sets the scale of each block's last norm to zero, so that every branch starts as F(x) = 0."""
    if model.architecture.shortcut == "none":
        raise RequestError("zero_init_residual would silence a plain network: without shortcuts its output would be 0.")
    for _, block in model.blocks():
        last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        nn.init.zeros_(last.weight)  # type: ignore[union-attr, arg-type]


def cifar_resnet(
    depth: int,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    shortcut: ShortcutKind = "zero_pad",
    zero_init_residual: bool = False,
    dropout: float = 0.0,
) -> ResNet:
    """The narrow network for 32x32 images: 3x3 stem, three stages of width 16, 32, 64, depth 6n+2.

    Raises:
        RequestError: if ``depth`` is not 6n+2 with n >= 1.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(20).parameters()) == CIFAR_DEPTHS[20]
        True

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 4.2 and Table 6.
    """
    num_blocks, rest = divmod(depth - 2, 6)
    if rest or num_blocks < 1:
        near = max(8, depth - rest)
        raise RequestError(
            f"Depth {depth} is not 6n+2: a CIFAR network has a stem, a head and three stages of n blocks with two"
            f" layers each. The nearest are {near} and {near + 6}."
        )
    architecture = Architecture(BasicBlock, (num_blocks,) * 3, (16, 32, 64), stem="small", shortcut=shortcut)
    return ResNet(
        architecture,
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
        dropout=dropout,
    )


def imagenet_resnet(
    depth: int,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    stem: StemKind = "imagenet",
    shortcut: ShortcutKind = "projection",
    zero_init_residual: bool = False,
    dropout: float = 0.0,
) -> ResNet:
    """The wide network of four stages, depth 18, 34, 50, 101 or 152; with ``stem="small"`` for small images.

    Raises:
        RequestError: if ``depth`` is not one of these.

    Reference:
        He et al. 2015, arXiv:1512.03385, Table 1. The small stem is not in the paper; it is kuangliu/pytorch-cifar's.
    """
    if depth not in IMAGENET_DEPTHS:
        raise RequestError(f"ImageNet networks have depth {', '.join(map(str, IMAGENET_DEPTHS))}; got {depth}.")
    bottleneck, num_blocks, _ = IMAGENET_DEPTHS[depth]
    block = Bottleneck if bottleneck else BasicBlock
    return ResNet(
        Architecture(block, num_blocks, stem=stem, shortcut=shortcut),
        num_classes=num_classes,
        in_channels=in_channels,
        zero_init_residual=zero_init_residual,
        dropout=dropout,
    )
