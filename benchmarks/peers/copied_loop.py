"""The loop of PyTorch's tutorials, which people copy; reads the loss of every step."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from peers.common import SGD, Clock, torch_loader
from reslab.data import Data


def images_per_s(
    model: nn.Module, data: Data, *, steps: int, amp: str = "none", channels_last: bool = False, workers: int = 2
) -> float:
    """Images per second over ``steps`` steps; ``amp`` and ``channels_last`` are what its user adds by hand."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    criterion, clock, running = nn.CrossEntropyLoss(), Clock(steps), 0.0
    for inputs, targets in torch_loader(data, workers=workers):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16) if amp == "bf16" else nullcontext():
            loss = criterion(model(inputs.to(memory_format=layout)), targets)
        loss.backward()
        optimizer.step()
        running += loss.item()
        clock.tick()
        if clock.done:
            break
    return clock.images_per_s()
