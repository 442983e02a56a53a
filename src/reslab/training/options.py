"""What can be chosen about training: the ``[optim]``, ``[schedule]`` and ``[train]`` sections of a config."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from reslab.options import Count, CountOrNone, Fraction, NotNegative, Positive, PositiveFraction, Switch, options


@options
class OptimOptions:
    """The optimiser.

    Args:
        kind: optimiser.
        lr: learning rate; the peak of a schedule that rises.
        side_lr: rate of what Muon leaves to SGD: both ends of the network, norms, biases.
        momentum: momentum of SGD and Muon.
        side_momentum: momentum of what Muon leaves to SGD.
        fixed_norm: Muon keeps the norm of each weight that it steps constant; for layers followed by a norm.
        nesterov: Nesterov momentum for SGD.
        weight_decay: L2 penalty for SGD, decoupled decay for the others.
        decay_norms: decay norms and biases too, as He et al. did.
        norm_lr: fraction of the rate that norms and biases learn at.
    """

    kind: Literal["sgd", "adamw", "lamb", "muon"] = "sgd"
    lr: Positive = 0.1
    side_lr: Positive = 0.4
    momentum: Fraction = 0.9
    side_momentum: Fraction = 0.9
    fixed_norm: bool = False
    nesterov: bool = False
    weight_decay: NotNegative = 1e-4
    decay_norms: bool = True
    norm_lr: Positive = 1.0


@options
class ScheduleOptions:
    """The learning rate over the run.

    Args:
        kind: schedule of the learning rate.
        milestones: where multistep drops, as fractions of the run.
        gamma: factor of each drop of multistep.
        rise_share: fraction of the run until the peak of one_cycle and triangle.
        final_lr: rate at the end of cosine and triangle.
        warmup_epochs: epochs of linear warm-up, laid over the beginning of the schedule.
        warmup_start: fraction of the rate that warm-up starts at.
        hold_error: keep the rate low until the training error is below this, as for ResNet-110; 0 disables it.
        hold_share: fraction of the rate while it is kept low.
        hold_depth: keep the rate low only in networks of at least this depth.
    """

    kind: Literal["constant", "multistep", "cosine", "one_cycle", "triangle"] = "cosine"
    milestones: list[Fraction] = field(default_factory=lambda: [0.5, 0.75])
    gamma: Positive = 0.1
    rise_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    final_lr: NotNegative = 0.0
    warmup_epochs: NotNegative = 0.0
    warmup_start: PositiveFraction = 0.1
    hold_error: Fraction = 0.0
    hold_share: PositiveFraction = 0.1
    hold_depth: CountOrNone = 0


@options
class TrainOptions:
    """The training loop.

    ``fit`` takes these too; how a network is run, seeded and placed is decided before it.

    Args:
        epochs: passes over the training data.
        steps: length in optimiser steps instead of epochs.
        seed: everything random follows from it.
        amp: mixed precision; auto is the fastest in a short trial.
        channels_last: memory format N, H, W, C, with the same results; auto is the fastest in a short trial.
        compile: run the network through torch.compile; auto does where the run is long enough to pay for it.
        threads: CPU threads; 0 for the fastest in a short trial.
        device: auto, cpu, cuda, cuda:N or mps.
        accumulate: parts that each batch is split into to save memory; batch norm sees the parts.
        clip_grad_norm: scale larger gradients down to this norm; 0 disables it.
        l1: factor of the L1 penalty on weights.
        ema_decay: keep a moving average of the weights with this decay, and validate and keep that; 0 disables it.
        patience: stop after this many epochs without a better validation score; 0 disables it.
        precise_norm: training images to estimate batch norm's statistics from again at the end; 0 disables it.
        sync_norms: under torchrun, batch norm sees the batch of all processes.
        deterministic: refuse operations that aren't deterministic (slower on a GPU).
        probe: read the gradient flow at eight steps of the run.
        track: also write the main scalars for this tool while the run trains.
    """

    epochs: Count = 30
    steps: CountOrNone = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    channels_last: Switch = "auto"
    compile: Switch = "auto"
    threads: CountOrNone = 0
    device: str = "auto"
    accumulate: Count = 1
    clip_grad_norm: NotNegative = 0.0
    l1: NotNegative = 0.0
    ema_decay: Fraction = 0.0
    patience: CountOrNone = 0
    precise_norm: CountOrNone = 0
    sync_norms: bool = True
    deterministic: bool = False
    probe: bool = True
    track: Literal["", "tensorboard"] = ""
