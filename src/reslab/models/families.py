"""Families of residual networks: functions that say which ``Architecture`` a depth stands for.

Each takes what its paper varies; every other field of ``Architecture`` can be changed by name.
"""

from __future__ import annotations

from typing import Any, Literal

from reslab.errors import RequestError
from reslab.models.architecture import Architecture, change

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
    # depth: (block, blocks per stage, parameters with 1000 classes and option B)
    18: ("basic", (2, 2, 2, 2), 11_689_512),
    34: ("basic", (3, 4, 6, 3), 21_797_672),
    50: ("bottleneck", (3, 4, 6, 3), 25_557_032),
    101: ("bottleneck", (3, 4, 23, 3), 44_549_160),
    152: ("bottleneck", (3, 8, 36, 3), 60_192_808),
    200: ("bottleneck", (3, 24, 36, 3), 64_673_832),
}

NARROW: dict[str, Any] = {"widths": (16, 32, 64), "stem": "small", "stem_width": 16, "num_classes": 10}
"""What the networks for CIFAR's 32x32 images have in common."""


def cifar(depth: int, **changes: Any) -> Architecture:
    """Return the narrow network for 32x32 images: 3x3 stem, stages of width 16, 32, 64, basic blocks, option A.

    Args:
        depth: 6n+2.
        changes: other choices.

    Raises:
        RequestError: if ``depth`` is not 6n+2 with n >= 1.

    Example:
        >>> cifar(56).num_blocks, cifar(56).depth
        ((9, 9, 9), 56)

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 4.2 and Table 6.
    """
    num_blocks = blocks_per_stage(depth, layers_per_block=2)
    narrow = Architecture(block="basic", num_blocks=(num_blocks,) * 3, shortcut="zero_pad", **NARROW)
    return change(narrow, **changes)


def cifar_bottleneck(depth: int, **changes: Any) -> Architecture:
    """Return the same with bottleneck blocks and option B: ResNet-164 and ResNet-1001.

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
    num_blocks = blocks_per_stage(depth, layers_per_block=3)
    return change(Architecture(block="bottleneck", num_blocks=(num_blocks,) * 3, **NARROW), **changes)


def blocks_per_stage(depth: int, *, layers_per_block: int) -> int:
    """Return n of a CIFAR depth 6n+2 or 9n+2."""
    period = 3 * layers_per_block
    num_blocks, rest = divmod(depth - 2, period)
    if rest or num_blocks < 1:
        near = max(period + 2, depth - rest)
        raise RequestError(
            f"Depth {depth} is not {period}n+2: a CIFAR network has a stem, a head and three stages of n blocks with"
            f" {layers_per_block} layers each. The nearest are {near} and {near + period}."
        )
    return num_blocks


def wide(depth: int, factor: int, **changes: Any) -> Architecture:
    """Return the wide network for 32x32 images: pre-activation, stages ``factor`` times as wide, option B.

    Args:
        depth: 6n+4; it counts the projections, one per stage.
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
    narrow = Architecture(block="basic", num_blocks=(num_blocks,) * 3, order="pre", **NARROW)
    return change(narrow, **{"widths": (16 * factor, 32 * factor, 64 * factor), **changes})


def cifar_resnext(depth: int, groups: int, width_per_group: int, **changes: Any) -> Architecture:
    """Return ResNeXt for 32x32 images: bottlenecks of width 64, 128, 256, three stages.

    Args:
        depth: 9n+2.
        groups: the cardinality.
        width_per_group: of the first stage.
        changes: other choices.

    Reference:
        Xie et al. 2016, arXiv:1611.05431, sec. 5.3.
    """
    wider = {"widths": (64, 128, 256), "stem_width": 64, "groups": groups, "width_per_group": width_per_group}
    return cifar_bottleneck(depth, **{**wider, **changes})


def imagenet(depth: int, **changes: Any) -> Architecture:
    """Return the network of four stages of width 64, 128, 256, 512, option B, for images of about 224 pixels.

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        changes: other choices; ``stem="small"`` is for small images.

    Raises:
        RequestError: if ``depth`` is not one of these.

    Example:
        >>> imagenet(50, stem="small").num_blocks
        (3, 4, 6, 3)

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
    return change(Architecture(block=block, num_blocks=num_blocks), **changes)


def highway(depth: int) -> Architecture:
    """Return a highway network at a CIFAR depth: 2n layers per stage, each with a 3x3 gate, and no norm.

    Args:
        depth: 6n+2.

    Reference:
        Srivastava et al. 2015, arXiv:1505.00387, eq. 3.

    Deviates:
        Widths and stages are those of the CIFAR residual networks, to compare with; the paper's are others.
    """
    num_layers = 2 * blocks_per_stage(depth, layers_per_block=2)
    return cifar(20, block="single", num_blocks=(num_layers,) * 3, connection="highway")
