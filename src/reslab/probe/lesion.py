"""The lesion study: how much worse the network gets without one block's branch."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.probe.cut import Cut, repeatable, survey
from reslab.probe.reading import Batch, LossFn
from reslab.records import LesionRecord

SAME = 1e-2
"""Two losses that differ by less are the same: without gradients, other kernels may run, and round otherwise."""


class Lesions(NamedTuple):
    """What a lesion study has found.

    Args:
        loss: of the whole network.
        lesions: one for each block whose branch can be taken away, in order of execution.
        not_cut: name of each other block to the reason.
    """

    loss: float
    lesions: tuple[LesionRecord, ...]
    not_cut: dict[str, str]


def lesions(model: nn.Module, batch: Batch, loss_fn: LossFn, *, mode: Literal["eval", "train"] = "eval") -> Lesions:
    """The loss of a batch without the branch of each block in turn; the shortcut stays, a projection too.

    It takes a forward pass for each block and two besides. The model is left as it was, bit for bit.

    Args:
        model: any.
        batch: inputs and targets, as ``diagnose`` takes them.
        loss_fn: outputs and targets to a scalar.
        mode: of the model in all passes. In ``eval`` the norms use the statistics that training has stored, as in the
            paper, and no block can make up for the one that is missing; before training there are none worth using.
            In ``train`` they use the batch's own, which are taken again without the block, and random masks are the
            same in all passes.

    Raises:
        RequestError: if the loss is no scalar or has no graph, or no two passes are alike.

    Example:
        >>> import reslab
        >>> model, batch = reslab.create_model("resnet8", 3), (torch.randn(4, 3, 16, 16), torch.arange(4) % 3)
        >>> [lesion.name for lesion in lesions(model, batch, nn.functional.cross_entropy).lesions]
        ['layer1.0', 'layer2.0', 'layer3.0']

    Reference:
        Veit et al. 2016, arXiv:1605.06431, sec. 4.1.
    """
    is_training = mode == "train"
    with repeatable(model, is_training=is_training):
        seen = survey(model, batch, loss_fn)
    found = [(index, junction) for index, junction in enumerate(seen.junctions) if junction.why_not is None]
    losses: list[Tensor] = []
    for without in [{}, *({junction.call: junction.branch} for _, junction in found)]:
        with repeatable(model, is_training=is_training), torch.no_grad():
            losses.append(Cut(seen, without).loss_of(model, batch, loss_fn).detach())
    whole, *others = torch.stack(losses).tolist()  # read from the device at once
    check(seen.loss, whole)
    return Lesions(
        loss=whole,
        lesions=tuple(
            LesionRecord(index=index, name=junction.name, loss=loss, increase=loss - whole)
            for (index, junction), loss in zip(found, others, strict=True)
        ),
        not_cut={junction.name: junction.why_not for junction in seen.junctions if junction.why_not is not None},
    )


def check(first: float, again: float) -> None:
    """Refuses a model that gives another loss for the same batch: what is left out is not what makes the difference."""
    same = math.isclose(first, again, rel_tol=SAME, abs_tol=SAME) or (math.isnan(first) and math.isnan(again))
    if not same:
        raise RequestError(
            f"The model gave a loss of {first:.6g} and then, for the same batch, of {again:.6g}. It must not use random"
            " numbers that are not torch's, nor keep anything from one pass to the next but in its buffers."
        )
