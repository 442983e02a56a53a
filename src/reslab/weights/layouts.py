"""Layouts: how others call the parts of our networks, each as a table of rules, read in both directions.

A rule is a pair of templates, theirs and ours. ``{s} {b} {n} {i}`` stand for numbers (stage, block, convolution, place
in a Sequential), ``{s-1}`` for one less; ``{p}`` for the name of a parameter. Our names are torchvision's.

Shape letters: D features, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from torch import Tensor

Change = Callable[[Tensor], Tensor]

KERAS_EPSILON, OUR_EPSILON = 1.001e-5, 1e-5


@dataclass(frozen=True)
class Rule:
    """How a group of names is written on either side.

    Args:
        theirs: template of a name.
        ours: the same in our names.
        to_ours: what becomes of the tensor; None for nothing.
        to_theirs: the inverse.
        note: what ``to_ours`` does, for the report.
    """

    theirs: str
    ours: str
    to_ours: Change | None = None
    to_theirs: Change | None = None
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """Names of one library or repository.

    Args:
        name: short, as in ``--to``.
        title: whose names these are.
        marks: patterns; a file has this layout if each of them matches some key, and none of ``absent`` does.
        absent: patterns.
        rules: how names are translated. Names that none matches stay, or are unknown if the layout is ``closed``.
        closed: whether the rules name every key there can be.
        implies: choices of the architecture that keys and shapes don't show, but the layout does.
        reason: why it implies them, for the report.
        finish: what remains to be done with all tensors together.
        input: what images these networks were made for.
        refusal: why no network of ours can have such weights.
    """

    name: str
    title: str
    marks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    closed: bool = True
    implies: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    finish: Callable[[Translation], None] | None = None
    input: str = ""
    refusal: str = ""


@dataclass
class Translation:
    """Tensors of a file under our names.

    Args:
        layout: that they had.
        tensors: by our names.
        sources: for each of our names the key it came from.
        notes: for a key of the file, what was done to its tensor.
        merged: for a key of the file whose values went into another tensor: which one, what that is called in a report,
            and how.
        unknown: tensors that the layout has no name for, by their keys.
        prefix: what stood before every key in the file.
    """

    layout: Layout
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    merged: dict[str, tuple[str, Literal["adapted"], str]] = field(default_factory=dict)
    unknown: dict[str, Tensor] = field(default_factory=dict)
    prefix: str = ""


def squeezed(value: Tensor) -> Tensor:
    """A 1x1 convolution's weight as a linear layer's: (K, D, 1, 1) -> (K, D)."""
    return value.flatten(1) if value.ndim > 2 else value


def unsqueezed(value: Tensor) -> Tensor:
    """The inverse, for images: (K, D) -> (K, D, 1, 1)."""
    return value[:, :, None, None]


def fold_keras(translation: Translation) -> None:
    """Folds what Keras' post-activation networks have and ours don't into the norm that follows, exact in eval mode.

    ``norm(conv(x) + bias)`` is the norm with its mean less the bias; a larger epsilon is a larger variance.
    """
    tensors = translation.tensors
    for name in [name for name in tensors if is_convolution_bias(name)]:
        mean = norm_after(name.removesuffix(".bias")) + ".running_mean"
        if mean in tensors:
            tensors[mean] = tensors[mean] - tensors.pop(name)
            translation.notes[translation.sources[mean]] = "less the bias of the convolution before it"
            key = translation.sources.pop(name)
            translation.merged[key] = (mean, "adapted", "taken from the mean of the norm after it")
    fold_epsilon(translation)


def fold_epsilon(translation: Translation) -> None:
    """Adds the difference of Keras' epsilon and ours to the variances, and takes a head of another name as the head."""
    adopt_head(translation)
    for name in translation.tensors:
        if name.endswith("running_var"):
            translation.tensors[name] = translation.tensors[name] + (KERAS_EPSILON - OUR_EPSILON)
            translation.notes[translation.sources[name]] = "epsilon 1.001e-5 made 1e-5"


def adopt_head(translation: Translation) -> None:
    """Takes the only dense layer for the head, where the file has no layer ``predictions``.

    That is what users put on a network of keras.applications without its top.
    """
    dense = {key for key, value in translation.unknown.items() if key.endswith(".weight") and value.ndim == 2}
    if "fc.weight" in translation.tensors or len(dense) != 1:
        return
    layer = dense.pop().removesuffix(".weight")
    for part in ("weight", "bias"):
        if (value := translation.unknown.pop(f"{layer}.{part}", None)) is not None:
            translation.tensors[f"fc.{part}"] = value
            translation.sources[f"fc.{part}"] = f"{layer}.{part}"
            translation.notes[f"{layer}.{part}"] = "the file's only dense layer, taken for the head"


def is_convolution_bias(name: str) -> bool:
    """Whether a name of ours is the bias of a convolution, in a layout without scalar biases.

    Example:
        >>> [is_convolution_bias(f"layer1.0.{part}.bias") for part in ("conv2", "bn2", "downsample.0", "downsample.1")]
        [True, False, True, False]
    """
    return bool(re.search(r"(^|\.)(conv\d|downsample\.0)\.bias$", name))


def norm_after(conv: str) -> str:
    """Name of the norm that follows a convolution in a post-activation network.

    Example:
        >>> norm_after("conv1"), norm_after("layer1.0.conv3"), norm_after("layer1.0.downsample.0")
        ('bn1', 'layer1.0.bn3', 'layer1.0.downsample.1')
    """
    return re.sub(r"conv(\d)$", r"bn\1", re.sub(r"downsample\.0$", "downsample.1", conv))


SAME_BLOCKS = (
    Rule("conv1.{p}", "conv1.{p}"),
    Rule("bn1.{p}", "bn1.{p}"),
    Rule("layer{s}.{b}.conv{n}.{p}", "layer{s}.{b}.conv{n}.{p}"),
    Rule("layer{s}.{b}.bn{n}.{p}", "layer{s}.{b}.bn{n}.{p}"),
)

PREACTIVATION_STEM = (
    Rule("stem.conv.{p}", "conv1.{p}"),
    Rule("stem.conv1.{p}", "conv1.0.{p}"),
    Rule("stem.norm1.{p}", "conv1.1.{p}"),
    Rule("stem.conv2.{p}", "conv1.3.{p}"),
    Rule("stem.norm2.{p}", "conv1.4.{p}"),
    Rule("stem.conv3.{p}", "conv1.6.{p}"),
)


def timm_v2_rules(shortcut: int) -> tuple[Rule, ...]:
    """Those of timm's ``resnetv2.py``.

    Args:
        shortcut: place of the convolution in our shortcut: 1 if a pool stands before it, or else 0.
    """
    return (
        *PREACTIVATION_STEM,
        Rule("stages.{s-1}.blocks.{b}.conv{n}.{p}", "layer{s}.{b}.conv{n}.{p}"),
        Rule("stages.{s-1}.blocks.{b}.norm{n}.{p}", "layer{s}.{b}.bn{n}.{p}"),
        Rule("stages.{s-1}.blocks.{b}.downsample.conv.{p}", f"layer{{s}}.{{b}}.downsample.{shortcut}.{{p}}"),
        Rule("norm.{p}", "norm.{p}"),
        Rule("head.fc.weight", "fc.weight", squeezed, unsqueezed, "1x1 convolution made a linear layer"),
        Rule("head.fc.bias", "fc.bias"),
    )


NF_RULES = (
    # timm's nfnet.py: the ResNets in it; their shortcuts have a pool before the convolution
    *PREACTIVATION_STEM,
    Rule("stages.{s-1}.{b}.conv{n}.{p}", "layer{s}.{b}.conv{n}.{p}"),
    Rule("stages.{s-1}.{b}.downsample.conv.{p}", "layer{s}.{b}.downsample.1.{p}"),
    Rule("stages.{s-1}.{b}.attn_last.fc{n}.{p}", "layer{s}.{b}.se.fc{n}.{p}"),
    Rule("stages.{s-1}.{b}.attn_last.conv.{p}", "layer{s}.{b}.se.conv.{p}"),
    Rule("head.fc.{p}", "fc.{p}"),
)

KERAS_V1_RULES = (
    Rule("conv1_conv.{p}", "conv1.{p}"),
    Rule("conv1_bn.{p}", "bn1.{p}"),
    Rule("conv{s+1}_block{b+1}_0_conv.{p}", "layer{s}.{b}.downsample.0.{p}"),
    Rule("conv{s+1}_block{b+1}_0_bn.{p}", "layer{s}.{b}.downsample.1.{p}"),
    Rule("conv{s+1}_block{b+1}_{n}_conv.{p}", "layer{s}.{b}.conv{n}.{p}"),
    Rule("conv{s+1}_block{b+1}_{n}_bn.{p}", "layer{s}.{b}.bn{n}.{p}"),
    Rule("predictions.{p}", "fc.{p}"),
)

KERAS_V2_RULES = (
    Rule("conv1_conv.{p}", "conv1.{p}"),
    Rule("conv{s+1}_block{b+1}_preact_bn.{p}", "layer{s}.{b}.bn1.{p}"),
    Rule("conv{s+1}_block{b+1}_0_conv.{p}", "layer{s}.{b}.downsample.0.{p}"),
    Rule("conv{s+1}_block{b+1}_{n}_conv.{p}", "layer{s}.{b}.conv{n}.{p}"),
    Rule("conv{s+1}_block{b+1}_{n-1}_bn.{p}", "layer{s}.{b}.bn{n}.{p}"),  # bn1 is the one before the block
    Rule("post_bn.{p}", "norm.{p}"),
    Rule("predictions.{p}", "fc.{p}"),
)


def transformers_rules(prefix: str) -> tuple[Rule, ...]:
    """Those of Hugging Face's ``modeling_resnet.py``, with or without the name of the backbone before them."""
    block = f"{prefix}encoder.stages.{{s-1}}.layers.{{b}}"
    return (
        Rule(f"{prefix}embedder.embedder.convolution.{{p}}", "conv1.{p}"),
        Rule(f"{prefix}embedder.embedder.normalization.{{p}}", "bn1.{p}"),
        Rule(f"{block}.layer.{{n-1}}.convolution.{{p}}", "layer{s}.{b}.conv{n}.{p}"),
        Rule(f"{block}.layer.{{n-1}}.normalization.{{p}}", "layer{s}.{b}.bn{n}.{p}"),
        Rule(f"{block}.shortcut.convolution.{{p}}", "layer{s}.{b}.downsample.0.{p}"),
        Rule(f"{block}.shortcut.normalization.{{p}}", "layer{s}.{b}.downsample.1.{p}"),
    )


XTERNALZ_RULES = (
    # the wide network that most repositories have copied
    Rule("conv1.{p}", "conv1.{p}"),
    Rule("block{s}.layer.{b}.conv{n}.{p}", "layer{s}.{b}.conv{n}.{p}"),
    Rule("block{s}.layer.{b}.bn{n}.{p}", "layer{s}.{b}.bn{n}.{p}"),
    Rule("block{s}.layer.{b}.convShortcut.{p}", "layer{s}.{b}.downsample.0.{p}"),
    Rule("bn1.{p}", "norm.{p}"),
    Rule("fc.{p}", "fc.{p}"),
)

OPENMMLAB_RULES = (
    *(Rule(f"backbone.{rule.theirs}", rule.ours) for rule in SAME_BLOCKS),
    Rule("backbone.layer{s}.{b}.downsample.{i}.{p}", "layer{s}.{b}.downsample.{i}.{p}"),
    Rule("head.fc.{p}", "fc.{p}"),
)

V15 = {"stride_on": "3x3"}
"""Where the stride is in every network of timm."""

RESLAB = Layout("reslab", "our own names, which are torchvision's", marks=(r"^conv1\.", r"^layer1\.0\."), closed=False)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "keras_v1",
        "keras.applications, ResNet50 to ResNet152",
        marks=(r"^conv2_block1_1_bn\.", r"^conv1_conv\."),
        absent=(r"preact_bn",),
        rules=KERAS_V1_RULES,
        implies={"stride_on": "1x1"},
        reason="Keras' ResNet50 has the stride on the first 1x1 convolution of a bottleneck",
        finish=fold_keras,
        input="BGR from 0 to 255, less the means 103.939, 116.779, 123.68",
    ),
    Layout(
        "keras_v2",
        "keras.applications, ResNet50V2 to ResNet152V2",
        marks=(r"^conv2_block1_preact_bn\.", r"^conv1_conv\."),
        rules=KERAS_V2_RULES,
        implies={"stem": "tensorflow", "stride_in": "last"},
        reason="Keras' V2 networks have the stride in the last block of a stage and pad the max-pool with zeros",
        finish=fold_epsilon,
        input="RGB from -1 to 1",
    ),
    Layout(
        "timm_nf",
        "timm's nfnet.py, nf_resnet50 and the like",
        marks=(r"^stem\.conv\.gain$", r"^stages\.0\.0\.conv1\.gain$"),
        rules=NF_RULES,
        implies=V15,
        reason="timm has the stride on the 3x3 convolution",
    ),
    Layout(
        "timm_v2d_gn",
        "timm's resnetv2.py with deep stem and group norm",
        marks=(r"^stages\.0\.blocks\.0\.norm1\.", r"^stem\.conv1\."),
        absent=(r"running_mean$", r"norm1\.(v|tau)$"),
        refusal="its stem divides 32 channels into 32 groups, where a group norm of ours has two channels a group: no"
        " network of ours computes the same",
    ),
    Layout(
        "timm_v2d",
        "timm's resnetv2.py with deep stem",
        marks=(r"^stages\.0\.blocks\.0\.norm1\.", r"^stem\.conv1\."),
        rules=timm_v2_rules(shortcut=1),
        implies={**V15, "shortcut": "projection_pool"},
        reason="timm's networks with a deep stem have a mean before the shortcut's convolution",
    ),
    Layout(
        "timm_v2",
        "timm's resnetv2.py",
        marks=(r"^stages\.0\.blocks\.0\.norm1\.", r"^stem\.conv\.", r"running_mean$"),
        rules=timm_v2_rules(shortcut=0),
        implies=V15,
        reason="timm has the stride on the 3x3 convolution",
    ),
    Layout(
        "timm_bit",
        "timm's resnetv2.py, Big Transfer",
        marks=(r"^stages\.0\.blocks\.0\.norm1\.", r"^stem\.conv\."),
        rules=timm_v2_rules(shortcut=0),
        implies={**V15, "conv": "standardised", "stem": "tensorflow"},
        reason="timm's networks with a 7x7 stem and group norm are Big Transfer's, whose convolutions are standardised"
        " and whose max-pool is padded with zeros",
        input="RGB from -1 to 1",
    ),
    Layout(
        "akamaster",
        "akamaster/pytorch_resnet_cifar10",
        marks=(r"^linear\.weight$", r"^layer3\.0\.conv1\."),
        absent=(r"shortcut\.\d", r"^layer4\.", r"downsample"),
        rules=(*SAME_BLOCKS, Rule("linear.{p}", "fc.{p}")),
        implies={"shortcut": "zero_pad_both"},
        reason="akamaster's option A puts the new channels half before and half after the old ones",
        input="CIFAR-10 normalised by ImageNet's mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225)",
    ),
    Layout(
        "kuangliu_preact",
        "kuangliu/pytorch-cifar, PreActResNet",
        marks=(r"^linear\.weight$", r"^layer1\.0\.bn1\."),
        absent=(r"^bn1\.", r"^bn\."),
        refusal="it has neither norm nor activation between the last block and the head, where the network of He et al."
        " 2016, and ours, has both. No values of the norm make the two equal",
    ),
    Layout(
        "kuangliu",
        "kuangliu/pytorch-cifar",
        marks=(r"^linear\.weight$", r"^layer1\.0\.conv1\.", r"shortcut\.0\."),
        rules=(
            *SAME_BLOCKS,
            Rule("layer{s}.{b}.shortcut.{i}.{p}", "layer{s}.{b}.downsample.{i}.{p}"),
            Rule("linear.{p}", "fc.{p}"),
        ),
    ),
    Layout(
        "transformers",
        "Hugging Face's transformers, ResNetForImageClassification",
        marks=(r"^(resnet\.)?embedder\.embedder\.convolution\.",),
        rules=(*transformers_rules("resnet."), *transformers_rules(""), Rule("classifier.1.{p}", "fc.{p}")),
    ),
    Layout(
        "xternalz",
        "xternalz/WideResNet-pytorch",
        marks=(r"^block1\.layer\.0\.bn1\.", r"^bn1\."),
        rules=XTERNALZ_RULES,
    ),
    Layout(
        "openmmlab",
        "OpenMMLab's mmpretrain",
        marks=(r"^backbone\.layer1\.0\.conv1\.", r"^head\.fc\."),
        rules=OPENMMLAB_RULES,
    ),
    RESLAB,
)
"""Every layout that is read; the first whose marks are found is taken."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout | None:
    """The layout that the keys show; None if it is none we know."""
    for layout in LAYOUTS:
        found = all(any(re.search(mark, key) for key in tensors) for mark in layout.marks)
        if found and not any(re.search(mark, key) for key in tensors for mark in layout.absent):
            return layout
    return None


def translate(tensors: Mapping[str, Tensor], layout: Layout, *, prefix: str = "") -> Translation:
    """The tensors under our names.

    Args:
        tensors: by the file's keys.
        layout: of the keys.
        prefix: that was taken off them, for the report.
    """
    result = Translation(layout, prefix=prefix)
    for key, value in tensors.items():
        name, rule = renamed(key, layout.rules, forward=True)
        if name is None and layout.closed:
            result.unknown[key] = value
            continue
        name = name or key
        result.tensors[name] = rule.to_ours(value) if rule and rule.to_ours else value
        result.sources[name] = key
        if rule and rule.note and result.tensors[name].shape != value.shape:
            result.notes[key] = rule.note
    if layout.finish:
        layout.finish(result)
    return result


def renamed(name: str, rules: tuple[Rule, ...], *, forward: bool) -> tuple[str | None, Rule | None]:
    """A name by the first rule that matches it, and that rule; forward is from theirs to ours.

    Example:
        >>> renamed("stages.0.blocks.2.norm1.bias", timm_v2_rules(0), forward=True)[0]
        'layer1.2.bn1.bias'
        >>> renamed("layer1.2.bn1.bias", timm_v2_rules(0), forward=False)[0]
        'stages.0.blocks.2.norm1.bias'
    """
    for rule in rules:
        source, target = (rule.theirs, rule.ours) if forward else (rule.ours, rule.theirs)
        if (found := match_template(source, name)) is not None:
            return fill_template(target, found), rule
    return None, None


BLANK = re.compile(r"\\?\{([a-z])(?:\\?([+-]\d+))?\\?\}")  # in a template, escaped or not: {s}, {s-1}, {p}


def match_template(template: str, name: str) -> dict[str, str | int] | None:
    """What stands in the template's blanks; None if the name doesn't match."""
    pattern, offsets = compiled(template)
    found = pattern.fullmatch(name)
    if not found:
        return None
    return {key: text if key == "p" else int(text) - offsets[key] for key, text in found.groupdict().items()}


@cache
def compiled(template: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """The template as a pattern with named groups, and what its numbers have been moved by."""
    offsets: dict[str, int] = {}

    def group(blank: re.Match[str]) -> str:
        offsets[blank[1]] = int(blank[2] or 0)
        return f"(?P<{blank[1]}>{'[a-z_]+' if blank[1] == 'p' else '[0-9]+'})"

    return re.compile(BLANK.sub(group, re.escape(template))), offsets


def fill_template(template: str, values: Mapping[str, str | int]) -> str:
    """The template with its blanks filled."""

    def text(blank: re.Match[str]) -> str:
        value = values[blank[1]]
        return value if isinstance(value, str) else str(value + int(blank[2] or 0))

    return BLANK.sub(text, template)
