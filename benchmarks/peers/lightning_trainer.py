"""Lightning's Trainer.

Default but for: ``accelerator="cpu"`` (what ``"auto"`` chooses where there is no GPU), ``max_steps``, the folder it
writes to, and the callback that looks at the clock. So it has its progress bar, its table of the model, its logger
(CSV files where TensorBoard is not installed) that gets the loss by ``self.log`` and writes it every 50 steps, and its
checkpoint at the end, which is not timed. The loader is PyTorch's, as its documentation has it.
"""

from __future__ import annotations

import tempfile
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import nn

from peers.common import SGD, Clock, torch_loader
from reslab.data import Data


class Training(lightning.LightningModule):
    """Network, loss and optimiser, as its quick start has them."""

    def __init__(self, model: nn.Module, layout: torch.memory_format) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = F.cross_entropy(self.model(images.to(memory_format=self.layout)), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD as on every side."""
        return torch.optim.SGD(self.parameters(), **SGD)


class Watch(lightning.Callback):
    """Looks at the clock after every step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A step has ended."""
        self.clock.tick()


def images_per_s(
    model: nn.Module, data: Data, *, steps: int, amp: str = "none", channels_last: bool = False, workers: int = 2
) -> float:
    """Images per second over ``steps`` steps; ``amp`` becomes the Trainer's ``precision="bf16-mixed"``."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    training, clock = Training(model.to(memory_format=layout), layout), Clock(steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            precision="bf16-mixed" if amp == "bf16" else None,
            max_steps=clock.last,
            callbacks=[Watch(clock)],
            default_root_dir=folder,
        )
        trainer.fit(training, torch_loader(data, workers=workers))
    return clock.images_per_s()
