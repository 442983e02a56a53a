"""Readings in the steps of ``fit``: those that ``watch`` takes in a bare loop, and nothing in the training changes."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reslab
from reslab.errors import RequestError
from reslab.probe.diagnosis import diagnose
from reslab.probe.rules import Evidence, judge
from reslab.probe.training import StepReadings, evenly, step_readings, watch
from reslab.tasks.classify import Classify
from reslab.training.execution import ExecutionMode
from reslab.training.loop import Recorder, fit
from reslab.training.options import TrainOptions
from reslab.training.schedule import constant

LR, STEPS = 0.05, 6


class Batches:
    """Three batches of eight images an epoch, the same in each."""

    batch_size, num_samples = 8, 24

    def __len__(self) -> int:
        return 3

    def batches(self, epoch=0, *, start=0):
        generator = torch.Generator().manual_seed(0)
        made = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 3) for _ in range(3)]
        yield from made[start:]


class Keep(Recorder):
    def __init__(self, *, state=None, interrupt_at=None):
        self.state, self.interrupt_at = state, interrupt_at
        self.readings, self.losses, self.saved = [], [], None

    def restore(self):
        return self.state

    def step(self, record):
        self.losses.append(record.loss)
        if record.step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def probe(self, records):
        self.readings.extend(records)

    def checkpoint(self, state, *, step):
        torch.save(state, buffer := io.BytesIO())
        buffer.seek(0)
        self.saved = torch.load(buffer, weights_only=True)


def network(name="resnet8", **changes) -> nn.Module:
    torch.manual_seed(0)
    return reslab.create_model(name, 3, **changes)


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-3)


def train(model, *, probed=True, when=lambda step: True, recorder=None, amp="none", channels_last=False, **options):
    recorder, optimizer = recorder or Keep(), optimiser(model)
    fit(
        model,
        Classify(3),
        (Batches(), None),
        optimizer=optimizer,
        schedule=constant(LR),
        options=TrainOptions(steps=STEPS, **options),
        mode=ExecutionMode(amp, channels_last=channels_last),
        recorder=recorder,
        probes=[StepReadings(model, optimizer, when=when)] if probed else [],
    )
    return recorder


def untimed(readings):
    return [replace(reading, duration_s=0.0) for reading in readings]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"clip_grad_norm": 0.1, "l1": 1e-3},
        {"ema_decay": 0.9, "channels_last": True},
        {"amp": "bf16"},
        {"amp": "fp16"},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_training_goes_on_bit_for_bit_as_without(options):
    alone = network(dropout=0.2)
    without = train(alone, probed=False, **options)
    probed = network(dropout=0.2)  # which also sets the seed again
    found = train(probed, **options)
    assert found.losses == without.losses
    for (name, value), other in zip(alone.state_dict().items(), probed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert len(found.readings) == STEPS


def test_a_reading_is_what_watch_sees_in_a_bare_loop():
    model = network()
    optimizer = optimiser(model)
    with watch(model, every=1) as probe:
        for images, labels in [*Batches().batches(), *Batches().batches()]:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    assert untimed(train(network()).readings) == untimed(probe.readings)


def test_of_a_batch_in_parts_the_first_is_read_and_the_whole_step_seen():
    images, labels = next(Batches().batches())
    first = (images[:3], labels[:3])  # 8 = 3 + 3 + 2
    expected = diagnose(network(), first, F.cross_entropy, step=0).readings[0]
    found = train(network(), accumulate=3).readings[0]
    assert (found.num_samples, found.loss) == (3, pytest.approx(expected.loss))
    for ours, theirs in zip(found.blocks, expected.blocks, strict=True):
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)
        assert ours.shortcut_share == pytest.approx(theirs.shortcut_share, rel=1e-5)
    for ours, theirs in zip(found.parameters, expected.parameters, strict=True):
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    model = network()
    for part in (slice(0, 3), slice(3, 6), slice(6, 8)):
        (F.cross_entropy(model(images[part]), labels[part]) * len(labels[part]) / 8).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert found.update.grad_norm == pytest.approx(whole, rel=1e-5)
    assert found.update.taken_norm == pytest.approx(whole, rel=1e-5)


def test_the_scale_of_fp16_is_divided_out():
    full, half = train(network()).readings, train(network(), amp="fp16").readings
    assert half[0].loss == pytest.approx(full[0].loss, rel=0.01)
    for ours, theirs in zip(half[0].blocks, full[0].blocks, strict=True):
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=0.05)
    assert half[0].update.grad_norm == pytest.approx(full[0].update.grad_norm, rel=0.05)
    assert half[0].update.taken_norm == pytest.approx(half[0].update.grad_norm, rel=0.01)


def test_a_step_that_fp16_skipped_has_no_update():
    class Steep(nn.Module):
        """Its gradient overflows fp16 under the first loss scale, its loss doesn't."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3 * 8 * 8, 3)

        def forward(self, x):
            return self.linear(x.flatten(1)) * 30.0

    torch.manual_seed(0)
    readings = train(Steep(), amp="fp16").readings
    assert readings[0].update is None
    assert readings[0].parameters[0].update_norm is None
    assert readings[-1].update is not None  # the scale has come down until then


def test_clipping_is_seen_and_judged():
    kept = train(network(), clip_grad_norm=0.01)
    for reading in kept.readings:
        assert reading.update.taken_norm == pytest.approx(0.01, rel=1e-3)
        assert reading.update.grad_norm > 0.1
    assert "CLIP_ALWAYS" in [finding.id for finding in judge(Evidence(tuple(kept.readings))).findings]
    free = train(network())
    assert "CLIP_ALWAYS" in judge(Evidence(tuple(free.readings))).clean


def test_an_interrupted_training_has_the_same_readings():
    whole = train(network()).readings
    first = train(network(), recorder=Keep(interrupt_at=3))
    second = train(network(), recorder=Keep(state=first.saved))
    assert untimed(first.readings + second.readings) == untimed(whole)


def test_blocks_that_are_computed_twice_to_save_memory_are_read():
    plain, saving = train(network()).readings[0], train(network(checkpoint_blocks=True)).readings[0]
    assert [block.name for block in saving.blocks] == [block.name for block in plain.blocks]
    for ours, theirs in zip(saving.blocks, plain.blocks, strict=True):
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)


def test_what_is_frozen_has_no_update():
    model = network()
    model.conv1.requires_grad_(False)
    reading = train(model).readings[0]
    frozen = [p for p in reading.parameters if p.name == "conv1.weight"]
    assert [(p.grad_norm, p.update_norm) for p in frozen] == [(None, None)]


@pytest.mark.parametrize(
    ("total", "steps"),
    [(1, [0]), (3, [0, 1, 2]), (20, [0, 3, 5, 8, 11, 14, 16, 19]), (7001, list(range(0, 7001, 1000)))],
)
def test_the_first_the_last_and_six_between_are_read(total, steps):
    model = network()
    probe = step_readings(model, optimiser(model), total_steps=total)
    assert [step for step in range(total) if probe.due(step)] == steps
    assert evenly(total)(total - 1)


def test_a_model_that_can_not_be_read_is_refused():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(RequestError, match="meta device"):
        StepReadings(model, optimiser(model))
