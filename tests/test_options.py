"""Options: one declaration gives validation, help and errors in the user's words."""

from dataclasses import FrozenInstanceError, field
from typing import Literal

import pytest

from reslab.errors import RequestError
from reslab.options import Count, Fraction, build, import_object, options, options_of


@options
class Oven:
    """An oven.

    Args:
        heat: degrees, as
            the dial says: not the thermometer.
        mode: how it heats.
        shelf: from below.
    """

    heat: Count = 180
    mode: Literal["fan", "grill"] = "fan"
    shelf: list[Fraction] = field(default_factory=lambda: [0.5])
    light: bool = False
    size: tuple[int, int] = (40, 60)


@options
class Kitchen:
    """A kitchen."""

    oven: Oven = Oven()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"heat": 0}, "heat must be at least 1, got 0."),
        ({"heat": 3.5}, "heat takes a whole number, got 3.5."),
        ({"heat": "hot"}, "heat takes a whole number, got 'hot'."),
        ({"mode": "fann"}, "Unknown mode 'fann'. Did you mean 'fan'?"),
        ({"shelf": [2.0]}, "shelf must be below 1, got 2.0."),
        ({"shelf": 1}, "shelf takes a list, got 1."),
        ({"shelf": [float("nan")]}, "shelf must be a finite number, got nan."),
        ({"light": "maybe"}, "light takes true or false, got 'maybe'."),
        ({"size": [1]}, "size is missing."),
        ({"heet": 1}, "Unknown option 'heet'. Did you mean 'heat'?"),
    ],
)
def test_a_wrong_value_is_one_sentence_from_python_and_from_a_file(values, sentence):
    with pytest.raises(RequestError) as python:
        Oven(**values)
    assert str(python.value) == sentence
    with pytest.raises(RequestError) as file:
        build(Kitchen, {"oven": values}, spell=lambda path: path.rpartition(".")[2].upper(), where="my.toml")
    assert str(file.value).lower() == f"my.toml: {sentence}".lower()
    assert next(iter(values)).upper() in str(file.value)


def test_options_are_frozen_and_compared_by_value():
    assert Oven(heat=200) == Oven(heat=200) != Oven()
    with pytest.raises(FrozenInstanceError):
        Oven().heat = 3


def test_help_comes_from_the_docstring():
    found = options_of(Oven)
    assert found["heat"].help == "Degrees, as the dial says: not the thermometer."
    assert (found["heat"].default, found["light"].default, found["shelf"].default) == (180, False, [0.5])
    assert found["light"].help == ""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:f", "Can't import the thing 'no_such_module:f'"),
        ("math:nothing", "has no attribute 'nothing'"),
        ("math:pi", "math:pi is a float, not a function or class"),
    ],
)
def test_an_object_that_is_not_there_is_named(spec, message):
    with pytest.raises(RequestError, match=message):
        import_object(spec, what="thing")
