"""A short trial before a long run: which precision, memory format, thread count and compilation are fastest here.

What is fastest differs from machine to machine by more than a factor of two, and nothing but the clock knows. The trial
runs a copy of the network on random images, leaves no trace in the network or in the random numbers, and takes some
seconds, or a minute or two where the compiler is tried; runs that are over in a minute are not worth one.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from reslab.train.compiled import compiled
from reslab.train.evaluate import AmpKind, autocast, to_device
from reslab.train.precision import AutoAmp, check_amp, has_bf16

Switch = Literal["auto", "on", "off"]

SHORT_RUN_S = 60.0
"""Expected length below which nothing is tried."""
COMPILE_RUN_S = 600.0
"""Expected length from which torch.compile is tried: compiling takes up to a minute and has to be earned back."""
OTHER_LAYOUT = 50
"""The other memory format is compiled too if the run is so many times longer than compiling: which of them is faster
changes with it."""
WORTH = 1.03
"""A change has to be so much faster than the way before it: less is noise."""
TRIALS = 3
"""So many at most, if at the end of one the other thread count is faster than the one that it chose."""
DOUBT = 1.1
"""Faster by so much."""
LOOK_S, LOOKS = 0.75, 3
"""Each of two ways that are compared is run for so many seconds and times, at least."""


@dataclass(frozen=True)
class Wishes:
    """What was asked for; ``auto`` and 0 leave the choice to the trial.

    Args:
        amp: mixed precision.
        channels_last: memory format.
        compile: torch.compile.
        threads: of the CPU.
    """

    amp: AutoAmp = "auto"
    channels_last: Switch = "auto"
    compile: Switch = "auto"
    threads: int = 0


@dataclass(frozen=True)
class Way:
    """One way of running a network.

    Args:
        amp: mixed precision.
        channels_last: memory format N, H, W, C.
        compile: through torch.compile.
        threads: of the CPU.
    """

    amp: AmpKind = "none"
    channels_last: bool = True
    compile: bool = False
    threads: int = 1

    def words(self) -> str:
        """For people."""
        precision = "fp32" if self.amp == "none" else self.amp
        layout = "channels_last" if self.channels_last else "contiguous"
        parts = [precision, layout, f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        return ", ".join([*parts, "compiled"] if self.compile else parts)


@dataclass(frozen=True)
class Speed:
    """What was chosen, and why.

    Args:
        way: how the network is going to run.
        images_per_s: of the network alone, forward, backward, without data and optimiser; None if it wasn't measured.
        reason: one line.
    """

    way: Way
    images_per_s: float | None
    reason: str


def choose_speed(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    wishes: Wishes,
    num_images: int,
) -> Speed:
    """Chooses what was left open, by measuring if the run is long enough.

    Args:
        model: on its device; a copy of it is run.
        loss_of: outputs for ``images`` to a scalar.
        images: one random batch of the run's size and shape, on the model's device.
        wishes: what is fixed already.
        num_images: images of the whole run, counted as often as they are seen.

    Raises:
        RequestError: if a precision was asked for that the device doesn't have.
    """
    device = images.device
    check_amp(wishes.amp, device)
    first = first_way(wishes)
    if not is_open(wishes):
        return Speed(first, None, f"{first.words()}: as asked")
    with untouched(device):
        started, tried = time.perf_counter(), 1
        trial = Trial(model, loss_of, images, num_images=num_images)
        slow_s = trial.run_s(first)
        if slow_s < SHORT_RUN_S:
            return Speed(first, trial.found[first], f"{first.words()}: about {slow_s:.0f} s are too few for a trial")
        chosen = choose(trial, first, wishes)
        while tried < TRIALS and is_doubtful(trial, chosen.way, first, wishes):
            trial, tried = Trial(model, loss_of, images, num_images=num_images), tried + 1
            chosen = choose(trial, first, wishes)
        took = time.perf_counter() - started
    trials = "a trial" if tried == 1 else f"{tried} trials, as the pace changed,"
    return replace(chosen, reason=f"{chosen.reason}; found in {trials} of {took:.0f} s")


def choose(trial: Trial, first: Way, wishes: Wishes) -> Speed:
    """What one trial finds fastest of all that was left open, the compiler last."""
    best = fastest_way(trial, first, wishes)
    best, remark = with_compile(trial, best, wishes)
    pace = trial.images_per_s(best)
    gain = f"{pace / trial.images_per_s(first):.2f}x {first.words()}" if best != first else "nothing tried was faster"
    return Speed(best, pace, f"{best.words()}: {gain}{remark}")


def is_open(wishes: Wishes) -> bool:
    """Whether anything is left to choose."""
    return "auto" in (wishes.amp, wishes.channels_last, wishes.compile) or not wishes.threads


def first_way(wishes: Wishes) -> Way:
    """The plain way, as far as it is left open: fp32, channels last, all threads, not compiled."""
    return Way(
        amp="none" if wishes.amp == "auto" else wishes.amp,
        channels_last=wishes.channels_last != "off",
        compile=wishes.compile == "on",
        threads=wishes.threads or torch.get_num_threads(),
    )


def threads_are_open(trial: Trial, first: Way, wishes: Wishes) -> bool:
    """Whether there is a number of threads to choose."""
    return not wishes.threads and trial.images.device.type == "cpu" and first.threads > 1


def half_the_threads(way: Way) -> Way:
    """The same with half as many."""
    return replace(way, threads=way.threads // 2)


def fastest_way(trial: Trial, first: Way, wishes: Wishes) -> Way:
    """One choice after the other: precision, memory format, threads."""
    candidates: list[Callable[[Way], Way]] = []
    if wishes.amp == "auto" and has_bf16(trial.images.device):
        candidates.append(lambda way: replace(way, amp="bf16"))
    if wishes.channels_last == "auto":
        candidates.append(lambda way: replace(way, channels_last=not way.channels_last))
    if threads_are_open(trial, first, wishes):
        candidates.append(half_the_threads)
    best = first
    for change in candidates:
        other = change(best)
        best, loser = (other, best) if trial.gain(other, best) > WORTH else (best, other)
        trial.forget(loser)
    return best


def with_compile(trial: Trial, best: Way, wishes: Wishes) -> tuple[Way, str]:
    """Compiled, if that was left open, the run is long, and the gain pays for the compilation; and what to say."""
    if wishes.compile != "auto" or trial.run_s(best) < COMPILE_RUN_S:
        return best, "; not compiled: the run is too short to pay for it" if wishes.compile == "auto" else ""
    compiled = replace(best, compile=True)
    try:
        gain = trial.gain(compiled, best)
        if wishes.channels_last == "auto" and trial.run_s(best) > OTHER_LAYOUT * trial.start_s[compiled]:
            turned = replace(compiled, channels_last=not best.channels_last)
            further = trial.gain(turned, compiled)
            loser = compiled if further > WORTH else turned
            compiled, gain = (turned, gain * further) if further > WORTH else (compiled, gain)
            trial.forget(loser)
    except Exception as error:  # the compiler can fail in any way, and the run doesn't need it
        return best, f"; not compiled: {type(error).__name__}"
    saves_s, cost_s = trial.run_s(best) * (1 - 1 / gain), trial.start_s[compiled]
    if saves_s > cost_s:
        return compiled, f"; compiling costs {cost_s:.0f} s and saves about {saves_s:.0f} s"
    return best, f"; not compiled: it would cost {cost_s:.0f} s and save {max(0.0, saves_s):.0f} s"


def is_doubtful(trial: Trial, best: Way, first: Way, wishes: Wishes) -> bool:
    """Whether, at the end of a trial for a long run, the other thread count is the faster one after all.

    Threads wait for one another, so that a neighbour who is busy for some seconds slows two of them more than one; what
    it was like in those seconds must not decide over hours.
    """
    if not threads_are_open(trial, first, wishes) or trial.run_s(best) < COMPILE_RUN_S:
        return False
    chosen = replace(best, compile=False)
    other = half_the_threads(chosen) if best.threads == first.threads else replace(chosen, threads=first.threads)
    return trial.gain(other, chosen) > DOUBT


class Trial:
    """Measures ways of running one network, a step of the one and a step of the other in turn.

    A machine that is shared runs at another pace from one second to the next; two ways that are measured one after the
    other differ by that. Each pair of steps sees the same machine.

    Args:
        model: a copy of it is run.
        loss_of: outputs to a scalar.
        images: one batch.
        num_images: of the whole run.
    """

    def __init__(
        self, model: nn.Module, loss_of: Callable[[Tensor], Tensor], images: Tensor, *, num_images: int
    ) -> None:
        self.model, self.loss_of, self.images, self.num_images = model, loss_of, images, num_images
        self.found: dict[Way, float] = {}
        self.start_s: dict[Way, float] = {}
        self.steps: dict[Way, Callable[[], None]] = {}

    def run_s(self, way: Way) -> float:
        """Expected length of the whole run, in seconds."""
        return self.num_images / self.images_per_s(way)

    def images_per_s(self, way: Way) -> float:
        """Images per second of forward and backward; from a comparison, where there was one."""
        if way not in self.found:
            step, times = self._started(way), list[float]()
            while sum(times) < LOOK_S or len(times) < LOOKS:
                times.append(seconds_of(step))
            self.found[way] = len(self.images) / statistics.median(times)
        return self.found[way]

    def gain(self, other: Way, best: Way) -> float:
        """By how much ``other`` is faster than ``best``: the median over pairs of steps."""
        pair, times = (self._started(best), self._started(other)), list[tuple[float, float]]()
        while min(map(sum, zip(*times, strict=True)), default=0) < LOOK_S or len(times) < LOOKS:
            if len(times) % 2:  # the order changes, so that neither always follows the other
                later, sooner = seconds_of(pair[1]), seconds_of(pair[0])
                times.append((sooner, later))
            else:
                times.append((seconds_of(pair[0]), seconds_of(pair[1])))
        ratio = statistics.median(before / after for before, after in times)
        self.found[other] = ratio * self.images_per_s(best)
        return ratio

    def forget(self, way: Way) -> None:
        """Lets the copy of a way go that isn't compared any more."""
        self.steps.pop(way, None)

    def _started(self, way: Way) -> Callable[[], None]:
        """The step of a way, ready to be timed: kernels and memory are there."""
        if way not in self.steps:
            started = time.perf_counter()
            step = self._step(way)
            step()
            self.start_s[way] = time.perf_counter() - started
            step()
            self.steps[way] = step
        return self.steps[way]

    def _step(self, way: Way) -> Callable[[], None]:
        """One training step without the optimiser, on a copy of the network."""
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        model = copy.deepcopy(self.model).to(memory_format=layout).train()
        images = to_device(self.images, self.images.device, channels_last=way.channels_last)
        forward = compiled(model) if way.compile else model

        def step() -> None:
            if torch.get_num_threads() != way.threads:
                torch.set_num_threads(way.threads)
            model.zero_grad(set_to_none=True)
            with autocast(way.amp, images.device):
                loss = self.loss_of(forward(images))
            loss.backward()
            if images.is_cuda:
                torch.cuda.synchronize(images.device)

        return step


def seconds_of(step: Callable[[], None]) -> float:
    """How long it takes once."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Puts random numbers and thread count back as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
