"""What is refused, chosen and noted between a config and its training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data import Data, DataOptions, find_source, prepare
from reslab.data.splits import EncodedSplit
from reslab.distributed import LOCAL
from reslab.errors import RequestError
from reslab.run.assemble import assemble, check_recipe, choose_workers
from reslab.run.config import ModelOptions, RunConfig, load_recipe
from reslab.run.display import Display
from reslab.run.search import CHART, RECORD, find_batch, find_lr
from reslab.training import memory
from reslab.training.lr_range import Sweep
from reslab.training.options import TrainOptions

CPU = torch.device("cpu")


class Notes(Display):
    """Keeps what was said."""

    def __init__(self):
        self.notes, self.steps = [], 0

    def step(self, record):
        self.steps += 1

    def note(self, text):
        self.notes.append(text)


def config(*, data=None, **train):
    return RunConfig(
        model=ModelOptions(name="resnet8"),
        data=data or DataOptions(name="digits", workers=0),
        train=TrainOptions(**{"epochs": 1, "device": "cpu", "threads": 1} | train),
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes of eight noisy JPEG photographs each."""
    root, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (root / name).mkdir()
        for number in range(8):
            pixels = generator.integers(0, 255, (90, 120, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((240, 180)).save(root / name / f"{number}.jpg")
    return root


def of_photographs(root, **changes):
    return DataOptions(name=str(root), **{"image_size": 72, "batch_size": 4, "val_split": 0.25, "workers": 0} | changes)


def test_a_recipe_for_another_size_is_refused(photographs):
    with pytest.raises(RequestError, match=r"he2015-cifar is for images of 24 to 64 pixels, and those of .* have 180"):
        check_recipe(load_recipe("he2015-cifar").recipe, find_source(of_photographs(photographs)))


def test_a_batch_that_does_not_fit_is_refused_before_anything_else(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**23)
    large = DataOptions(name="digits", batch_size=1294, workers=0)
    with pytest.raises(RequestError, match=r"The largest batch that fits is \d+"):
        assemble(config(data=large), Display(), ranks=LOCAL)


def test_or_halved_and_said_so(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**23 + 2**22)
    large, display = DataOptions(name="digits", batch_size=1294, workers=0, fit_batch=True), Notes()
    parts = assemble(config(data=large), display, ranks=LOCAL)
    halved = parts.config.data.batch_size
    assert halved in (647, 323, 161, 80)
    assert parts.loaders[0].batch_size == halved
    assert f"batch: {halved} images per step instead of 1294" in parts.notes["batch"]
    assert parts.notes["batch"] in display.notes


@pytest.mark.parametrize(
    ("wish", "seconds", "pace", "cores", "wanted"),
    [
        (3, 0.01, 100.0, 2, 3),  # as asked
        (-1, 0.01, 100.0, 8, 1),  # one keeps up
        (-1, 0.01, 350.0, 8, 4),
        (-1, 0.01, 3500.0, 8, 8),  # never more than cores
        (-1, 0.01, None, 8, 8),  # the pace wasn't measured
    ],
)
def test_as_many_workers_as_keep_the_network_busy(photographs, monkeypatch, wish, seconds, pace, cores, wanted):
    options = of_photographs(photographs)
    data = prepare(find_source(options), options)
    monkeypatch.setattr(Data, "decoding_s", lambda data: seconds)
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: cores)
    assert choose_workers(wish, data, items_per_s=pace)[0] == wanted


def test_small_images_need_no_workers():
    options = config().data
    data = prepare(find_source(options), options)
    assert choose_workers(-1, data, items_per_s=1.0) == (0, "the loader works in memory")


def test_thumbnails_are_kept_and_named(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    display = Notes()
    parts = assemble(config(data=of_photographs(photographs, cache_mib=8)), display, ranks=LOCAL)
    assert any("All 12 photographs are kept as thumbnails" in note for note in display.notes)
    assert list((tmp_path / "reslab").glob("thumbnails-*.bin"))
    assert parts.data.describe()["thumbnails"] == parts.data.thumbnails.describe()
    split = parts.data.train
    assert isinstance(split, EncodedSplit)
    images, _ = next(iter(parts.loaders[0].batches()))
    assert images.shape == (4, 3, 72, 72)
    for item in split.items:
        item.rename(item.with_suffix(".gone"))
    try:
        again, _ = next(iter(parts.loaders[0].batches()))  # nothing is read from the photographs any more
        assert torch.equal(again, images)
    finally:
        for item in split.items:
            item.with_suffix(".gone").rename(item)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"name": "digits"}, "kept in memory anyway"), ({"augment": "none"}, "random crops of photographs")],
)
def test_thumbnails_that_nobody_would_use_are_refused(photographs, changes, words):
    wrong = replace(of_photographs(photographs, cache_mib=8, image_size=0), **changes)
    with pytest.raises(RequestError, match=words):
        prepare(find_source(wrong), wrong)


def test_lr_find_leaves_record_and_chart(tmp_path):
    display = Notes()
    record = find_lr(config(), tmp_path / "lr", sweep=Sweep(1e-5, 10, 30), display=display)
    assert display.steps == len(record.steps) <= 30
    assert (tmp_path / "lr" / CHART).read_bytes().startswith(b"\x89PNG")
    assert f'"reason": "{record.reason}"' in (tmp_path / "lr" / RECORD).read_text()
    assert record.name == "resnet8 on digits"


def test_lr_find_writes_nothing_for_a_wrong_request(tmp_path):
    with pytest.raises(RequestError, match="A range test goes from"):
        find_lr(config(), tmp_path / "lr", sweep=Sweep(1, 1))
    assert not (tmp_path / "lr").exists()


def test_batch_find_says_what_fits(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**28)
    room = find_batch(config())
    assert room.largest is not None
    assert room.memory.needs(room.largest) <= memory.USABLE_FRACTION * 2**28
    assert room.memory.needs(2 * room.largest) > 2**28
