"""Evaluation: eval mode, no gradient, and the mode put back."""

import pytest
import torch

from reslab.models.catalog import create_model
from reslab.train.evaluate import evaluate


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(loaders, task, training):
    model = create_model("resnet8", 3, in_channels=1).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, task, loaders[1])
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_mode_is_put_back_after_an_error(loaders, task):
    model = create_model("resnet8", 3, in_channels=3).train()
    with pytest.raises(RuntimeError):
        evaluate(model, task, loaders[1])
    assert model.training


def test_numbers_are_those_of_one_big_batch(loaders, task):
    model = create_model("resnet8", 3, in_channels=1).eval()
    images, labels = (torch.cat(parts) for parts in zip(*loaders[1].batches(), strict=True))
    with torch.no_grad():
        logits = model(images)
    found = evaluate(model, task, loaders[1])
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["error"] == pytest.approx((logits.argmax(1) != labels).double().mean().item())
    assert found["num_images"] == 48
    assert sum(map(sum, found["confusion"])) == 48
