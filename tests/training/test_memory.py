"""The memory of a step: measured, predicted, and what is done about a batch that doesn't fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.tasks.classify import Classify
from reslab.training import memory
from reslab.training.execution import ExecutionMode
from reslab.training.memory import MemoryProbe, StepMemory, in_units, largest_good
from reslab.training.optim import sgd
from reslab.training.options import TrainOptions

MIB = 2**20


def probe(name="resnet8", *, accumulate=1, **choices):
    torch.manual_seed(0)
    model, batch = create_model(name, 10, **choices), (torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    options, mode = TrainOptions(accumulate=accumulate), ExecutionMode(channels_last=True)
    return MemoryProbe(model, Classify(10), batch, sgd(model), options, mode)


def test_measuring_leaves_the_model_and_the_random_numbers_alone():
    asked = probe()
    before = {name: value.clone() for name, value in asked.model.state_dict().items()}
    state = torch.get_rng_state()
    asked.measure()
    assert all(torch.equal(value, before[name]) for name, value in asked.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not asked.optimizer.state
    assert all(p.grad is None for p in asked.model.parameters())


def test_activations_are_counted():
    """Batch norm and ReLU keep their inputs: two 16x32x32 maps of each layer of stem and first stage, at least."""
    found = probe().measure()
    maps = 16 * 32 * 32 * 4
    assert 6 * maps < found.bytes_per_item < 30 * maps
    weights = sum(p.numel() * 4 for p in create_model("resnet8", 10).parameters())
    assert found.fixed_bytes > 3 * weights  # with gradients and momenta


def test_deeper_takes_more_and_checkpointing_less():
    shallow, deep = probe("resnet8").measure(), probe("resnet32").measure()
    assert deep.bytes_per_item > 2.5 * shallow.bytes_per_item
    saving = probe("resnet32", checkpoint_blocks=True).measure()
    assert saving.bytes_per_item < 0.5 * deep.bytes_per_item


def test_parts_share_the_activations():
    whole, parts = probe().measure(), probe(accumulate=4).measure()
    assert parts.needs(1024) < 0.5 * whole.needs(1024)


memories = st.builds(
    StepMemory,
    fixed_bytes=st.integers(0, 10**9),
    bytes_per_item=st.integers(1, 10**7),
    input_bytes=st.integers(0, 10**6),
    parts=st.sampled_from([1, 2, 4]),
)


@given(memories, st.integers(0, 10**11))
def test_the_largest_batch_fits(found, free):
    largest = found.largest(free)
    assert 0 <= largest <= memory.MAX_BATCH
    if largest:
        assert found.needs(largest) <= memory.USABLE_FRACTION * free


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_search_finds_the_limit_to_one_part_in_64(limit, at_most):
    found = largest_good(lambda number: number <= limit, at_most=at_most)
    assert found <= min(limit, at_most)
    assert found >= min(limit, at_most) - max(1, found // 64)


def free(monkeypatch, count):
    monkeypatch.setattr(memory, "free_memory", lambda device: count)


def test_a_batch_that_fits_is_left_alone(monkeypatch):
    free(monkeypatch, 2**40)
    assert probe().check(4096, halve=False) == 4096


def test_one_that_does_not_is_refused_with_the_largest_that_does(monkeypatch):
    free(monkeypatch, 400 * MIB)
    with pytest.raises(
        RequestError, match=r"takes .* GiB, more than the 320 MiB that can be used.*--batch-size (\d+)"
    ) as told:
        probe().check(8192, halve=False)
    largest = int(str(told.value).split("--batch-size ")[1].split(".")[0])
    assert probe().check(largest, halve=False) == largest
    with pytest.raises(RequestError):
        probe().check(largest + 1, halve=False)
    assert "--accumulate" not in str(told.value)  # the images alone are too many


def test_the_parts_that_are_advised_fit(monkeypatch):
    free(monkeypatch, 900 * MIB)
    with pytest.raises(RequestError, match=r"--accumulate \d+") as told:
        probe().check(8192, halve=False)
    parts = int(str(told.value).split("--accumulate ")[1].split(")")[0])
    assert probe(accumulate=parts).check(8192, halve=False) == 8192
    with pytest.raises(RequestError):
        probe(accumulate=parts // 4).check(8192, halve=False)


def test_or_halved_if_that_was_asked_for(monkeypatch):
    free(monkeypatch, 400 * MIB)
    found = probe().check(8192, halve=True)
    assert found in {8192 // 2**number for number in range(1, 11)}
    assert found <= (probe().largest_batch() or 0) < 2 * found
    assert probe().check(8192, halve=True, sharing=2) < found


def test_where_nothing_fits_the_advice_is_another(monkeypatch):
    free(monkeypatch, MIB)
    with pytest.raises(RequestError, match=r"Not even one image fits.*--image-size"):
        probe().check(64, halve=True)


def test_where_nobody_knows_the_free_memory_the_batch_is_tried(monkeypatch):
    free(monkeypatch, None)
    assert probe().check(10**6, halve=False) == 10**6
    assert probe().largest_batch() is None


def test_the_container_counts_too(tmp_path, monkeypatch):
    root = tmp_path / "cgroup"
    inner = root / "box" / "inner"
    inner.mkdir(parents=True)
    for folder, limit, usage in ((root / "box", 1000 * MIB, 300 * MIB), (inner, "max", 200 * MIB)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {50 * MIB}\n")
    (tmp_path / "own").write_text("0::/box/inner\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000000 kB\n")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    assert memory.free_memory(torch.device("cpu")) == 8_000_000 * 1024
    monkeypatch.setattr(memory, "GROUPS", root)
    assert memory.free_memory(torch.device("cpu")) == 750 * MIB


def test_elsewhere_nobody_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "absent")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "absent")
    assert memory.free_memory(torch.device("cpu")) is None
    assert memory.free_memory(torch.device("meta")) is None


def test_bytes_for_people():
    assert [in_units(count) for count in (900, 5 * MIB, 1500 * MIB)] == ["1 KiB", "5 MiB", "1.5 GiB"]
