"""A short trial before a long run: which precision, memory format, thread count and compilation are fastest here.

What is fastest differs from machine to machine by more than a factor of two, and only the clock knows. The trial runs a
copy of the network on one batch, leaves no trace in the network or in the random numbers, and takes some seconds, or a
minute or two where the compiler is tried; runs that are over in a minute are not worth one.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from reslab.distributed import Ranks
from reslab.training.batches import num_items
from reslab.training.execution import ExecutionMode, check_amp, compiled, has_bf16
from reslab.training.options import TrainOptions
from reslab.untouched import same_random_numbers

SHORT_RUN_S = 60.0
"""Expected length below which nothing is tried."""
MIN_COMPILED_RUN_S = 600.0
"""Expected length from which torch.compile is tried: compiling takes up to a minute and has to be earned back."""
TRY_BOTH_FORMATS = 50
"""The other memory format is compiled too if the run is this many times longer than compiling: which of them is faster
changes with it."""
MIN_SPEEDUP = 1.03
"""A change has to be faster than the mode before it by this factor: less is noise."""
MAX_TRIALS, RETRY_SPEEDUP = 3, 1.1
"""A trial is repeated if at its end the other thread count is faster than the chosen one by this factor."""
MIN_TIMED_S, MIN_TIMED_STEPS = 0.75, 3
"""Each of two modes that are compared runs for this many seconds and steps, at least."""


@dataclass(frozen=True)
class Speed:
    """What was chosen, and why.

    Args:
        mode: how the network is going to run.
        items_per_s: of the network alone, forward and backward, without data and optimiser; None if it wasn't measured.
        reason: one line.
    """

    mode: ExecutionMode
    items_per_s: float | None
    reason: str


def choose_speed(
    model: nn.Module,
    step: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    *,
    options: TrainOptions,
    ranks: Ranks,
    num_items_in_run: int,
) -> Speed:
    """Choose what the options leave open, by measuring if the run is long enough.

    Args:
        model: on its device; a copy of it is run.
        step: network and batch to the loss.
        batch: of the run's size and shape, on the model's device.
        options: what is fixed already, and what is ``auto``.
        ranks: goes into the mode as it is.
        num_items_in_run: counted as often as they are seen.

    Raises:
        RequestError: if a precision was asked for that the device doesn't have.
    """
    check_amp(options.amp, ranks.device)
    first = first_mode(options, ranks)
    if "auto" not in (options.amp, options.channels_last, options.compile) and options.threads:
        return Speed(first, None, f"{first}: as asked")
    with same_random_numbers({ranks.device}):
        started, tried = time.perf_counter(), 1
        trial = Trial(model, step, batch, num_items_in_run=num_items_in_run)
        slow_s = trial.run_s(first)
        if slow_s < SHORT_RUN_S:
            words = f"{first}: run too short (about {slow_s:.0f} s) to compare speed settings"
            return Speed(first, trial.paces[first], words)
        chosen = choose(trial, first, options)
        while tried < MAX_TRIALS and is_doubtful(trial, chosen.mode, first, options):
            trial, tried = Trial(model, step, batch, num_items_in_run=num_items_in_run), tried + 1
            chosen = choose(trial, first, options)
        took = time.perf_counter() - started
    trials = "a trial" if tried == 1 else f"{tried} trials, as the pace changed,"
    return replace(chosen, reason=f"{chosen.reason}; found in {trials} of {took:.0f} s")


def first_mode(options: TrainOptions, ranks: Ranks) -> ExecutionMode:
    """The plain mode, as far as it is left open: fp32, channels last, all threads, not compiled."""
    return ExecutionMode(
        amp="none" if options.amp == "auto" else options.amp,
        channels_last=options.channels_last != "off",
        compile=options.compile == "on",
        threads=options.threads or torch.get_num_threads(),
        ranks=ranks,
    )


def choose(trial: Trial, first: ExecutionMode, options: TrainOptions) -> Speed:
    """Find what one trial has fastest of all that was left open, one choice after the other, the compiler last."""
    candidates: list[Callable[[ExecutionMode], ExecutionMode]] = []
    if options.amp == "auto" and has_bf16(first.device):
        candidates.append(lambda mode: replace(mode, amp="bf16"))
    if options.channels_last == "auto":
        candidates.append(lambda mode: replace(mode, channels_last=not mode.channels_last))
    if threads_are_open(first, options):
        candidates.append(half_the_threads)
    best = first
    for change in candidates:
        other = change(best)
        best, loser = (other, best) if trial.speedup(other, best) > MIN_SPEEDUP else (best, other)
        trial.forget(loser)
    best, remark = with_compile(trial, best, options)
    pace = trial.items_per_s(best)
    gain = f"{pace / trial.items_per_s(first):.2f}x {first}" if best != first else "nothing tried was faster"
    return Speed(best, pace, f"{best}: {gain}{remark}")


def threads_are_open(first: ExecutionMode, options: TrainOptions) -> bool:
    """Whether there is a number of threads to choose."""
    return not options.threads and first.device.type == "cpu" and first.threads > 1


def half_the_threads(mode: ExecutionMode) -> ExecutionMode:
    return replace(mode, threads=mode.threads // 2)


def with_compile(trial: Trial, best: ExecutionMode, options: TrainOptions) -> tuple[ExecutionMode, str]:
    """Compile, if that was left open, the run is long, and the gain pays for compiling; and say what was found."""
    if options.compile != "auto":
        return best, ""
    if trial.run_s(best) < MIN_COMPILED_RUN_S:
        return best, "; not compiled: the run is too short to pay for it"
    fast = replace(best, compile=True)
    try:
        gain = trial.speedup(fast, best)
        if options.channels_last == "auto" and trial.run_s(best) > TRY_BOTH_FORMATS * trial.start_s[fast]:
            turned = replace(fast, channels_last=not best.channels_last)
            further = trial.speedup(turned, fast)
            loser = fast if further > MIN_SPEEDUP else turned
            fast, gain = (turned, gain * further) if further > MIN_SPEEDUP else (fast, gain)
            trial.forget(loser)
    except Exception as error:  # the compiler can fail in any way, and the run doesn't need it
        return best, f"; not compiled: {type(error).__name__}"
    saves_s, cost_s = trial.run_s(best) * (1 - 1 / gain), trial.start_s[fast]
    if saves_s > cost_s:
        return fast, f"; compiling costs {cost_s:.0f} s and saves about {saves_s:.0f} s"
    return best, f"; not compiled: it would cost {cost_s:.0f} s and save {max(0.0, saves_s):.0f} s"


def is_doubtful(trial: Trial, best: ExecutionMode, first: ExecutionMode, options: TrainOptions) -> bool:
    """Whether, at the end of a trial for a long run, the other thread count is faster after all.

    Threads wait for one another, so that another program that is busy for some seconds slows two of them more than one;
    what it was like in those seconds must not decide over hours.
    """
    if not threads_are_open(first, options) or trial.run_s(best) < MIN_COMPILED_RUN_S:
        return False
    chosen = replace(best, compile=False)
    other = half_the_threads(chosen) if best.threads == first.threads else replace(chosen, threads=first.threads)
    return trial.speedup(other, chosen) > RETRY_SPEEDUP


class Trial:
    """Compares modes of running one network, a step of the one and a step of the other in turn.

    A machine that is shared runs at another pace from one second to the next; two modes that are measured one after the
    other differ by that. Each pair of steps sees the same machine.

    Args:
        model: a copy of it is run.
        step: network and batch to the loss.
        batch: that is run over and over.
        num_items_in_run: of the whole run.
    """

    def __init__(
        self, model: nn.Module, step: Callable[[nn.Module, Any], Tensor], batch: Any, *, num_items_in_run: int
    ) -> None:
        self.model, self.step, self.batch, self.num_items_in_run = model, step, batch, num_items_in_run
        self.paces: dict[ExecutionMode, float] = {}
        self.start_s: dict[ExecutionMode, float] = {}
        self.steps: dict[ExecutionMode, Callable[[], None]] = {}

    def run_s(self, mode: ExecutionMode) -> float:
        """Expected length of the whole run, in seconds."""
        return self.num_items_in_run / self.items_per_s(mode)

    def items_per_s(self, mode: ExecutionMode) -> float:
        """Items per second of forward and backward; from a comparison, where there was one."""
        if mode not in self.paces:
            step, times = self._started(mode), list[float]()
            while sum(times) < MIN_TIMED_S or len(times) < MIN_TIMED_STEPS:
                times.append(seconds_of(step))
            self.paces[mode] = num_items(self.batch) / statistics.median(times)
        return self.paces[mode]

    def speedup(self, other: ExecutionMode, best: ExecutionMode) -> float:
        """By which factor ``other`` is faster than ``best``: the median over pairs of steps."""
        pair, times = (self._started(best), self._started(other)), list[tuple[float, float]]()
        while min(map(sum, zip(*times, strict=True)), default=0) < MIN_TIMED_S or len(times) < MIN_TIMED_STEPS:
            if len(times) % 2:  # the order changes, so that neither always follows the other
                later, sooner = seconds_of(pair[1]), seconds_of(pair[0])
                times.append((sooner, later))
            else:
                times.append((seconds_of(pair[0]), seconds_of(pair[1])))
        ratio = statistics.median(before / after for before, after in times)
        self.paces[other] = ratio * self.items_per_s(best)
        return ratio

    def forget(self, mode: ExecutionMode) -> None:
        """Free the copy of a mode that isn't compared any more."""
        self.steps.pop(mode, None)

    def _started(self, mode: ExecutionMode) -> Callable[[], None]:
        """The step of a mode, ready to be timed: kernels and memory are there."""
        if mode not in self.steps:
            started = time.perf_counter()
            step = self._step(mode)
            step()
            self.start_s[mode] = time.perf_counter() - started
            step()
            self.steps[mode] = step
        return self.steps[mode]

    def _step(self, mode: ExecutionMode) -> Callable[[], None]:
        """One training step without the optimiser, on a copy of the network."""
        layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        model = copy.deepcopy(self.model).to(memory_format=layout).train()
        batch = mode.move(self.batch)
        forward = compiled(model) if mode.compile else model

        def step() -> None:
            if torch.get_num_threads() != mode.threads:
                torch.set_num_threads(mode.threads)
            model.zero_grad(set_to_none=True)
            with mode.autocast():
                loss = self.step(forward, batch)
            loss.backward()
            if mode.device.type == "cuda":
                torch.cuda.synchronize(mode.device)

        return step


def seconds_of(step: Callable[[], None]) -> float:
    """Time one call."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
