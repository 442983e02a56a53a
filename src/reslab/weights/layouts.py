"""Layouts: how others call the parts of our networks, each as a table of rules, read in both directions.

``translation.py`` says how a rule is read.

Shape letters: D features, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from reslab.weights.fold import fold_epsilon, fold_keras
from reslab.weights.translation import Layout, Rule


def squeezed(value: Tensor) -> Tensor:
    """A 1x1 convolution's weight as a linear layer's: (K, D, 1, 1) -> (K, D)."""
    return value.flatten(1) if value.ndim > 2 else value


def unsqueezed(value: Tensor) -> Tensor:
    """The inverse, for images: (K, D) -> (K, D, 1, 1)."""
    return value[:, :, None, None] if value.ndim == 2 else value


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
