"""From a grid in ``grids/NAME.toml``, and what its user chose instead, to a study."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from reslab.errors import RequestError, unknown
from reslab.records.files import from_plain
from reslab.records.study import MeasureRecord
from reslab.run.config import RunConfig, load_config, load_recipe, override, parse_config
from reslab.studies import conclusions
from reslab.studies.runs import Extra, MeasurementRun, StudyRun, TrainingRun
from reslab.studies.study import Setting, Study

FOLDER = Path(__file__).parent
STUDIES = ("degradation", "mnist", "identity", "regularisation", "recipe", "variants", "scale")
Tree = dict[str, Any]
"""Sections of a config with some of their options, or the arguments of a measurement."""


@dataclass(frozen=True)
class StudySpec:
    """Which study, and what its user chose in place of its own.

    Args:
        study: its name.
        preset: data and size; by default the study's first.
        seeds: runs of each setting; 0 for the preset's number.
        depths: in place of the preset's.
        kinds: names of settings, in place of the preset's.
        epochs: in place of the preset's; 0 for these.
        data_dir: where named data sets lie.
        download: fetch data that is absent there.
    """

    study: str
    preset: str = ""
    seeds: int = 0
    depths: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    epochs: int = 0
    data_dir: str = ""
    download: bool = False


@dataclass(frozen=True)
class Preset:
    """Data and size of a study of trainings."""

    data: str = ""  # in words
    config: str = ""  # name of a file in configs/ that all runs begin with
    recipe: str = ""  # or of a shipped recipe
    changes: Tree = field(default_factory=dict)  # of that
    variables: Tree = field(default_factory=dict)  # values of placeholders
    depths: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()  # all by default
    seeds: int = 3


@dataclass(frozen=True)
class Grid:
    """A study as its file has it.

    Trees may have placeholders: ``{depth}`` and the other columns, ``{sixth_of_epochs}``, the preset's variables. In
    ``protocol`` there are the latter, ``{data}``, ``{length}`` and ``{config.SECTION.OPTION}``; in ``run_name`` the
    columns, ``{model}``, and the arguments of a measurement.
    """

    title: str
    summary: str  # for the list of studies
    question: str
    protocol: tuple[str, ...]
    measures: tuple[str | MeasureRecord, ...]  # columns of numbers: keys of measures.toml, or columns of its own
    columns: tuple[str, ...]  # the factors, in the order of the table; the one that isn't in `factors` is the depth
    run_name: str
    factors: dict[str, dict[str, Tree]]  # column to setting to its changes; --kinds chooses from the last column
    base: Tree = field(default_factory=dict)  # what all settings share
    rows_by: tuple[str, ...] = ()  # columns from the outermost loop to the innermost, where not as in `columns`
    presets: dict[str, Preset] = field(default_factory=dict)  # the first is the default; a measurement has none
    depths: tuple[int, ...] = ()  # of a measurement
    extras: tuple[Extra, ...] = ()  # what trainings measure besides their scores
    measured_by: str = ""  # module that measures, for a study that trains nothing
    threads: int = 1  # of a measurement; 0 for one on each core
    exclusive: bool = False  # each run has the machine to itself
    min_epochs: int = 1

    @property
    def kinds(self) -> dict[str, Tree]:
        return list(self.factors.values())[-1]

    @property
    def depth_column(self) -> str:
        return next((column for column in self.columns if column not in self.factors), "")


def read_grid(study: str) -> Grid:
    """Read the file of a study.

    Raises:
        RequestError: for an unknown study, with the closest match.
    """
    if study not in STUDIES:
        raise unknown("study", study, STUDIES)
    return from_plain(Grid, tomllib.loads((FOLDER / "grids" / f"{study}.toml").read_text(encoding="utf-8")))


def create_study(spec: StudySpec) -> Study:
    """Plan the runs of a study.

    Raises:
        RequestError: for unknown names, numbers out of range, and options that the study doesn't have.
    """
    grid = read_grid(spec.study)
    check_options(spec, grid)
    preset_name = spec.preset or next(iter(grid.presets), "")
    if grid.presets and preset_name not in grid.presets:
        raise unknown("preset", preset_name, grid.presets)
    preset = grid.presets.get(preset_name, Preset(depths=grid.depths))
    config, seeds = base_config(preset, spec), spec.seeds or preset.seeds
    epochs, steps = config.train.epochs, config.train.steps
    known = {"sixth_of_epochs": max(1, epochs // 6), **preset.variables}
    texts = {"data": preset.data, "length": f"{steps:,} steps" if steps else f"{epochs} epochs", "config": config}
    measures = tomllib.loads((FOLDER / "measures.toml").read_text(encoding="utf-8"))
    return Study(
        name=study_name(spec, preset_name),
        command=command_of(spec, preset_name, seeds),
        title=grid.title,
        question=grid.question,
        protocol=tuple(sentence.format(**texts, **known) for sentence in grid.protocol),
        settings=tuple(make_setting(grid, config, chosen, known) for chosen in combinations(grid, preset, spec)),
        seeds=tuple(range(seeds)),
        measures=tuple(MeasureRecord(m, **measures[m]) if isinstance(m, str) else m for m in grid.measures),
        conclude=getattr(conclusions, spec.study),
        exclusive=grid.exclusive,
    )


# ---- what the user chose


def check_options(spec: StudySpec, grid: Grid) -> None:
    """Refuse numbers out of range, unknown kinds, and options that the study doesn't have."""
    if spec.seeds < 0 or spec.epochs < 0:
        raise RequestError(f"seeds and epochs must be at least 0, got {spec.seeds} and {spec.epochs}.")
    if min(spec.depths, default=1) < 1:
        raise RequestError(f"Depths must be at least 1, got {', '.join(map(str, spec.depths))}.")
    for flag, values in (("depths", spec.depths), ("kinds", spec.kinds)):
        if len(set(values)) < len(values):
            raise RequestError(f"--{flag} takes each value once, got {', '.join(map(str, values))}.")
    lacks = [] if grid.depth_column else ["depths"]
    lacks += [] if grid.presets else ["preset", "epochs", "data_dir", "download"]
    for name in lacks:
        if value := getattr(spec, name):
            got = "" if value is True else f", got {value!r}"
            raise RequestError(f"The study {spec.study} has no option --{name.replace('_', '-')}{got}. Leave it out.")
    if grid.depth_column == "depth" and (wrong := [one for one in spec.depths if (one - 2) % 6 or one < 8]):
        raise RequestError(f"Depths are 6n+2 (8, 14, 20, ...), got {', '.join(map(str, wrong))}.")
    for kind in spec.kinds:
        if kind not in grid.kinds:
            hint = f"There are {', '.join(grid.kinds)}." if len(grid.kinds) > 12 else ""
            raise unknown("kind", kind, grid.kinds, hint=hint)
    if 0 < spec.epochs < grid.min_epochs:
        raise RequestError(f"The study {spec.study} needs at least {grid.min_epochs} epochs, got {spec.epochs}.")


def study_name(spec: StudySpec, preset: str) -> str:
    """Name a study after its preset; other choices than the preset's, but for more seeds, have a mark of their own."""
    name = f"{spec.study}-{preset}" if preset else spec.study
    if not (spec.depths or spec.kinds or spec.epochs):
        return name
    chosen = f"{spec.depths} {spec.kinds} {spec.epochs}"
    return f"{name}-{hashlib.sha256(chosen.encode()).hexdigest()[:6]}"


def command_of(spec: StudySpec, preset: str, seeds: int) -> str:
    """Write the command that makes the same study; where the data lies is left out."""
    parts = [f"reslab study {spec.study}", *([f"--preset {preset}"] if preset else []), f"--seeds {seeds}"]
    parts += [f"--depths {' '.join(map(str, spec.depths))}"] if spec.depths else []
    quoted = (f'"{kind}"' if " " in kind else kind for kind in spec.kinds)
    parts += [f"--kinds {' '.join(quoted)}"] if spec.kinds else []
    parts += [f"--epochs {spec.epochs}"] if spec.epochs else []
    return " ".join(parts)


# ---- the settings


def base_config(preset: Preset, spec: StudySpec) -> RunConfig:
    """Build the config that all runs begin with."""
    config = RunConfig()
    if preset.recipe:
        config = load_recipe(preset.recipe)
    elif preset.config:
        config = load_config(FOLDER / "configs" / f"{preset.config}.toml")
    config = parse_config(preset.changes, where="the preset", base=config)
    changes: Tree = {"train.epochs": spec.epochs, "train.steps": 0} if spec.epochs else {}
    changes |= {"data.dir": spec.data_dir} if spec.data_dir else {}
    changes |= {"data.download": True} if spec.download else {}
    return override(config, changes, where="the study")


def combinations(grid: Grid, preset: Preset, spec: StudySpec) -> list[dict[str, Any]]:
    """List every combination of the factors, as column to value, in the order of the rows."""
    values: dict[str, Sequence[Any]] = {column: list(settings) for column, settings in grid.factors.items()}
    values[list(grid.factors)[-1]] = spec.kinds or preset.kinds or list(grid.kinds)
    values[grid.depth_column] = spec.depths or preset.depths
    loops = grid.rows_by or grid.columns
    return [dict(zip(loops, chosen, strict=True)) for chosen in product(*(values[column] for column in loops))]


def make_setting(grid: Grid, config: RunConfig, chosen: Mapping[str, Any], known: Mapping[str, Any]) -> Setting:
    """Make a row out of one combination of the factors."""
    trees = [grid.base, *(settings[chosen[column]] for column, settings in grid.factors.items())]
    trees = [filled(tree, {**known, **chosen}) for tree in trees]
    pattern, names = grid.run_name, {column: slug(value) for column, value in chosen.items()}
    run: StudyRun
    if grid.measured_by:
        arguments = {key: value for tree in trees for key, value in tree.items()}
        run, names = MeasurementRun(grid.measured_by, arguments, threads=grid.threads), arguments | names
    else:
        run = TrainingRun(config, extras=grid.extras)
        for tree in trees:
            pattern, weights = tree.pop("run_name", pattern), tree.pop("weights", run.weights)
            run = replace(run, config=parse_config(tree, where=grid.title, base=run.config), weights=weights)
        names["model"] = run.config.model.name
    return Setting(
        pattern.format(**names),
        factors={column: chosen[column] for column in grid.columns},
        run=run,
        cost=chosen.get(grid.depth_column, 1),
    )


def slug(value: Any) -> Any:
    """Spell a setting's name as a part of a folder's: ``residual, zero init`` is ``residual-zero-init``."""
    return value.replace(", ", "-").replace(" ", "-") if isinstance(value, str) else value


def filled(tree: Any, known: Mapping[str, Any]) -> Any:
    """Put values in the place of placeholders; one that stands alone keeps its type.

    Example:
        >>> filled({"name": "resnet{depth}", "depth": "{depth}", "run_name": "{model}-a"}, {"depth": 20})
        {'name': 'resnet20', 'depth': 20, 'run_name': '{model}-a'}
    """
    if isinstance(tree, Mapping):
        return {key: filled(value, known) for key, value in tree.items()}
    for name, value in known.items() if isinstance(tree, str) else ():
        if tree == f"{{{name}}}":
            return value
        tree = tree.replace(f"{{{name}}}", str(value))
    return tree
