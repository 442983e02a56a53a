"""Batches of any shape are moved, split and resized as wholes."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reslab.training.batches import map_tensors, num_items, resize_batch, split_batch, tensors_in, to_device


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Target:
    boxes: Any
    label: Any = None


def leaves(count):
    return st.one_of(
        st.just(torch.arange(count)),
        st.just(torch.randn(count, 2)),
        st.just([{"boxes": torch.randn(n % 3, 4)} for n in range(count)]),
        st.just(3),
        st.just("name"),
    )


def nests(count):
    return st.recursive(
        leaves(count),
        lambda inner: st.one_of(
            st.tuples(inner, inner),
            st.builds(Pair, inner, inner),
            st.builds(Target, inner, inner),
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
            st.builds(OrderedDict, st.dictionaries(st.sampled_from("abc"), inner, min_size=1)),
        ),
        max_leaves=6,
    )


def same(left, right):
    return type(left) is type(right) and repr(left) == repr(right)


SLOW = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)


@SLOW
@given(st.data(), st.integers(2, 7), st.integers(1, 4))
def test_parts_put_together_are_the_batch(data, count, parts):
    batch = (torch.arange(count), data.draw(nests(count)))
    parts = min(parts, count)
    pieces = split_batch(batch, parts)
    assert [num_items(piece) for piece in pieces] == [len(p) for p in torch.arange(count).tensor_split(parts)]
    first = torch.cat([piece[0] for piece in pieces])
    assert torch.equal(first, batch[0])
    assert all(type(piece[1]) is type(batch[1]) for piece in pieces)
    assert same(resize_batch(batch, count), batch)


@SLOW
@given(st.data(), st.integers(1, 5))
def test_moving_keeps_the_nest(data, count):
    batch = (torch.arange(count), data.draw(nests(count)))
    moved = to_device(batch, torch.device("cpu"), channels_last=True)
    assert same(moved, batch)
    assert len(tensors_in(batch)) == len(tensors_in(map_tensors(batch, torch.clone)))


@pytest.mark.parametrize("channels_last", [True, False])
def test_only_images_get_the_memory_format(channels_last):
    images, volumes, table = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3)
    found = to_device({"a": images, "b": volumes, "c": table}, torch.device("cpu"), channels_last=channels_last)
    assert found["a"].is_contiguous(memory_format=torch.channels_last) is channels_last
    assert found["b"].is_contiguous(memory_format=torch.channels_last_3d) is channels_last
    assert found["c"].is_contiguous()


def test_a_larger_batch_repeats_its_items():
    images, targets = resize_batch((torch.arange(2), [{"n": 0}, {"n": 1}]), 5)
    assert images.tolist() == [0, 1, 0, 1, 0]
    assert [target["n"] for target in targets] == [0, 1, 0, 1, 0]


def test_parts_are_views_in_the_same_memory_format():
    images = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    first, _ = split_batch((images, torch.arange(4)), 2)
    assert first[0].data_ptr() == images.data_ptr()
    assert first[0].is_contiguous(memory_format=torch.channels_last)
