"""Shipped recipes: ordinary configs that say where they come from, and hold what their sources say."""

import tomllib
from dataclasses import replace

import pytest

from reslab.errors import RequestError
from reslab.run.assemble import build_network
from reslab.run.config import RECIPES, SECTIONS, list_recipes, load_config, load_recipe
from reslab.tasks.classify import Classify
from reslab.training.optim import make_optimizer, sgd
from reslab.training.schedule import make_schedule


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_a_valid_config_that_names_itself_and_its_source(name):
    config = load_recipe(name)
    assert config.recipe.name == name
    assert config.recipe.source
    assert "arXiv" in config.recipe.source or "issue" in config.recipe.source or "our own" in config.recipe.source


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_becomes_a_model_an_optimiser_and_a_schedule(name):
    config = load_recipe(name)
    tiny = replace(config.model, name="resnet8")
    model = build_network(tiny, Classify(3), in_channels=3)
    assert make_optimizer(config.optim, model).param_groups
    steps = config.train.steps or config.train.epochs * 50
    rate = make_schedule(config.schedule, lr=config.optim.lr, total_steps=steps, steps_per_epoch=50)
    assert max(rate(step) for step in range(0, steps, 7)) <= config.optim.lr * 1.0001


def test_the_papers_numbers():
    he = load_recipe("he2015-cifar")
    assert (he.optim.lr, he.optim.momentum, he.optim.weight_decay, he.optim.decay_norms) == (0.1, 0.9, 1e-4, True)
    assert (he.train.steps, he.data.batch_size, he.data.augment) == (64_000, 128, "crop_flip")
    rate = make_schedule(he.schedule, lr=he.optim.lr, total_steps=he.train.steps, steps_per_epoch=390)
    drops = [step for step in range(1, 64_000) if rate(step) != rate(step - 1)]
    assert drops == [32_000, 48_000]
    a3 = load_recipe("rsb-a3")
    assert (a3.optim.kind, a3.optim.lr, a3.optim.weight_decay, a3.data.batch_size) == ("lamb", 8e-3, 0.02, 2048)
    assert (a3.train.epochs, a3.task.loss, a3.data.image_size, a3.data.eval_size) == (100, "bce", 160, 224)


@pytest.mark.parametrize(("depth", "holds"), [(56, False), (110, True), (1202, True)])
def test_only_110_layers_and_more_hold_their_rate(depth, holds):
    schedule = load_recipe("he2015-cifar").schedule
    assert (depth >= schedule.hold_depth) is holds
    assert (schedule.hold_share, schedule.hold_error) == (0.1, 0.8)


def test_a_file_overrides_a_recipe_key_by_key(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[optim]\nlr = 0.05\n")
    config = load_config(file, recipe="he2015-cifar")
    assert (config.optim.lr, config.optim.weight_decay, config.train.steps) == (0.05, 1e-4, 64_000)
    assert load_config(file).train.steps == 0


def test_an_unknown_recipe_is_refused_with_what_there_is():
    with pytest.raises(RequestError, match=r"Unknown recipe 'he2015'.*he2015-cifar"):
        load_recipe("he2015")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_says_nothing_that_is_the_default_by_accident(path):
    """Every key of a recipe is a key of the tree; a value equal to the default is there on purpose."""
    tree = tomllib.loads(path.read_text())
    assert set(tree) <= set(SECTIONS)
    assert path.read_text().startswith("# ")


def test_sgd_steps_are_fused():
    model = build_network(load_recipe("tiny").model, Classify(3), in_channels=1)
    assert sgd(model).defaults["fused"]
