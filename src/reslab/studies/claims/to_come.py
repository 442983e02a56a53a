"""Claims that reslab can't test yet."""

from __future__ import annotations

from reslab.studies.claims.ledger import ARTICLES, Claim, Evidence, Finding


def not_yet(why: str) -> Finding:
    """A row that says so."""
    return Finding("not tested here", f"Not yet: {why}")


def compression(evidence: Evidence) -> Finding:
    """What makes networks small is a later stage."""
    return not_yet("reslab doesn't prune, distil or quantise so far.")


def transfer(evidence: Evidence) -> Finding:
    """So is what takes them to other tasks."""
    return not_yet("reslab classifies images only so far.")


CLAIMS = (
    Claim(
        "int8",
        "INT8 makes a network 4x smaller and 2 to 3x faster.",
        ARTICLES,
        "Sizes follow from 8 against 32 bits. Speed is the processor's and the runtime's: onnxruntime's own model page"
        " has 1.82x for ResNet-50 on a server CPU.",
        "",
        compression,
    ),
    Claim(
        "pruning",
        "L1 pruning makes a network smaller at no loss.",
        ARTICLES,
        "Li et al. 2016, arXiv:1608.08710: ResNet-56 and 110 on CIFAR-10 with up to 38 % of the operations less, at"
        " about the same error after fine-tuning. Liu et al. 2018, arXiv:1810.05270: so are small ones from scratch.",
        "",
        compression,
    ),
    Claim(
        "distillation",
        "A small network learns more from a large one than from labels.",
        ARTICLES,
        "Hinton et al. 2015, arXiv:1503.02531; later reproductions gain a point or two at best, some nothing.",
        "",
        compression,
    ),
    Claim(
        "dice",
        "Residual encoders raise the Dice score of segmentation by 8 %.",
        ARTICLES,
        "No source found. Published gains of that size are of pretraining, not of residual blocks.",
        "",
        transfer,
    ),
    Claim(
        "i3d",
        "A residual I3D reaches 78.2 % on video.",
        ARTICLES,
        "No source found. SlowFast's model zoo has 73.5 % for I3D with ResNet-50 on Kinetics-400.",
        "",
        transfer,
    ),
    Claim(
        "few-shot",
        "Prototypical networks reach 72.3 % on CIFAR-100 with five shots.",
        ARTICLES,
        "No source found, and undefined without a split: CIFAR-FS and FC100 are both made of CIFAR-100, and with a"
        " ResNet-12 the method has 57.08 % on FC100.",
        "",
        transfer,
    ),
    Claim(
        "detection",
        "A residual backbone raises the average precision of detection by 6.2 %.",
        ARTICLES,
        "He et al. 2015, table 8: ResNet-101 for VGG-16 in Faster R-CNN raises mAP@[.5, .95] on COCO by 6.0 points,"
        " from 21.2 to 27.2 %.",
        "",
        transfer,
    ),
)
