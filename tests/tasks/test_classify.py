"""Loss and metrics of classification against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reslab.errors import RequestError
from reslab.tasks.classify import Classify, probabilities

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 5.0]])
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_loss_is_cross_entropy_with_a_smoothed_target(smoothing):
    target = torch.full((4, 3), smoothing / 3)
    target[torch.arange(4), LABELS] += 1 - smoothing
    expected = -(target * torch.log_softmax(LOGITS, 1)).sum(1).mean()
    torch.testing.assert_close(Classify(3, label_smoothing=smoothing).loss(LOGITS, LABELS), expected)


def test_metrics_are_those_of_all_images_and_without_smoothing():
    task = Classify(3, label_smoothing=0.3)
    metrics = task.metrics()
    metrics.update(LOGITS[:3], (None, LABELS[:3]))
    metrics.update(LOGITS[3:], (None, LABELS[3:]))
    found = metrics.compute()
    assert found["error"] == 0.5
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(LOGITS, LABELS).item())
    assert found["confusion"] == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert found["class_errors"] == [0.0, 0.5, 1.0]
    assert int(task.num_wrong(LOGITS, LABELS)) == 2


def test_an_absent_class_has_no_error():
    metrics = Classify(3).metrics()
    metrics.update(LOGITS[:2], (None, LABELS[:2]))
    assert metrics.compute()["class_errors"] == [0.0, 0.0, None]


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_an_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(RequestError, match="label_smoothing"):
        Classify(3, label_smoothing=smoothing)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_probabilities_sum_to_one(values):
    assert probabilities(torch.tensor([values])).sum().item() == pytest.approx(1, abs=1e-5)
