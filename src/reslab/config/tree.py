"""The config: one typed tree of frozen sections, with a description for every key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of the tree; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Switch = Literal["auto", "on", "off"]


class RecipeConfig(Section):
    """[recipe]: what a shipped recipe says of itself; empty in a config of one's own."""

    name: str = Field("", description="Of the recipe that the config began with.")
    source: str = Field("", description="Where it comes from.")
    deviates: list[str] = Field([], description="Where it leaves its source.")
    task: Literal["classify"] = Field("classify", description="What it trains for.")
    sides: tuple[int, int] = Field((1, 100_000), description="Least and most pixels a side that it is made for.")


class ModelConfig(Section):
    """[model]."""

    name: str = Field("resnet20", description="Network: a catalog name, any CIFAR depth 6n+2, or my_pkg.nets:builder.")
    shortcut: Literal[
        "auto", "identity", "zero_pad", "zero_pad_both", "projection", "projection_pool", "projection_all", "none"
    ] = Field("auto", description="Kind of shortcut; auto is the network's own.")
    connection: str = Field(
        "auto",
        description="How shortcut and branch are joined: add, rezero, fixup, mhc, ...; auto is the network's own.",
    )
    order: Literal["auto", "post", "bn_after", "relu_before", "relu_only", "pre"] = Field(
        "auto", description="Order of norm and activation about the junction; auto is the network's own."
    )
    norm: Literal["auto", "batch", "group", "layer", "frozen_batch", "none"] = Field(
        "auto", description="Kind of norms; auto is the network's own."
    )
    drop_path: Share = Field(
        0.0, description="Share of samples whose last branch is dropped; earlier ones linearly less."
    )
    zero_init_residual: bool = Field(False, description="Start each branch at zero.")
    dropout: Share = Field(0.0, description="Share of features dropped before the head.")
    checkpoint_blocks: bool = Field(
        False, description="Keep the blocks' inputs only and compute the rest again: less memory, more time."
    )
    weights: str = Field("", description="File of weights to start from, in any layout that convert reads.")


class DataConfig(Section):
    """[data]."""

    name: str = Field(
        "digits", description="Data: digits, mnist, fashion-mnist, cifar10, cifar100, a folder, hf:owner/name."
    )
    dir: str = Field("", description="Folder of named data sets; by default $RESLAB_DATA, or else ./data.")
    download: bool = Field(False, description="Fetch a named data set that is absent.")
    val_split: NotNegative = Field(
        0.1, description="Share or number of training images for validation, where there is no validation split."
    )
    test: bool = Field(
        True,
        description="Read the test split, once, after training; leave it alone while you search a recipe.",
    )
    augment: Literal["auto", "none", "crop", "crop_flip", "resized_crop_flip"] = Field(
        "auto", description="Crops and flips while training; auto is what suits the data."
    )
    min_crop_area: Annotated[float, Field(gt=0, le=1)] = Field(
        0.08, description="Least share of the image that resized_crop_flip keeps."
    )
    max_shift: Annotated[int, Field(ge=0)] = Field(
        0, description="Most pixels that crop and crop_flip shift by; 0 for an eighth of the side."
    )
    alternate_flip: bool = Field(
        False, description="Mirror each image in every second epoch instead of at random; for small images."
    )
    policy: Literal["none", "rand_augment", "trivial_augment", "aug_mix"] = Field(
        "none", description="Augmentation policy after crop and flip."
    )
    policy_ops: Count = Field(2, description="Operations of RandAugment an image.")
    policy_magnitude: Annotated[int, Field(ge=0, le=30)] = Field(9, description="Magnitude of RandAugment, 0 to 30.")
    colour_jitter: Share = Field(0.0, description="Change of brightness, contrast and saturation.")
    erasing: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Probability of erasing a rectangle.")
    mixup: NotNegative = Field(0.0, description="Alpha of mixup; 0 for none.")
    cutmix: NotNegative = Field(0.0, description="Alpha of CutMix; 0 for none.")
    image_size: Annotated[int, Field(ge=0)] = Field(
        0, description="Side of the network's input; 0 keeps small images as they are and takes 224 for photographs."
    )
    eval_size: Annotated[int, Field(ge=0)] = Field(
        0, description="Side of photographs in validation and test; 0 for the training size."
    )
    channels: Literal[0, 1, 3] = Field(0, description="1 for grey, 3 for RGB, 0 for what the data has.")
    batch_size: Count = Field(128, description="Images a step, of all processes together.")
    fit_batch: bool = Field(False, description="Halve the batch until it fits into memory, instead of an error.")
    workers: Annotated[int, Field(ge=-1)] = Field(
        -1, description="Processes that decode photographs; -1 for what a trial finds."
    )
    cache_mib: Annotated[int, Field(ge=0)] = Field(
        0, description="Keep decoded thumbnails of photographs on disk, up to so many MiB; 0 for none."
    )


class OptimConfig(Section):
    """[optim]."""

    kind: Literal["sgd", "adamw", "lamb", "muon"] = Field("sgd", description="Optimiser.")
    lr: Positive = Field(0.1, description="Learning rate; the peak one of a schedule.")
    side_lr: Positive = Field(0.4, description="Rate of what Muon leaves to SGD: ends of the network, norms, biases.")
    momentum: Share = Field(0.9, description="Momentum of SGD and Muon.")
    side_momentum: Share = Field(0.9, description="Momentum of what Muon leaves to SGD.")
    fixed_norm: bool = Field(
        False, description="Muon keeps each weight that it steps at one norm; for layers that a norm follows."
    )
    nesterov: bool = Field(False, description="Nesterov's momentum for SGD.")
    weight_decay: NotNegative = Field(1e-4, description="L2 for SGD, decoupled decay for the others.")
    decay_norms: bool = Field(True, description="Decay norms and biases too, as the paper did.")
    norm_lr: Positive = Field(1.0, description="Share of the rate that norms and biases learn at.")
    l1: NotNegative = Field(0.0, description="Factor of the L1 penalty on weights.")
    clip_grad_norm: NotNegative = Field(0.0, description="Scale larger gradients down to this norm; 0 for never.")


class ScheduleConfig(Section):
    """[schedule]."""

    kind: Literal["constant", "multistep", "cosine", "one_cycle", "triangle"] = Field(
        "cosine", description="Schedule of the rate."
    )
    milestones: list[Share] = Field([0.5, 0.75], description="Where multistep drops, as shares of the run.")
    gamma: Positive = Field(0.1, description="Factor of each drop of multistep.")
    rise_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.3, description="Share of the run until the peak of one_cycle and triangle."
    )
    final_lr: NotNegative = Field(0.0, description="Rate at the end of cosine and triangle.")
    warmup_epochs: NotNegative = Field(0.0, description="Epochs of linear warm-up over the schedule's beginning.")
    warmup_start: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Share of the rate that warm-up starts at."
    )
    hold_error: Share = Field(
        0.0, description="Hold the rate down until the training error is below this, as for ResNet-110; 0 for never."
    )
    hold_share: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="Share of the rate while it is held.")
    hold_depth: Annotated[int, Field(ge=0)] = Field(0, description="Hold the rate in networks of this depth or more.")


class TrainConfig(Section):
    """[train]."""

    epochs: Count = Field(30, description="Passes over the training data.")
    steps: Annotated[int, Field(ge=0)] = Field(0, description="Length in optimiser steps instead of epochs.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Everything random follows from it.")
    label_smoothing: Share = Field(0.0, description="Share of the target spread over all classes.")
    loss: Literal["cross_entropy", "bce"] = Field(
        "cross_entropy", description="Cross-entropy, or a binary one for each class."
    )
    amp: Literal["auto", "none", "bf16", "fp16"] = Field(
        "auto", description="Mixed precision; auto is what a short trial finds fastest."
    )
    channels_last: Switch = Field(
        "auto", description="Memory format N, H, W, C: the same results; auto is what a trial finds fastest."
    )
    compile: Switch = Field("auto", description="torch.compile the network; auto where the run is long enough to pay.")
    accumulate: Count = Field(1, description="Parts that each batch is split into to save memory.")
    ema_decay: Share = Field(0.0, description="Keep a moving average of the weights with this decay; 0 for none.")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="Stop after so many epochs without a lower validation error; 0 for never."
    )
    precise_norm: Annotated[int, Field(ge=0)] = Field(
        0, description="Training images to estimate batch norm's statistics from again at the end; 0 for not."
    )
    sync_norms: bool = Field(True, description="Under torchrun, batch norm sees the batch of all processes.")
    deterministic: bool = Field(False, description="Refuse operations that aren't deterministic (GPU: slower).")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads; 0 for what a trial finds fastest.")
    probe: bool = Field(
        True, description="Record the gradient at each block about 20 times in the run, and whole readings at 8 steps."
    )
    track: Literal["", "tensorboard"] = Field("", description="Also write the key scalars for this, while it trains.")


class RunConfig(Section):
    """The whole tree."""

    recipe: RecipeConfig = RecipeConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()

    def to_toml(self) -> str:
        """TOML that ``--config`` takes."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def leaves() -> Iterator[tuple[str, type[Section], str]]:
    """Every key of the tree: dotted path, section, field."""
    for section_name, section in RunConfig.model_fields.items():
        kind = section.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        for field_name in kind.model_fields:
            yield f"{section_name}.{field_name}", kind, field_name
