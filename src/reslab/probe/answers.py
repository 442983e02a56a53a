"""A classifier's answers, read from the cross-entropy's node in the graph: no matter who wrote the loss around it.

Shape letters: N samples or pixels, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from reslab.probe.graph import Graph
from reslab.records import AnswersRecord

SURE = 0.5
"""Probability from which an answer is a sure one."""
ENOUGH = 2**14
"""Pixels that are looked at, at most, spread over the batch."""


@torch.no_grad()
def answers_of(graph: Graph) -> AnswersRecord | None:
    """Right and wrong answers; None where the loss is no cross-entropy with one label each.

    To be asked before the backward pass, which lets go of what the node has saved.
    """
    found = [node for node, name in zip(graph.nodes, graph.names, strict=True) if name.startswith("NllLoss")]
    if not found:
        return None
    node: Any = found[-1]
    scores, labels = node._saved_self.detach(), node._saved_target
    scores, labels = scores.movedim(1, -1).flatten(0, -2), labels.flatten()  # (N, K, *) -> (N, K)
    used = labels != node._saved_ignore_index
    stride = max(1, len(labels) // ENOUGH)
    return tell(scores[used][::stride].float(), labels[used][::stride])


def tell(scores: Tensor, labels: Tensor) -> AnswersRecord:
    """Counts of what is right and wrong, and where the label stands among the other classes.

    Args:
        scores: (N, K), logarithms of probabilities.
        labels: (N,).

    Example:
        >>> tell(torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).log(), torch.tensor([0, 2]))
        AnswersRecord(num_classes=3, num_answers=2, num_wrong=1, num_sure=2, num_sure_wrong=1, wrong_rank=1.0)
    """
    num_classes = scores.shape[1]
    above = (scores > scores.gather(1, labels[:, None])).sum(dim=1)  # (N, K) -> (N), classes likelier than the label
    wrong, sure = above > 0, scores.amax(dim=1) > math.log(SURE)
    both = wrong & sure
    counts = [wrong.sum(), sure.sum(), both.sum(), ((above - 1) * both).sum()]
    num_wrong, num_sure, num_sure_wrong, places = torch.stack(counts).tolist()
    others = num_classes - 2  # places of the label behind the answer, from 0
    rank = places / (num_sure_wrong * others) if num_sure_wrong and others > 0 else math.nan
    return AnswersRecord(num_classes, len(labels), num_wrong, num_sure, num_sure_wrong, rank)
