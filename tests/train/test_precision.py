from __future__ import annotations

import pytest
import torch

from reslab.errors import RequestError
from reslab.train import precision
from reslab.train.precision import check_amp, cpu_fp16_slowdown

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bf16", "other"), [(True, "bf16"), (False, "none")])
def test_fp16_on_a_cpu_that_cannot_is_refused(monkeypatch, has_bf16, other):
    monkeypatch.setattr(precision, "has_bf16", lambda device: has_bf16)
    monkeypatch.setattr(precision, "cpu_has_fp16", lambda: False)
    with pytest.raises(RequestError, match=rf"can't compute in fp16 .* Use --amp {other}"):
        check_amp("fp16", CPU)


@pytest.mark.parametrize("slowdown", [11.0, 50.0])
def test_fp16_on_a_cpu_that_has_it_for_inference_only_is_refused(monkeypatch, slowdown):
    monkeypatch.setattr(precision, "cpu_has_fp16", lambda: True)
    monkeypatch.setattr(precision, "cpu_fp16_slowdown", lambda: slowdown)
    with pytest.raises(RequestError, match=rf"can't train in fp16: .* takes {slowdown:.0f} times as long"):
        check_amp("fp16", CPU)


def test_fp16_on_a_cpu_that_trains_in_it_passes(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_fp16", lambda: True)
    monkeypatch.setattr(precision, "cpu_fp16_slowdown", lambda: 0.6)
    assert check_amp("fp16", CPU) is None


def test_the_slowdown_is_measured_and_leaves_no_trace():
    state = torch.get_rng_state()
    assert 0 < cpu_fp16_slowdown() < 1e5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("amp", ["none", "auto", "bf16"])
def test_what_a_cpu_can_do_passes(amp):
    assert check_amp(amp, CPU) is None
