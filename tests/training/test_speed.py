"""The choice of speed: by the clock, within what was asked for, and without a trace."""

import pytest
import torch
from torch import nn

from reslab.distributed import LOCAL
from reslab.training import speed as speed_module
from reslab.training.execution import ExecutionMode
from reslab.training.options import TrainOptions
from reslab.training.speed import Speed, Trial, choose_speed

LONG = 10**7
ONE_THREAD = TrainOptions(threads=1)


def mode(*, amp="none", channels_last=True, compile=False, threads=1):
    return ExecutionMode(amp, channels_last, compile, threads)


def speed(monkeypatch, rates, *, options=ONE_THREAD, num_items=LONG, start_s=30.0, fails=()):
    """``choose_speed`` where each mode runs at the images per second that ``rates`` gives it."""

    def items_per_s(self, mode):
        if mode in fails or (mode.compile and "compile" in fails):
            raise RuntimeError("no compiler")
        self.paces[mode], self.start_s[mode] = rates(mode), start_s
        return self.paces[mode]

    def speedup(self, other, best):
        return self.items_per_s(other) / self.items_per_s(best)

    monkeypatch.setattr(Trial, "items_per_s", items_per_s)
    monkeypatch.setattr(Trial, "speedup", speedup)
    monkeypatch.setattr(speed_module, "has_bf16", lambda device: True)
    images = torch.randn(4, 3, 8, 8)
    return choose_speed(
        nn.Linear(1, 1), lambda m, x: x.sum(), images, options=options, ranks=LOCAL, num_items_in_run=num_items
    )


def test_the_fastest_way_is_taken(monkeypatch):
    found = speed(monkeypatch, lambda way: 100 * (1 + (way.amp == "bf16")) * (2 - way.channels_last))
    assert found.mode == mode(amp="bf16", channels_last=False, threads=1)
    assert found.items_per_s == 400
    assert "4.00x fp32, channels_last, 1 thread" in found.reason


def test_what_was_asked_for_stays(monkeypatch):
    wishes = TrainOptions(amp="none", channels_last="on", threads=1)
    found = speed(monkeypatch, lambda way: 100 * (1 + (way.amp == "bf16")) * (2 - way.channels_last), options=wishes)
    assert found.mode == mode(amp="none", channels_last=True, threads=1)


def test_a_gain_within_the_noise_changes_nothing(monkeypatch):
    found = speed(monkeypatch, lambda way: 100 * (1.02 if way.amp == "bf16" else 1))
    assert found.mode.amp == "none"
    assert "nothing tried was faster" in found.reason


def test_two_ways_are_compared_side_by_side(monkeypatch):
    """The machine gets slower and slower: what is measured later would lose, whichever it is."""
    clock = [0.0]

    def seconds_of(step):
        clock[0] += 1
        return step() * clock[0]

    found = Trial(nn.Linear(1, 1), lambda m, x: x.sum(), torch.ones(4, 1), num_items_in_run=LONG)
    monkeypatch.setattr(speed_module, "seconds_of", seconds_of)
    monkeypatch.setattr(speed_module, "MIN_TIMED_STEPS", 100)
    found.steps = {mode(): lambda: 2.0, mode(threads=2): lambda: 1.0}
    assert found.speedup(mode(threads=2), mode()) == pytest.approx(2.0, rel=0.05)


def test_with_nothing_open_nothing_is_measured(monkeypatch):
    wishes = TrainOptions(amp="none", channels_last="off", compile="off", threads=3)
    found = speed(monkeypatch, lambda way: 1 / 0, options=wishes)
    assert found == Speed(mode(channels_last=False, threads=3), None, "fp32, contiguous, 3 threads: as asked")


def test_a_short_run_is_not_worth_a_trial(monkeypatch):
    found = speed(monkeypatch, lambda way: 100 if way == mode() else 1 / 0, num_items=1000)
    assert found.mode == mode()
    assert "run too short (about 10 s)" in found.reason


def test_fewer_threads_are_tried(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    found = speed(monkeypatch, lambda way: 100 / way.threads, options=TrainOptions())
    assert found.mode.threads == 4


@pytest.mark.parametrize(
    ("busy_looks", "num_images", "threads", "words"),
    [
        (0, LONG, 2, "found in a trial of"),
        (3, LONG, 2, "found in 2 trials, as the pace changed, of"),
        (3, 50_000, 1, "found in a trial of"),
        (100, LONG, 1, "found in a trial of"),
    ],
    ids=["idle", "a neighbour who leaves", "a neighbour who leaves a short run", "a neighbour who stays"],
)
def test_a_neighbour_who_leaves_decides_nothing(monkeypatch, busy_looks, num_images, threads, words):
    """Two threads at half the pace of one, as long as somebody else is there, and then at nearly twice that."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    looks = iter(range(1000))
    found = speed(
        monkeypatch,
        lambda way: 100.0 if way.threads == 1 else 50.0 if next(looks) < busy_looks else 180.0,
        options=TrainOptions(amp="none", channels_last="on", compile="off"),
        num_items=num_images,
    )
    assert found.mode.threads == threads
    assert words in found.reason


def test_a_pace_that_never_settles_ends_the_trials(monkeypatch):
    """Whatever is measured first is the faster one."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    looks = iter(range(1000))
    wishes = TrainOptions(amp="none", channels_last="on", compile="off")
    found = speed(monkeypatch, lambda way: 100.0 / 2 ** next(looks), options=wishes)
    assert "found in 3 trials, as the pace changed, of" in found.reason


@pytest.mark.parametrize(
    ("gain", "num_images", "is_compiled", "words"),
    [
        (1.5, 10**6, True, "compiling costs 30 s and saves about 3333 s"),
        (1.001, 10**5, False, "it would cost 30 s and save 1 s"),
        (0.5, 10**6, False, "it would cost 30 s and save 0 s"),
        (1.5, 30_000, False, "the run is too short to pay for it"),
    ],
)
def test_compiling_has_to_pay_for_itself(monkeypatch, gain, num_images, is_compiled, words):
    rates = {False: 100.0, True: 100.0 * gain}
    wishes = TrainOptions(amp="none", channels_last="on", threads=1)
    found = speed(monkeypatch, lambda way: rates[way.compile], options=wishes, num_items=num_images)
    assert found.mode.compile is is_compiled
    assert words in found.reason


@pytest.mark.parametrize(("num_images", "is_turned"), [(10**6, True), (1400 * 100, False)])
def test_the_other_memory_format_is_compiled_too_where_the_run_is_long(monkeypatch, num_images, is_turned):
    def rates(way):
        return 100.0 if not way.compile else 120.0 if way.channels_last else 140.0

    found = speed(
        monkeypatch,
        lambda way: rates(way) - (not way.channels_last and not way.compile),
        options=TrainOptions(amp="none", threads=1),
        num_items=num_images,
    )
    assert found.mode == mode(channels_last=not is_turned, compile=True)


def test_a_failing_compiler_is_no_failure_of_the_run(monkeypatch):
    found = speed(monkeypatch, lambda way: 100.0, fails=("compile",))
    assert not found.mode.compile
    assert "; not compiled: RuntimeError; found in a trial of" in found.reason


def test_a_real_trial_leaves_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = choose_speed(
        model,
        lambda m, x: m(x).square().mean(),
        images,
        options=TrainOptions(compile="off"),
        ranks=LOCAL,
        num_items_in_run=10**9,
    )
    assert found.items_per_s is not None
    assert found.items_per_s > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
