"""Layers and junctions in words, such as "3x3 conv, 64, /2"."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reslab.layers.junction import Add, BranchOnly, DroppedShortcutAdd, GatedAdd, ScaledAdd
from reslab.layers.nd import CellMean
from reslab.layers.shortcut import NoShortcut, ZeroPad
from reslab.models.block import Block
from reslab.records.structure import LayerKind, LayerRecord

WHOLES: dict[str, tuple[LayerKind, str]] = {
    "FrozenBatchNorm": ("norm", "frozen norm"),
    "FrozenBatchNorm2d": ("norm", "frozen norm"),
    "SqueezeExcite": ("attention", "squeeze-excite"),
    "SqueezeExcitation": ("attention", "squeeze-excite"),
    "EfficientChannelAttention": ("attention", "ECA"),
    "MultiheadAttention": ("attention", "attention"),
    "ZeroPaddedMaxPool": ("pool", "3x3 max-pool, /2"),
    "DropPath": ("other", "drop path"),
    "StochasticDepth": ("other", "drop path"),
    "ScalarBias": ("other", "bias"),
    "ScalarAffine": ("other", "scale + bias"),
    "Multiply": ("other", "scale"),
}
"""Modules by the names of their classes, ours and others'; the layers inside them are not listed."""
NORMS = ("BatchNorm", "SyncBatchNorm", "InstanceNorm", "LayerNorm", "RMSNorm")


def is_layer(module: nn.Module) -> bool:
    """Return whether a module is named as a whole: it has no parts, or they don't matter."""
    return type(module).__name__ in WHOLES or next(module.children(), None) is None


def describe(module: nn.Module) -> LayerRecord | None:
    """Return what a layer is; None if it does nothing."""
    kind = type(module).__name__
    match module:
        case _ if kind in WHOLES:
            return LayerRecord(*WHOLES[kind])
        case nn.Identity() | nn.Flatten() | nn.Dropout(p=0) | nn.Dropout2d(p=0) | NoShortcut() | BranchOnly():
            return None
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return LayerRecord("conv", conv_text(module))
        case nn.Linear():
            return LayerRecord("linear", f"linear, {module.out_features}")
        case nn.GroupNorm(num_groups=groups):
            return LayerRecord("norm", "group norm" if groups > 1 else "layer norm")
        case _ if kind.startswith(NORMS):
            return LayerRecord("norm", f"{kind.partition('Norm')[0].lower()} norm")
        case CellMean(side=side):
            return LayerRecord("pool", f"{sides(side)} avg-pool, /{side}")
        case _ if "Pool" in kind:
            return LayerRecord("pool", pool_text(module))
        case nn.Dropout(p=rate) | nn.Dropout2d(p=rate):
            return LayerRecord("other", f"dropout {rate:g}")
        case ZeroPad():
            name = "zero-pad" if module.before + module.after else "subsample"
            return LayerRecord("other", ", ".join([name, *stride_text(module.stride)]))
    is_activation = type(module).__module__ == nn.ReLU.__module__
    return LayerRecord("activation" if is_activation else "other", kind)


def conv_text(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> str:
    """Such as "3x3 conv, 128, 32 groups, /2"."""
    parts = [f"{sides(conv.kernel_size)} conv", str(conv.out_channels)]
    if conv.groups > 1:
        parts.append("depthwise" if conv.groups == conv.in_channels else f"{conv.groups} groups")
    if any(step > 1 for step in conv.dilation):
        parts.append(f"dilation {max(conv.dilation)}")
    return ", ".join(parts + stride_text(conv.stride))


def pool_text(pool: nn.Module) -> str:
    """Such as "3x3 max-pool, /2" or "global avg-pool"."""
    kind = "max-pool" if "Max" in type(pool).__name__ else "avg-pool"
    if "Adaptive" in type(pool).__name__:
        size = pool.output_size
        goals = {size} if isinstance(size, int) else set(size)  # type: ignore[arg-type]
        return f"global {kind}" if goals == {1} else f"{kind} to {sides(size)}"
    kernel = getattr(pool, "kernel_size", 0)
    name = f"{sides(kernel)} {kind}" if kernel else kind
    return ", ".join([name, *stride_text(getattr(pool, "stride", 1))])


def sides(size: Any) -> str:
    """3 or (3, 3) as "3x3"; of a sequence's kernel "3"."""
    return "x".join(map(str, size)) if isinstance(size, tuple | list) else f"{size}x{size}"


def stride_text(stride: Any) -> list[str]:
    """["/2"], or nothing for stride 1."""
    steps = stride if isinstance(stride, tuple | list) else (stride,)
    if set(steps) == {1}:
        return []
    return ["/" + (str(steps[0]) if len(set(steps)) == 1 else "x".join(map(str, steps)))]


def junction_text(block: Block) -> str:
    """How shortcut and branch are joined; empty if the branch is alone."""
    if block.streams is not None:
        return f"add, {block.streams.num_streams} streams"
    match block.junction:
        case BranchOnly():
            return ""
        case GatedAdd(exclusive=exclusive):
            return "add, both gated" if exclusive else "add, shortcut gated"
        case DroppedShortcutAdd():
            return "add, shortcut dropped out"
        case ScaledAdd(shortcut_gain=gain, branch_scale=scale):
            texts = ["add"] if gain == 1 else ["add", f"shortcut x {gain:.3g}"]
            if isinstance(scale, Tensor):
                texts.append("branch x learned scale")
            elif scale != 1:
                texts.append(f"branch x {scale:.3g}")
            return ", ".join(texts)
        case Add():
            return "add"
        case other:
            return type(other).__name__
