"""Updates are those of the optimiser: rate times gradient where that is known, and what is left of it everywhere."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.probe.training import Watch, watch
from reslab.records import ReadingRecord
from reslab.records.diagnosis import UpdateRecord
from reslab.training._optimizers import Lamb

LR = 0.1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5)).double()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.arange(6) % 5


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int = 3, zero: bool = True, clip: float = math.inf
) -> Watch:
    with watch(model, every=1) as probe:
        for step in range(steps):
            if zero:
                optimizer.zero_grad()
            images, labels = batch(step)
            F.cross_entropy(model(images), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return probe


def updates(readings: tuple[ReadingRecord, ...]) -> list[UpdateRecord]:
    found = [reading.update for reading in readings]
    assert None not in found
    return found


def test_plain_descent_moves_by_the_rate_times_the_gradient():
    model = network()
    for reading in train(model, torch.optim.SGD(model.parameters(), lr=LR)).readings:
        for parameter in reading.parameters:
            assert parameter.update_norm == pytest.approx(LR * parameter.grad_norm, rel=1e-9)
        total = math.sqrt(sum(p.grad_norm**2 for p in reading.parameters))
        assert reading.update == UpdateRecord("SGD", LR, pytest.approx(total), pytest.approx(total), 0.0, 0.0)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop, Lamb])
def test_the_update_is_the_difference_of_the_weights(kind):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    (reading,) = train(model, kind(model.parameters(), lr=LR), steps=1).readings
    moved = [(p.detach() - old).norm().item() for p, old in zip(model.parameters(), before, strict=True)]
    assert [p.update_norm for p in reading.parameters] == pytest.approx(moved)


def test_a_step_with_a_closure_is_left_alone_and_the_next_one_measured():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def loss() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch(0)[0]), batch(0)[1])
        loss.backward()
        return loss

    with watch(model, every=1) as probe:
        for _ in range(3):
            optimizer.step(loss)
        loss()
        optimizer.step()
    *by_closure, last = probe.readings
    assert [reading.update for reading in by_closure] == [None] * 3
    assert updates((last,))[0].taken_norm == pytest.approx(updates((last,))[0].grad_norm)


def test_clipping_shows():
    model = network()
    for update in updates(train(model, torch.optim.SGD(model.parameters(), lr=LR), clip=0.01).readings):
        assert update.taken_norm == pytest.approx(0.01, rel=1e-3)
        assert update.grad_norm > 0.1


def test_gradients_that_were_not_zeroed_show():
    model = network()
    probe = train(model, torch.optim.SGD(model.parameters(), lr=1e-6), zero=False, steps=4)
    first, *others = updates(probe.readings)
    assert first.leftover_norm == 0
    for earlier, update in zip([first, *others], others, strict=False):
        assert update.leftover_norm == pytest.approx(earlier.grad_norm)
    assert [finding.id for finding in probe.diagnosis.findings][:1] == ["GRAD_ACCUMULATES"]


def test_accumulation_over_parts_of_a_batch_is_no_leftover():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    with watch(model, every=1) as probe:
        for step in range(3):
            optimizer.zero_grad()
            for part in range(2):
                images, labels = batch(2 * step + part)
                (F.cross_entropy(model(images), labels) / 2).backward()
            optimizer.step()
    assert [reading.update is None for reading in probe.readings] == [True, False] * 3
    assert all(reading.update.leftover_norm == 0 for reading in probe.readings if reading.update)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (torch.optim.SGD, lambda weight, gradient: 0.3 * weight / gradient),
        (torch.optim.Adam, lambda weight, gradient: 0.3 * weight / gradient),
    ],
)
def test_a_decay_in_the_gradient_is_compared_with_the_gradient(kind, expected):
    model = network()
    (reading,) = train(model, kind(model.parameters(), lr=LR, weight_decay=0.3), steps=1).readings
    weight, gradient = (math.sqrt(sum(getattr(p, key) ** 2 for p in reading.parameters)) for key in KEYS)
    assert reading.update.decay_ratio == pytest.approx(expected(weight, gradient))


KEYS = ("weight_norm", "grad_norm")


def test_a_decoupled_decay_is_compared_with_the_rest_of_the_step():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    (reading,) = train(model, torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.3), steps=1).readings
    decay = math.sqrt(sum((LR * 0.3 * old).square().sum().item() for old in before))
    rest = [p.detach() - old * (1 - LR * 0.3) for p, old in zip(model.parameters(), before, strict=True)]
    assert reading.update.decay_ratio == pytest.approx(decay / math.sqrt(sum(r.square().sum().item() for r in rest)))


def test_lamb_scales_both_together():
    model = network()
    (reading,) = train(model, Lamb(model.parameters(), lr=LR, weight_decay=0.3), steps=1).readings
    assert math.isnan(reading.update.decay_ratio)


def test_only_the_chosen_optimiser_and_only_the_models_weights_count():
    model, other = network(), network()
    mine, theirs = (torch.optim.SGD(m.parameters(), lr=LR) for m in (model, other))
    images, labels = batch(0)
    with watch(model, every=1) as probe:
        F.cross_entropy(model(images), labels).backward()
        F.cross_entropy(other(images), labels).backward()
        theirs.step()
        assert probe.readings[0].update is None
        mine.step()
        assert probe.readings[0].update.optimizer == "SGD"
    with watch(model, optimizer=theirs, every=1) as probe:
        F.cross_entropy(model(images), labels).backward()
        mine.step()
    assert probe.readings[0].update is None


def test_the_loss_is_noted_at_every_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    expected = []
    with watch(model, every=10) as probe:
        for step in range(4):
            optimizer.zero_grad()
            images, labels = batch(step)
            loss = F.cross_entropy(model(images), labels)
            expected.append(loss.item())
            loss.backward()
            optimizer.step()
    assert [(record.step, record.loss) for record in probe.losses] == list(enumerate(expected))


def test_no_hook_of_an_optimiser_is_left():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    probe = train(model, optimizer, steps=1)
    taken = probe.readings
    images, labels = batch(0)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    assert probe.readings == taken
