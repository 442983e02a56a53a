"""Precisions that a device doesn't really have are refused; seeds repeat."""

import random

import numpy as np
import pytest
import torch

from reslab.errors import RequestError
from reslab.training import execution
from reslab.training.execution import check_amp, cpu_fp16_slowdown, seed_everything

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bf16", "other"), [(True, "bf16"), (False, "none")])
def test_fp16_on_a_cpu_that_cannot_is_refused(monkeypatch, has_bf16, other):
    monkeypatch.setattr(execution, "has_bf16", lambda device: has_bf16)
    monkeypatch.setattr(execution, "cpu_has_fp16", lambda: False)
    with pytest.raises(RequestError, match=rf"can't compute in fp16 .* Use --amp {other}"):
        check_amp("fp16", CPU)


@pytest.mark.parametrize("slowdown", [11.0, 50.0])
def test_fp16_on_a_cpu_that_has_it_for_inference_only_is_refused(monkeypatch, slowdown):
    monkeypatch.setattr(execution, "cpu_has_fp16", lambda: True)
    monkeypatch.setattr(execution, "cpu_fp16_slowdown", lambda: slowdown)
    with pytest.raises(RequestError, match=rf"can't train in fp16: .* takes {slowdown:.0f} times as long"):
        check_amp("fp16", CPU)


def test_fp16_on_a_cpu_that_trains_in_it_passes(monkeypatch):
    monkeypatch.setattr(execution, "cpu_has_fp16", lambda: True)
    monkeypatch.setattr(execution, "cpu_fp16_slowdown", lambda: 0.6)
    assert check_amp("fp16", CPU) is None


def test_the_slowdown_is_measured_and_leaves_no_trace():
    state = torch.get_rng_state()
    assert 0 < cpu_fp16_slowdown() < 1e5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("amp", ["none", "auto", "bf16"])
def test_what_a_cpu_can_do_passes(amp):
    assert check_amp(amp, CPU) is None


@pytest.fixture(autouse=True)
def put_back():
    yield
    torch.use_deterministic_algorithms(False)


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_the_same_seed_gives_the_same_numbers_everywhere():
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert not set(draw()) & set(first)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_switch_reaches_torch(deterministic):
    seed_everything(0, deterministic=deterministic)
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic
