"""Measurements that train nothing: identity, scale, and how their numbers are kept."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reslab.errors import RequestError
from reslab.studies import identity, scale
from reslab.studies.identity import Stack, digits, target_of
from reslab.studies.runs import MeasurementRun, num_cores

SETTINGS = {"kind": "plain", "num_blocks": 1, "part": 0.0, "steps": 2, "lr": 1e-3, "batch_size": 128}
RUN = MeasurementRun("identity", SETTINGS, seed=1)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_blocks_with_zero_branches_are_the_identity_and_others_are_not():
    inputs, _ = digits()
    torch.manual_seed(0)
    zero, whole = (Stack(64, 3, shortcut=True, zero=start) for start in (True, False))
    assert torch.equal(zero(inputs), inputs)
    assert not torch.allclose(whole(inputs), inputs)
    assert torch.equal(Stack(64, 3, shortcut=False, zero=True)(inputs), torch.zeros_like(inputs))


def test_the_target_is_the_input_and_a_part_of_something_else():
    inputs, _ = digits()
    assert inputs.square().mean() == pytest.approx(1.0, rel=0.02)
    assert torch.equal(target_of(0.0, inputs)(inputs), inputs)
    away = target_of(0.1, inputs)(inputs) - inputs
    assert away.square().mean().sqrt() == pytest.approx(0.1, rel=1e-4)


def test_learning_lowers_the_error_and_repeats_itself():
    settings = SETTINGS | {"kind": "residual", "part": 0.1, "steps": 60}
    first = identity.measure(3, **settings)
    assert first == identity.measure(3, **settings)
    assert first != identity.measure(4, **settings)
    assert first["train_error"] < 0.2 * first["start_error"]


def test_a_measurement_is_kept_read_and_refused_when_changed(tmp_path):
    out = tmp_path / "a"
    assert RUN.read(out).status == "new"
    assert RUN.changes(out) == []
    assert RUN.execute(out, resume=True) == ""
    state = RUN.read(out)
    assert state.status == "done"
    assert set(state.values) == {"start_error", "train_error", "test_error"}
    assert state.machine["processor"]
    assert state.versions["torch"] == torch.__version__
    assert replace(RUN, settings=SETTINGS | {"steps": 3}).changes(out) == ["steps was 2, now 3"]
    assert RUN.with_seed(2).changes(out) == ["seed was 1, now 2"]
    (out / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RequestError, match="is damaged"):
        RUN.read(out)


def test_a_measurement_that_raises_says_why(monkeypatch):
    def fail(seed, **settings):
        raise RuntimeError(f"no luck with seed {seed}")

    monkeypatch.setattr(identity, "measure", fail)
    assert RUN.execute(Path("nowhere"), resume=True) == "RuntimeError: no luck with seed 1"


@pytest.mark.parametrize(("threads", "recorded"), [(1, 1), (0, num_cores())])
def test_a_measurement_names_the_threads_it_computed_with(tmp_path, threads, recorded):
    run = replace(RUN, threads=threads)
    assert run.execute(tmp_path, resume=True) == ""
    assert run.read(tmp_path).machine["threads"] == recorded


def test_identity_is_estimated_by_its_number_of_steps(monkeypatch):
    done = []
    monkeypatch.setattr(identity, "measure", lambda seed, steps, **settings: done.append(steps))
    assert RUN.expected_s() < replace(RUN, settings=SETTINGS | {"steps": 10**9}).expected_s()
    assert done == [50, 50]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_deeper_takes_more_memory_and_checkpointing_less():
    shallow, deep, dropped = (
        scale.measure(0, depth=depth, checkpointed=checkpointed, batch_size=32, steps=1)
        for depth, checkpointed in ((8, False), (56, False), (56, True))
    )
    assert shallow["peak_mib"] < deep["peak_mib"]
    assert dropped["peak_mib"] < deep["peak_mib"]
    assert shallow["step_s"] > 0
    assert deep["num_parameters"] == dropped["num_parameters"] == 853_018
