"""Errors that a user sees: what came, what was expected, the closest match."""

import pytest

from reslab.errors import RequestError, unknown

NAMES = ["resnet20", "resnet56", "plain56", "resnet18_small"]


def test_a_request_error_is_a_value_error():
    assert issubclass(RequestError, ValueError)
    assert isinstance(unknown("model", "x", NAMES), RequestError)


def test_the_closest_match_is_offered():
    assert str(unknown("model", "resnet57", NAMES)).startswith("Unknown model 'resnet57'. Did you mean 'resnet56'")
    assert "'resnet18_small'" in str(unknown("model", "resnet18_smal", NAMES))


def test_several_matches_are_joined_by_or_and_at_most_three():
    message = str(unknown("key", "lr1", ["lr0", "lr2", "lr3", "lr4", "weight"]))
    assert message.count("'lr") == 4  # what came, and three offers
    assert message.count(" or ") == 2
    assert "weight" not in message


def test_a_short_list_is_spelled_out_when_nothing_is_close():
    message = str(unknown("data", "zzz", ["digits", "mnist"]))
    assert message == "Unknown data 'zzz'. Expected one of: digits, mnist."


def test_a_long_list_is_left_to_the_hint():
    message = str(unknown("model", "zzz", [f"net{i}" for i in range(13)], hint="See `reslab models`."))
    assert message == "Unknown model 'zzz'. See `reslab models`."


def test_the_hint_comes_last():
    assert str(unknown("key", "lrr", ["lr"], hint="Mend it.")) == "Unknown key 'lrr'. Did you mean 'lr'? Mend it."


def test_choices_may_be_any_iterable():
    assert "'lr'" in str(unknown("key", "lrr", iter(["lr"])))
    assert "'lr'" in str(unknown("key", "lrr", {"lr": 0.1}))


@pytest.mark.parametrize("name", ["", "a'b", "nul\x00", "résnet"])
def test_odd_names_are_quoted(name):
    assert repr(name) in str(unknown("model", name, NAMES))
