"""Families of residual networks: functions that say which ``Architecture`` a depth stands for.

Each takes what its paper varies; every other choice is made by ``create_model(name, **changes)``.
"""

from __future__ import annotations

from typing import Literal

from reslab.errors import RequestError
from reslab.models.architecture import Architecture, Changes, change

CIFAR_DEPTHS = {
    # depth: parameters with ten classes and option A, as many as the plain twin has (a test counts them)
    20: 269_722,
    32: 464_154,
    44: 658_586,
    56: 853_018,
    110: 1_727_962,
    1202: 19_421_274,
}

IMAGENET_DEPTHS: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, int, int, int], int]] = {
    # depth: (block, blocks a stage, parameters with 1000 classes and option B)
    18: ("basic", (2, 2, 2, 2), 11_689_512),
    34: ("basic", (3, 4, 6, 3), 21_797_672),
    50: ("bottleneck", (3, 4, 6, 3), 25_557_032),
    101: ("bottleneck", (3, 4, 23, 3), 44_549_160),
    152: ("bottleneck", (3, 8, 36, 3), 60_192_808),
    200: ("bottleneck", (3, 24, 36, 3), 64_673_832),
}


def cifar(depth: int, changes: Changes | None = None) -> Architecture:
    """The narrow network for 32x32 images: 3x3 stem, three stages of width 16, 32, 64, two layers a block, option A.

    Args:
        depth: 6n+2.
        changes: other choices.

    Raises:
        RequestError: if ``depth`` is not 6n+2 with n >= 1.

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 4.2 and Table 6.
    """
    num_blocks = blocks_a_stage(depth, layers_a_block=2)
    narrow = Architecture(
        "basic", (num_blocks,) * 3, (16, 32, 64), "small", stem_width=16, shortcut="zero_pad", num_classes=10
    )
    return change(narrow, **(changes or {}))


def cifar_bottleneck(depth: int, changes: Changes | None = None) -> Architecture:
    """The same with bottleneck blocks, and a projection where the dimensions change: ResNet-164 and ResNet-1001.

    Args:
        depth: 9n+2.
        changes: other choices.

    Raises:
        RequestError: if ``depth`` is not 9n+2 with n >= 1.

    Reference:
        He et al. 2016, arXiv:1603.05027, sec. 4; projections and widths: the authors' code, KaimingHe/resnet-1k-layers.

    Deviates:
        The stride sits on the 3x3 convolution; the authors' code has it on the first 1x1.
    """
    num_blocks = blocks_a_stage(depth, layers_a_block=3)
    narrow = Architecture("bottleneck", (num_blocks,) * 3, (16, 32, 64), "small", stem_width=16, num_classes=10)
    return change(narrow, **(changes or {}))


def blocks_a_stage(depth: int, *, layers_a_block: int) -> int:
    """N of a CIFAR depth 6n+2 or 9n+2."""
    period = 3 * layers_a_block
    num_blocks, rest = divmod(depth - 2, period)
    if rest or num_blocks < 1:
        near = max(period + 2, depth - rest)
        raise RequestError(
            f"Depth {depth} is not {period}n+2: a CIFAR network has a stem, a head and three stages of n blocks with"
            f" {layers_a_block} layers each. The nearest are {near} and {near + period}."
        )
    return num_blocks


def wide(depth: int, factor: int, changes: Changes | None = None) -> Architecture:
    """The wide network for 32x32 images: pre-activation, stages ``factor`` times as wide, a projection into each.

    Args:
        depth: 6n+4; it counts the three projections.
        factor: k of WRN-depth-k.
        changes: other choices; ``block_dropout`` is the paper's dropout.

    Raises:
        RequestError: if ``depth`` is not 6n+4 with n >= 1.

    Reference:
        Zagoruyko and Komodakis 2016, arXiv:1605.07146, Table 1.
    """
    num_blocks, rest = divmod(depth - 4, 6)
    if rest or num_blocks < 1:
        raise RequestError(f"Depth {depth} is not 6n+4, the depth of a wide network; 16, 22, 28 and 40 are.")
    widths = (16 * factor, 32 * factor, 64 * factor)
    return change(
        Architecture("basic", (num_blocks,) * 3, widths, "small", stem_width=16, order="pre", num_classes=10),
        **(changes or {}),
    )


def cifar_resnext(depth: int, groups: int, width_per_group: int, changes: Changes | None = None) -> Architecture:
    """ResNeXt for 32x32 images: bottlenecks of width 64, 128, 256, three stages.

    Args:
        depth: 9n+2.
        groups: the cardinality.
        width_per_group: of the first stage.
        changes: other choices.

    Reference:
        Xie et al. 2016, arXiv:1611.05431, sec. 5.3.
    """
    return change(
        Architecture(
            "bottleneck",
            (blocks_a_stage(depth, layers_a_block=3),) * 3,
            (64, 128, 256),
            "small",
            groups=groups,
            width_per_group=width_per_group,
            num_classes=10,
        ),
        **(changes or {}),
    )


def imagenet(depth: int, changes: Changes | None = None) -> Architecture:
    """The network of four stages of width 64, 128, 256, 512, option B, for images of about 224 pixels.

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        changes: other choices; ``stem="small"`` is for small images.

    Raises:
        RequestError: if ``depth`` is not one of these.

    Reference:
        He et al. 2015, arXiv:1512.03385, Table 1; 200: He et al. 2016, arXiv:1603.05027, sec. 4. The small stem is not
        in the papers; it is kuangliu/pytorch-cifar's.

    Deviates:
        The stride of a bottleneck sits on its 3x3 convolution, as in torchvision ("v1.5"); ``stride_on="1x1"`` is the
        paper's.
    """
    if depth not in IMAGENET_DEPTHS:
        raise RequestError(f"ImageNet networks have depth {', '.join(map(str, IMAGENET_DEPTHS))}; got {depth}.")
    block, num_blocks, _ = IMAGENET_DEPTHS[depth]
    return change(Architecture(block, num_blocks), **(changes or {}))


def highway(depth: int) -> Architecture:
    """A highway network at a CIFAR depth: 2n layers a stage, each with a 3x3 gate, and no norm.

    Args:
        depth: 6n+2.

    Reference:
        Srivastava et al. 2015, arXiv:1505.00387, eq. 3.

    Deviates:
        Widths and stages are those of the CIFAR residual networks, to compare with; the paper's are others.
    """
    num_layers = 2 * blocks_a_stage(depth, layers_a_block=2)
    return cifar(20, {"block": "single", "num_blocks": (num_layers,) * 3, "connection": "highway"})
