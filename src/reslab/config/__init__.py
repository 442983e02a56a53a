"""The config: one typed tree, from TOML and back; ``reslab.config.build`` turns it into flat arguments."""

from reslab.config.files import list_recipes, load_config, load_recipe, override, parse_config, parse_settings
from reslab.config.flags import FLAGS
from reslab.config.tree import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RecipeConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    leaves,
)

__all__ = [
    "FLAGS",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "RecipeConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "leaves",
    "list_recipes",
    "load_config",
    "load_recipe",
    "override",
    "parse_config",
    "parse_settings",
]
