"""What a classifier answered is what its own logits say."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reslab.probe._reading import count_answers
from reslab.probe.diagnosis import diagnose


class Says(nn.Module):
    """Answers with what it holds, moved by a weight of 0."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.weight = logits, nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits + self.weight * x.sum()


def answers(logits, labels, **loss):
    model = Says(logits)
    batch = torch.ones(len(labels), 2), labels
    return diagnose(model, batch, lambda outputs, y: F.cross_entropy(outputs, y, **loss)).readings[0].answers


LOGITS = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [1, 9, 3, 2]])
"""The first three are sure by 64 %, the last one by nearly all."""


@pytest.mark.parametrize("loss", [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(4)}])
def test_right_and_wrong_and_the_labels_place(loss):
    found = answers(LOGITS, torch.tensor([0, 1, 3, 2]), **loss)
    assert (found.num_classes, found.num_answers, found.num_wrong) == (4, 4, 3)
    assert (found.num_sure, found.num_sure_wrong) == (4, 3)
    assert found.wrong_rank == pytest.approx((0 + 2 / 2 + 0) / 3)


def test_only_sure_answers_count_for_the_labels_place():
    found = answers(torch.tensor([[1.0, 0.9, 0, 0], [9, 3, 2, 1]]), torch.tensor([3, 2]))
    assert (found.num_wrong, found.num_sure, found.num_sure_wrong, found.wrong_rank) == (2, 1, 1, 0.5)


def test_what_the_loss_ignores_is_left_out():
    found = answers(LOGITS, torch.tensor([0, -100, -100, 1]))
    assert (found.num_answers, found.num_wrong) == (2, 0)
    assert math.isnan(found.wrong_rank)


def test_pixels_are_answers_too():
    logits = LOGITS.T.reshape(1, 4, 2, 2)
    found = answers(logits, torch.tensor([[[0, 1], [3, 2]]]))
    assert (found.num_answers, found.num_wrong) == (4, 3)


def test_mixed_labels_have_no_answer():
    assert answers(LOGITS, torch.full((4, 4), 0.25)) is None


def test_another_loss_has_none():
    model = nn.Linear(2, 1)
    reading = diagnose(model, (torch.ones(3, 2), torch.ones(3, 1)), F.mse_loss).readings[0]
    assert reading.answers is None


def test_labels_by_lot_stand_in_the_middle():
    torch.manual_seed(0)
    found = count_answers((4 * torch.randn(20_000, 10)).log_softmax(dim=1), torch.randint(10, (20_000,)))
    assert found.wrong_rank == pytest.approx(0.5, abs=0.01)
    assert found.num_wrong / 20_000 == pytest.approx(0.9, abs=0.01)
