"""The gradient that arrives at each block, read in a training step's own backward pass.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.records import BlockGradientRecord


class BlockGradients:
    """Norm of the gradient at the output of chosen blocks, at chosen steps.

    The number is |d loss_n / d x_l|, the L2 norm over one sample's block output of the gradient of that sample's loss,
    as root mean square over the batch. A mean loss gives every sample 1/N of it, which is undone; with batch norm in
    train mode a sample's loss depends on the others too, so it is then the gradient of the batch loss times N.

    Works on any ``nn.Module``, unmodified, by tensor hooks that are set in forward hooks; those refer to the value
    before any later in-place operation. Under torch.compile they would not fire: attach to an uncompiled model.

    Args:
        blocks: names of modules (``model.get_submodule`` finds them), in execution order.
        when: step to whether it is read; by default every step. Between, the hooks do nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> probe = BlockGradients(["0", "2"])
        >>> with probe.attach(model):
        ...     model(torch.ones(2, 4)).mean().backward()
        ...     [record.block for record in probe.read(0)]
        ['0', '2']
    """

    def __init__(self, blocks: Sequence[str], *, when: Callable[[int], bool] = lambda step: True) -> None:
        self.blocks, self.when = list(blocks), when
        self._expected: int | None = None  # the step that the next backward pass belongs to; unknown at first
        self._armed = True
        self._squares: dict[str, Tensor] = {}
        self._samples: dict[str, int] = {}
        self._batch: int | None = None

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator[BlockGradients]:
        """Hooks the blocks for as long as the context is open; the first step in it is read."""
        self._expected, self._armed = None, True
        handles = [model.get_submodule(name).register_forward_hook(self._hook(name)) for name in self.blocks]
        handles.append(model.register_forward_pre_hook(self._note_batch))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _note_batch(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        """The model's input says how many samples there are; a block's output may have another axis in front."""
        first = inputs[0] if inputs else None
        self._batch = len(first) if isinstance(first, Tensor) and first.ndim else None

    def _hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def forward_hook(module: nn.Module, inputs: object, output: object) -> None:
            if self._armed and isinstance(output, Tensor) and output.requires_grad:
                num_samples = self._batch or len(output)
                output.register_hook(lambda gradient: self._add(name, gradient, num_samples))

        return forward_hook

    def _add(self, name: str, gradient: Tensor, num_samples: int) -> None:
        square = gradient.detach().double().square().sum()  # double: fp16 gradients square to zero or infinity
        self._squares[name] = self._squares.get(name, square.new_zeros(())) + square
        self._samples[name] = self._samples.get(name, 0) + num_samples

    def due(self, step: int) -> bool:
        """Whether this step is read."""
        return self.when(step)

    def read(self, step: int, *, grad_scale: float = 1.0) -> list[BlockGradientRecord]:
        """Records of this step's backward pass; empty where ``when(step)`` is false.

        Args:
            step: the step whose backward pass has just run.
            grad_scale: factor that the loss was multiplied by (fp16 loss scaling); divided out.

        Raises:
            RequestError: if steps were left out. Call it after every backward pass; ``when`` says which are read.
        """
        if self._expected not in (None, step):
            raise RequestError(
                f"read({step}) came where read({self._expected}) was due: call read after every backward pass, and let"
                " when= choose the steps."
            )
        records = []
        if self.when(step) and self._squares:
            names = [name for name in self.blocks if name in self._squares]
            squares = torch.stack([self._squares[name] for name in names]).tolist()
            for name, square in zip(names, squares, strict=True):
                # sum over the batch of |g_n / N|^2, times N^2 for the sample's own loss, over N for the mean
                rms = (square * self._samples[name]) ** 0.5 / grad_scale
                records.append(BlockGradientRecord(step, name, self.blocks.index(name), rms))
        self._squares.clear()
        self._samples.clear()
        self._expected = step + 1
        self._armed = self.when(step + 1)
        return records


def readings(total_steps: int, *, count: int = 20) -> Callable[[int], bool]:
    """True at the first step, at the last, and at about ``count`` evenly between.

    Example:
        >>> [step for step in range(100) if readings(100, count=4)(step)]
        [0, 25, 50, 75, 99]
    """
    every = max(1, total_steps // count)
    return lambda step: step % every == 0 or step == total_steps - 1
