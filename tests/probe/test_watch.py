"""Watching a training changes nothing in it, and sees what ``diagnose`` sees."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reslab
from reslab.errors import RequestError
from reslab.models.graph import in_order
from reslab.probe.diagnosis import diagnose
from reslab.probe.training import watch

STEPS = 5


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 16, 16, generator=generator), torch.arange(4) % 3) for _ in range(STEPS)]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return reslab.create_model("resnet20", 3)


def train(model: nn.Module, *, scaler: torch.amp.GradScaler | None = None) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, labels in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]


def test_training_goes_on_as_without():
    alone = train(network())
    model = network()
    with watch(model, every=2):
        watched = train(model)
    assert all(torch.equal(one, other) for one, other in zip(alone, watched, strict=True))


def test_it_reads_the_steps_that_are_due():
    model = network()
    with watch(model, every=2) as probe:
        train(model)
    assert [reading.step for reading in probe.readings] == [0, 2, 4]
    assert probe.diagnosis.verdict == "healthy"


def test_the_first_step_is_what_diagnose_says():
    model = network()
    expected = diagnose(model, batches()[0], F.cross_entropy).readings[0]
    with watch(model) as probe:
        train(model)
    found = probe.readings[0]
    assert found.blocks == expected.blocks
    assert found.loss == expected.loss
    assert [replace(p, update_norm=None) for p in found.parameters] == list(expected.parameters)
    assert found.answers == expected.answers


def test_the_scale_of_the_loss_is_divided_out():
    model, scaler = network(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with watch(model, scaler=scaler) as probe:
        train(model, scaler=scaler)
    plain = diagnose(network(), batches()[0], F.cross_entropy).readings[0]
    found = probe.readings[0]
    assert found.loss == pytest.approx(plain.loss)
    assert [b.grad_norm for b in found.blocks] == pytest.approx([b.grad_norm for b in plain.blocks], rel=1e-4)
    assert [p.grad_norm for p in found.parameters] == pytest.approx([p.grad_norm for p in plain.parameters], rel=1e-4)


def test_evaluation_in_between_is_no_step():
    model = network()
    images, labels = batches()[0]
    with watch(model, every=1) as probe:
        F.cross_entropy(model(images), labels).backward()
        model.eval()
        model(images)
        model.train()
        with torch.no_grad():
            model(images)
        F.cross_entropy(model(images), labels).backward()
    assert [reading.step for reading in probe.readings] == [0, 1]


def test_a_call_that_no_backward_pass_follows_is_forgotten():
    model = network()
    images, labels = batches()[0]
    with watch(model, every=1) as probe:
        model(images)
        F.cross_entropy(model(images), labels).backward()
    assert [reading.step for reading in probe.readings] == [1]


class Fails(nn.Module):
    """Raises in its second call."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.calls = nn.Linear(3, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2:
            raise ArithmeticError("mine")
        return self.head(x)


def test_nothing_is_left_behind_also_after_an_exception():
    model, backward = Fails(), torch.autograd.backward
    x = torch.ones(2, 3)

    def train_twice():
        for _ in range(2):
            model(x).sum().backward()

    with pytest.raises(ArithmeticError, match="mine"), watch(model, every=1) as probe:
        train_twice()
    assert len(probe.readings) == 1
    assert torch.autograd.backward is backward
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    model(x).sum().backward()
    assert len(probe.readings) == 1


def test_a_compiled_model_is_read_uncompiled():
    model = network()
    compiled = torch.compile(model, backend="eager")
    with watch(compiled, every=3) as probe:
        train(compiled)
    assert [block.name for block in probe.diagnosis.blocks] == [name for name, _ in model.blocks()]
    assert [reading.step for reading in probe.readings] == [0, 3]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(RequestError, match="from 1 on, got 0"):
        watch(network(), every=0)
    with pytest.raises(RequestError, match="Nothing has been read"), watch(network()) as probe:
        _ = probe.diagnosis


def test_an_evaluation_between_forward_and_backward_pass_does_not_disturb():
    model = network()
    images, labels = batches()[0]
    expected = diagnose(model, batches()[0], F.cross_entropy).readings[0]
    with watch(model, every=1) as probe:
        outputs = model(images)
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, 3, 16, 16))
        model.train()
        F.cross_entropy(outputs, labels).backward()
    assert probe.readings[0].outputs == expected.outputs
    assert probe.readings[0].blocks == expected.blocks


def test_an_input_that_asks_for_a_gradient_gets_it():
    """As in adversarial training."""
    images, labels = batches()[0]
    alone, watched = images.clone().requires_grad_(), images.clone().requires_grad_()
    F.cross_entropy(network()(alone), labels).backward()
    model = network()
    with watch(model, every=1) as probe:
        F.cross_entropy(model(watched), labels).backward()
    assert torch.equal(alone.grad, watched.grad)
    assert len(probe.readings[0].blocks) == 9


def test_what_comes_from_another_network_trains_that_too():
    images, labels = batches()[0]
    grads = []
    for is_watched in (False, True):
        torch.manual_seed(1)
        first, model = nn.Conv2d(3, 3, 3, padding=1), network()
        with watch(model, every=1) if is_watched else nullcontext():
            F.cross_entropy(model(first(images)), labels).backward()
        grads.append([p.grad.clone() for p in (*first.parameters(), *model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_the_gradient_of_the_data_is_not_computed():
    """It is part of no training step, and takes as long as a layer's."""
    images, labels = batches()[0]
    model, seen = network(), []
    with watch(model, every=1):
        loss = F.cross_entropy(model(images), labels)
        (entry,) = [node for node in in_order(loss.grad_fn) if node.name().startswith("Clone")]
        entry.register_prehook(lambda gradients: seen.append(gradients))
        loss.backward()
    assert seen == []
