"""fastai's Learner.

Default but for: the optimiser, which is SGD as on every side, and the callback that looks at the clock and ends the fit
after the last step. So it has its own DataLoader, its Recorder and its progress bar. The images go through the same
torchvision transforms as on the other sides, in its workers.

``Learner.to_bf16`` can't be used: fastai 2.8.12 asks for ``autocast("cuda")`` whatever the device, which on a CPU
switches itself off with a warning. ``Bf16OnCpu`` is its callback with the device put right, so that it is no slower
here than its user can make it. Its ``ChannelsLast`` is used as it is.
"""

from __future__ import annotations

from functools import partial

import torch
from fastai.basics import Callback, CancelFitException, CrossEntropyLossFlat, DataLoaders, Learner, OptimWrapper
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.progress import ProgressCallback
from torch import nn

from peers.common import BATCH, SGD, Clock, pil_images
from reslab.data import Data


class Watch(Callback):
    """Looks at the clock after every step and ends the fit after the last one."""

    order = ProgressCallback.order + 1

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_batch(self) -> None:
        """A step has ended."""
        self.clock.tick()
        if self.clock.done:
            raise CancelFitException


class Bf16OnCpu(MixedPrecision):
    """fastai's mixed precision, with autocast of the device that the network is on."""

    def __init__(self) -> None:
        super().__init__(amp_mode=AMPMode.BF16)

    def before_fit(self) -> None:
        """What it does, and then the autocast of the right device."""
        super().before_fit()
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16)


def images_per_s(
    model: nn.Module, data: Data, *, steps: int, amp: str = "none", channels_last: bool = False, workers: int = 2
) -> float:
    """Images per second over ``steps`` steps; ``amp`` and ``channels_last`` become callbacks."""
    clock = Clock(steps)
    callbacks = [Watch(clock), *([Bf16OnCpu()] if amp == "bf16" else []), *([ChannelsLast()] if channels_last else [])]
    device = torch.device("cpu")
    loaders = DataLoaders.from_dsets(pil_images(data), bs=BATCH, num_workers=workers, device=device)
    settings = {name: value for name, value in SGD.items() if name != "lr"}
    optimizer = partial(OptimWrapper, opt=torch.optim.SGD, **settings)
    learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), opt_func=optimizer, cbs=callbacks)
    learner.fit(1, lr=SGD["lr"])
    return clock.images_per_s()
