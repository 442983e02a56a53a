"""From a config to everything that training needs; what doesn't fit together is refused before anything is written."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data import Data, Loader, Source, find_source, prepare
from reslab.data.prepared import shorter_side
from reslab.distributed import Ranks
from reslab.errors import RequestError
from reslab.layers.nd import sync_norms
from reslab.models.catalog import create_model
from reslab.models.structure import read_structure
from reslab.options import import_object
from reslab.run.config import ModelOptions, RecipeOptions, RunConfig, override
from reslab.run.display import Display
from reslab.tasks.catalog import make_task
from reslab.tasks.task import Task
from reslab.training.batches import resize_batch
from reslab.training.execution import ExecutionMode, check_amp, seed_everything
from reslab.training.loop import check_options
from reslab.training.memory import MemoryProbe
from reslab.training.optim import make_optimizer
from reslab.training.options import TrainOptions
from reslab.training.schedule import Hold, Schedule, make_schedule
from reslab.training.speed import Speed, choose_speed
from reslab.weights.load import load_weights


@dataclass(frozen=True)
class Ingredients:
    """What is trained, on what, which fit together.

    Args:
        data: split and prepared.
        task: what the network is trained for.
        model: on its device.
        example: a batch of two items on the device, to try things out on.
        notes: for run.json's protocol: which weights it starts from.
    """

    data: Data
    task: Task
    model: nn.Module
    example: Any
    notes: dict[str, str]


@dataclass(frozen=True)
class TrainingInputs:
    """The arguments of ``fit``, what they came from, and the config with nothing left open.

    Args:
        notes: for run.json's protocol: how the speed was chosen, which weights it started from.
    """

    config: RunConfig
    data: Data
    task: Task
    model: nn.Module
    loaders: tuple[Loader, Loader | None]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    options: TrainOptions
    mode: ExecutionMode
    notes: dict[str, str]


def assemble(config: RunConfig, display: Display, *, ranks: Ranks) -> TrainingInputs:
    """Build everything that training needs.

    Raises:
        RequestError: if something doesn't fit together.
    """
    found = gather(config, display, ranks=ranks)
    data, task, model = found.data, found.task, found.model
    config, batch_note = with_fitting_batch(config, found, display, ranks=ranks)
    config, speed = with_speed(config, found, ranks=ranks)
    display.note(f"speed: {speed.reason}")
    if ranks.world > 1 and config.train.sync_norms:
        sync_norms(model)

    train_loader = training_loader(data, task, config, ranks=ranks)
    val_loader = None if data.val is None else evaluation_loader(data, task, data.val, config, ranks=ranks)
    steps_per_epoch = len(train_loader)
    total_steps = config.train.steps or config.train.epochs * steps_per_epoch
    options = replace(config.train, steps=total_steps)
    check_options(options, has_validation=val_loader is not None, batch_size=train_loader.batch_size // ranks.world)
    schedule = make_schedule(
        config.schedule, lr=config.optim.lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch
    )
    if config.schedule.hold_error and depth_of(model, data) >= config.schedule.hold_depth:
        held = {"fraction": config.schedule.hold_share, "until": config.schedule.hold_error}
        schedule = Hold(schedule, total_steps=total_steps, score=task.score, **held)
    return TrainingInputs(
        config=config,
        data=data,
        task=task,
        model=model,
        loaders=(train_loader, val_loader),
        optimizer=make_optimizer(config.optim, model),
        schedule=schedule,
        options=options,
        mode=speed.mode,
        notes={"speed": speed.reason, **batch_note, **found.notes},
    )


def gather(config: RunConfig, display: Display, *, ranks: Ranks) -> Ingredients:
    """Prepare the data, make the task, and build the network for it."""
    settings = config.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    check_amp(settings.amp, ranks.device)
    source = find_source(config.data)
    check_recipe(config.recipe, source)
    data = prepare(source, config.data, seed=settings.seed)
    for note in data.notes:
        display.note(note)
    task = make_task(config.task, source.classes)
    seed_everything(settings.seed, deterministic=settings.deterministic)
    model = build_network(config.model, task, in_channels=data.preprocess.channels)
    notes = start_weights(model, config.model.weights, display)
    model = model.to(ranks.device)
    example = example_batch(data, task, ranks=ranks)
    check_network(model, task, example, shape=data.preprocess.shape)
    return Ingredients(data, task, model, example, notes)


def check_recipe(recipe: RecipeOptions, source: Source) -> None:
    """Refuse a recipe that was made for images of another size."""
    low, high = recipe.sides
    side = shorter_side(source.splits["train"])
    if not low <= side <= high:
        raise RequestError(
            f"The recipe {recipe.name} is for images of {low} to {high} pixels, and those of {source.name} have {side}."
            f" Choose another recipe, or insist: --set recipe.sides=[{min(low, side)},{max(high, side)}]."
        )


# ---- the network


def build_network(options: ModelOptions, task: Task, *, in_channels: int) -> nn.Module:
    """Build the network that options ask for, with the task's head."""
    if ":" in options.name:
        return _call_builder(options.name, num_classes=task.num_outputs, in_channels=in_channels)
    defaults = asdict(ModelOptions())
    chosen = {name: value for name, value in asdict(options).items() if value != defaults[name]}
    choices = {name: value for name, value in chosen.items() if name not in ("name", "weights")}
    return task.attach_head(create_model(options.name, task.num_outputs, **choices, in_channels=in_channels))


def _call_builder(spec: str, *, num_classes: int | None, in_channels: int) -> nn.Module:
    """Call a builder of the user's own, of timm, which says in_chans, or of torchvision, for three channels."""
    builder = import_object(spec, what="network")
    attempts = [{"in_channels": in_channels}, {"in_chans": in_channels}, *([{}] if in_channels == 3 else [])]
    errors: list[TypeError] = []
    for channels in attempts:
        try:
            model = builder(num_classes=num_classes, **channels)
        except TypeError as error:
            errors.append(error)
            if not any(f"argument '{name}'" in str(error) for name in channels):
                break  # the error isn't about this argument
        else:
            if not isinstance(model, nn.Module):
                raise RequestError(f"{spec} returned a {type(model).__name__}; expected a torch.nn.Module.")
            return model
    names = "num_classes and in_channels (or in_chans, or neither, for three channels)"
    raise RequestError(f"{spec} is called with {names} by name, and raises: {errors[0]}.") from errors[0]


def start_weights(model: nn.Module, path: str, display: Display) -> dict[str, str]:
    """Load the weights that training starts from, if any; a head for other classes stays freshly initialised."""
    if not path:
        return {}
    report = load_weights(model, path, num_classes="adapt")
    sentence = f"starts from {Path(path).name}: " + ", ".join(f"{n} {word}" for word, n in report.counts.items())
    display.note(sentence)
    return {"starts_from": sentence}


@torch.no_grad()
def check_network(model: nn.Module, task: Task, example: Any, *, shape: tuple[int, ...]) -> None:
    """Refuse a network that can't take this data, before anything is written."""
    was_training = model.training
    model.eval()
    try:
        task.outputs(model, example)
    except RequestError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        words = str(error).splitlines() or [type(error).__name__]
        raise RequestError(f"The network can't take images of {'x'.join(map(str, shape))}: {words[0]}") from None
    finally:
        model.train(was_training)


def depth_of(model: nn.Module, data: Data) -> int:
    """Layers with weights in a row."""
    return read_structure(model, data.preprocess.shape).depth


# ---- batches


def training_loader(data: Data, task: Task, config: RunConfig, *, ranks: Ranks) -> Loader:
    """A loader over the training split: shuffled and augmented."""
    return data.loader(
        data.train,
        batch_size=config.data.batch_size,
        training=True,
        seed=config.train.seed,
        workers=config.data.workers,
        ranks=ranks,
        collate=task.collate,
    )


def evaluation_loader(data: Data, task: Task, split: Any, config: RunConfig, *, ranks: Ranks) -> Loader:
    """A loader without shuffling or augmentation."""
    size, workers = max(256, config.data.batch_size), max(0, config.data.workers)
    return data.loader(split, batch_size=size, workers=workers, ranks=ranks, collate=task.collate)


def example_batch(data: Data, task: Task, *, ranks: Ranks) -> Any:
    """Two items of the training split, on the device."""
    alone = Ranks(device=ranks.device)
    loader = data.loader(data.train, batch_size=2, workers=0, ranks=alone, collate=task.collate)
    return ExecutionMode(ranks=alone).move(next(iter(loader.batches())))


def memory_probe(config: RunConfig, found: Ingredients, *, ranks: Ranks) -> MemoryProbe:
    """Takes steps of the run for their memory; in fp32 if the precision is still open, which takes most."""
    amp = config.train.amp
    mode = ExecutionMode(
        amp="none" if amp == "auto" else amp,
        channels_last=config.train.channels_last != "off",
        ranks=Ranks(device=ranks.device),
    )
    options = replace(config.train, accumulate=min(config.train.accumulate, config.data.batch_size))
    optimizer = make_optimizer(config.optim, found.model)
    return MemoryProbe(found.model, found.task, found.example, optimizer, options, mode)


def with_fitting_batch(
    config: RunConfig, found: Ingredients, display: Display, *, ranks: Ranks
) -> tuple[RunConfig, dict[str, str]]:
    """The config with a batch that fits into memory, and a note where it is another one than was asked for.

    Raises:
        RequestError: if it doesn't fit, and wasn't to be halved.
    """
    wanted = min(config.data.batch_size, len(found.data.train))
    share = fitting = max(1, wanted // ranks.world)
    if ranks.is_first:
        sharing = ranks.world if ranks.device.type == "cpu" else 1
        fitting = memory_probe(config, found, ranks=ranks).check(share, halve=config.data.fit_batch, sharing=sharing)
    fitting = ranks.broadcast(fitting)
    if fitting == share:
        return config, {}
    note = (
        f"batch: {fitting * ranks.world} images per step instead of {wanted}, which don't fit into memory;"
        " the learning rate stays"
    )
    display.note(note)
    return override(config, {"data.batch_size": fitting * ranks.world}, where="the memory"), {"batch": note}


# ---- speed


def with_speed(config: RunConfig, found: Ingredients, *, ranks: Ranks) -> tuple[RunConfig, Speed]:
    """The config with every ``auto`` of speed resolved by a short trial, and why; the same in all processes."""
    chosen = _choose_speed(config, found, ranks=ranks) if ranks.is_first else None
    workers, speed = ranks.broadcast(chosen)
    speed = replace(speed, mode=replace(speed.mode, ranks=ranks))
    torch.set_num_threads(speed.mode.threads)
    settled = {
        "train.amp": speed.mode.amp,
        "train.channels_last": "on" if speed.mode.channels_last else "off",
        "train.compile": "on" if speed.mode.compile else "off",
        "train.threads": speed.mode.threads,
        "data.workers": workers,
    }
    return override(config, settled, where="the trial"), speed


def _choose_speed(config: RunConfig, found: Ingredients, *, ranks: Ranks) -> tuple[int, Speed]:
    data, task, train = found.data, found.task, config.train

    size = min(config.data.batch_size, len(data.train)) // ranks.world // train.accumulate
    items = train.steps * config.data.batch_size or train.epochs * len(data.train)
    speed = choose_speed(
        found.model,
        lambda model, batch: task.step(model, batch).loss,
        resize_batch(found.example, max(1, size)),
        options=train,
        ranks=ranks,
        num_items_in_run=items // ranks.world,
    )
    workers, loader = choose_workers(config.data.workers, data, items_per_s=speed.items_per_s)
    return workers, replace(speed, reason=f"{speed.reason}; {loader}")


def choose_workers(wanted: int, data: Data, *, items_per_s: float | None) -> tuple[int, str]:
    """How many processes decode, and in words; as many as keep the network busy, and no more than there are cores."""
    if not data.is_streamed:
        return max(0, wanted), "the loader works in memory"
    if wanted >= 0:
        return wanted, f"{_decoders(wanted)}, as asked"
    cores = torch.multiprocessing.cpu_count()
    seconds = data.decoding_s()
    needed = cores if items_per_s is None else math.ceil(seconds * items_per_s)
    workers = min(max(1, needed), cores)
    return workers, f"{_decoders(workers)} at {1e3 * seconds:.1f} ms per image"


def _decoders(workers: int) -> str:
    words = {0: "photographs are decoded in this process", 1: "1 worker decodes"}
    return words.get(workers, f"{workers} workers decode")
