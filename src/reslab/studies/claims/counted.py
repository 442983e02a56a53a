"""Claims that need no training: they are counted, or looked up."""

from __future__ import annotations

import torch
from torchvision.models import Inception_V3_Weights, ResNet50_Weights, inception_v3

from reslab.models.architecture import Architecture
from reslab.models.catalog import create_model
from reslab.studies.claims.ledger import ARTICLES, Claim, Evidence, Finding

HUMAN, CLAIMED = 5.1, 15.2
"""Top-5 errors in percent, of a person and as the claim has it for ResNet-152."""


def imagenet(evidence: Evidence) -> Finding:
    """Arithmetic is enough."""
    return Finding(
        "does not hold",
        f"{CLAIMED} % is not better than {HUMAN} %. Nothing was run: ImageNet isn't at hand.",
    )


def inception(evidence: Evidence) -> Finding:
    """Parameters counted, accuracies as torchvision records them with its weights."""
    with torch.device("meta"):
        resnet = create_model("resnet50")
        whole, bare = (inception_v3(weights=None, init_weights=False, aux_logits=aux) for aux in (True, False))
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (resnet, whole, bare)]
    first, second, other = (
        weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        for weights in (
            ResNet50_Weights.IMAGENET1K_V1,
            ResNet50_Weights.IMAGENET1K_V2,
            Inception_V3_Weights.IMAGENET1K_V1,
        )
    )
    fewer = counts[0] < counts[2]
    return Finding(
        "holds" if fewer and first > other else "holds in part",
        f"Parameters: ResNet-50 {counts[0]:,}; Inception-v3 {counts[1]:,} with the auxiliary head that it has in"
        f" training only, {counts[2]:,} without. Top-1 by torchvision's records: ResNet-50 {first:.2f} % by its first"
        f" recipe and {second:.2f} % by its second, Inception-v3 {other:.2f} %. So it wins by recipe, not by blocks.",
    )


def macs_a_position(block: str, channels: int) -> int:
    """Multiply-adds of a block's convolutions at one position, from and to so many channels."""
    width = channels if block == "basic" else channels // 4
    shape = Architecture(block="basic" if block == "basic" else "bottleneck", num_blocks=(1,), widths=(width,))
    convolutions = shape.convolutions(channels, width)
    return sum(conv.in_channels * conv.out_channels * conv.kernel**2 // conv.groups for conv in convolutions)


def bottleneck(evidence: Evidence) -> Finding:
    """Twice the channels cost four times as much, with either block."""
    basic, narrow = ([macs_a_position(block, channels) for channels in (256, 512)] for block in ("basic", "bottleneck"))
    return Finding(
        "does not hold",
        f"Multiply-adds a position at 256 and 512 channels: two 3x3 {basic[0]:,} and {basic[1]:,}; bottleneck"
        f" {narrow[0]:,} and {narrow[1]:,}. It is {basic[0] / narrow[0]:.1f} times cheaper, but twice the channels cost"
        f" {basic[1] / basic[0]:.0f} and {narrow[1] / narrow[0]:.0f} times as much: both grow with the square.",
    )


CLAIMS = (
    Claim(
        "human",
        "ResNet-152 has 15.2 % top-5 error, better than the human 5.1 %.",
        ARTICLES,
        "Contradicts its source: He et al. 2015 have 4.49 % for one ResNet-152 (table 4) and 3.57 % for an ensemble"
        " on the test set (table 5).",
        "",
        imagenet,
    ),
    Claim(
        "inception",
        "ResNet-50 has 25 M parameters, fewer than Inception-v3's 27 M, and beats it.",
        ARTICLES,
        "He et al. 2015 don't compare them: Inception-v3 (Szegedy et al., arXiv:1512.00567) appeared days before.",
        "",
        inception,
    ),
    Claim(
        "bottleneck",
        "The bottleneck reduces O(k\N{SUPERSCRIPT TWO} C\N{SUPERSCRIPT TWO}) to O(k\N{SUPERSCRIPT TWO} C).",
        ARTICLES,
        "He et al. 2015, section 4.1, say only that a bottleneck of three layers costs about as much as a basic block"
        " of a quarter of its channels.",
        "",
        bottleneck,
    ),
)
