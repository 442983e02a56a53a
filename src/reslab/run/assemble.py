"""From a config to everything that training needs; what doesn't fit together is refused before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from reslab.config import RecipeConfig, RunConfig, build
from reslab.data.loader import Loader
from reslab.data.prepare import Data, Place, shorter_side
from reslab.data.sources import Source
from reslab.data.transforms import Preprocess
from reslab.distributed import Ranks
from reslab.errors import RequestError
from reslab.layers import sync_norms
from reslab.models.structure import read_structure
from reslab.run.measure import evaluation_loader
from reslab.run.recorder import Display
from reslab.run.speed import choose
from reslab.tasks.classify import Classify
from reslab.train.memory import TrainingStep, check_batch
from reslab.train.options import FitOptions, check_options
from reslab.train.precision import check_amp
from reslab.train.schedule import Schedule
from reslab.train.seeds import seed_everything
from reslab.weights.load import load_weights


@dataclass(frozen=True)
class Parts:
    """What a config becomes: the arguments of ``fit``, the data they came from, and the config with nothing left open.

    Args:
        notes: for run.json's protocol: how the speed was chosen, which weights it started from.
    """

    config: RunConfig
    data: Data
    model: nn.Module
    task: Classify
    loaders: tuple[Loader, Loader | None]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    options: FitOptions
    notes: dict[str, str]


@dataclass(frozen=True)
class Subject:
    """What is trained, on what: the beginning of everything else.

    Args:
        notes: for run.json's protocol: which weights it starts from.
    """

    data: Data
    model: nn.Module
    task: Classify
    notes: dict[str, str]


def assemble(config: RunConfig, display: Display, *, device: torch.device, ranks: Ranks) -> Parts:
    """Builds everything that training needs, and refuses what doesn't fit together."""
    settings = config.train
    subject = build_subject(config, display, device=device)
    data, model, task = subject.data, subject.model, subject.task
    config, batch_note = with_fitting_batch(config, subject, display, device=device, ranks=ranks)
    config, speed = choose(config, model, task, data, device=device, ranks=ranks)
    display.note(f"speed: {speed.reason}")
    if ranks.world > 1 and settings.sync_norms:
        sync_norms(model)

    place = Place(device, ranks.rank, ranks.world)
    train_loader = data.loader(
        data.train,
        batch_size=config.data.batch_size,
        training=True,
        seed=settings.seed,
        workers=config.data.workers,
        place=place,
    )
    val_loader = None if data.val is None else evaluation_loader(data, data.val, config, place=place)
    steps_per_epoch = len(train_loader)
    total_steps = build.total_steps(settings, steps_per_epoch=steps_per_epoch)
    depth = depth_of(model, data.preprocess) if config.schedule.hold_error else 0
    options = build.options(config, total_steps=total_steps, device=device, ranks=ranks, depth=depth)
    check_options(options, has_validation=val_loader is not None, batch_size=train_loader.batch_size // ranks.world)
    return Parts(
        config=config,
        data=data,
        model=model,
        task=task,
        loaders=(train_loader, val_loader),
        optimizer=build.optimizer(config.optim, model),
        schedule=build.schedule(
            config.schedule, lr=config.optim.lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch
        ),
        options=options,
        notes={"speed": speed.reason, **batch_note, **subject.notes},
    )


def build_subject(config: RunConfig, display: Display, *, device: torch.device) -> Subject:
    """Data, network and task, which fit together."""
    settings = config.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    check_amp(settings.amp, device)
    source = build.source(config.data)
    check_recipe(config.recipe, source)
    data = build.data(config.data, source, seed=settings.seed)
    for note in data.source.notes:
        display.note(note)
    if data.thumbnails is not None:
        display.note(data.thumbnails.describe())
    num_classes, preprocess = len(data.source.classes), data.preprocess
    seed_everything(settings.seed, deterministic=settings.deterministic)
    model = build.model(config.model, num_classes=num_classes, in_channels=preprocess.channels)
    notes = start_weights(model, config.model.weights, display)
    model = model.to(device)
    check_forward(model, preprocess, device, num_classes=num_classes)
    return Subject(data, model, build.task(settings, num_classes=num_classes), notes)


def with_fitting_batch(
    config: RunConfig, subject: Subject, display: Display, *, device: torch.device, ranks: Ranks
) -> tuple[RunConfig, dict[str, str]]:
    """The config with a batch that fits into memory, and a note where it is another one than was asked for.

    Raises:
        RequestError: if it doesn't fit, and wasn't to be halved.
    """
    wanted = min(config.data.batch_size, len(subject.data.train))
    share = max(1, wanted // ranks.world)
    found = [share]
    if ranks.is_first:
        step = training_step(config, subject, device=device)
        sharing = ranks.world if device.type == "cpu" else 1
        found = [check_batch(step, share, halve=config.data.fit_batch, sharing=sharing)]
    if ranks.world > 1:
        dist.broadcast_object_list(found, src=0)
    if found[0] == share:
        return config, {}
    fitting = found[0] * ranks.world
    note = f"batch: {fitting} images a step instead of {wanted}, which don't fit into memory; the rates stay"
    display.note(note)
    return config.model_copy(update={"data": config.data.model_copy(update={"batch_size": fitting})}), {"batch": note}


def training_step(config: RunConfig, subject: Subject, *, device: torch.device) -> TrainingStep:
    """What a step of the run takes; in fp32 if the precision is still open, which takes most."""
    amp, preprocess = config.train.amp, subject.data.preprocess
    return TrainingStep(
        subject.model,
        subject.task,
        shape=(preprocess.channels, preprocess.height, preprocess.width),
        num_classes=subject.task.num_classes,
        optimizer=build.optimizer(config.optim, subject.model),
        options=FitOptions(
            steps=1,
            device=device,
            amp="none" if amp == "auto" else amp,
            channels_last=config.train.channels_last != "off",
            accumulate=min(config.train.accumulate, config.data.batch_size),
        ),
    )


def start_weights(model: nn.Module, path: str, display: Display) -> dict[str, str]:
    """Loads the weights that training starts from, if any; a head for other classes stays as it was drawn."""
    if not path:
        return {}
    report = load_weights(model, path, num_classes="adapt")
    sentence = f"starts from {Path(path).name}: " + ", ".join(f"{n} {word}" for word, n in report.counts.items())
    display.note(sentence)
    return {"starts_from": sentence}


def check_recipe(recipe: RecipeConfig, source: Source) -> None:
    """Refuses a recipe that was made for images of another size."""
    low, high = recipe.sides
    side = shorter_side(source.splits["train"])
    if not low <= side <= high:
        raise RequestError(
            f"The recipe {recipe.name} is for images of {low} to {high} pixels, and those of {source.name} have {side}."
            f" Choose another recipe, or insist: --set recipe.sides=[{min(low, side)},{max(high, side)}]."
        )


def depth_of(model: nn.Module, preprocess: Preprocess) -> int:
    """Layers with weights in a row."""
    return read_structure(model, (preprocess.channels, preprocess.height, preprocess.width)).depth


def check_forward(model: nn.Module, preprocess: Preprocess, device: torch.device, *, num_classes: int) -> None:
    """Refuses a network that can't take these images, before anything is written."""
    images = torch.zeros(2, preprocess.channels, preprocess.height, preprocess.width, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(images)
    except (RuntimeError, ValueError) as error:
        shape = f"{preprocess.channels}x{preprocess.height}x{preprocess.width}"
        raise RequestError(f"The network can't take images of {shape}: {str(error).splitlines()[0]}") from None
    finally:
        model.train(was_training)
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (2, num_classes):
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise RequestError(f"The network gives {found} for two images; expected (2, {num_classes}), a logit a class.")
