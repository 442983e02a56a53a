"""Thumbnails: made once, shared, limited, found again when they are whole, and cropped like the photograph."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data import _thumbnails
from reslab.data._images import Photo, draw_resized_crop
from reslab.data._thumbnails import MIB, open_thumbnails
from reslab.data.splits import EncodedSplit
from reslab.errors import RequestError

SIZES = [(90, 60), (60, 90), (80, 80), (30, 20), (300, 64), (64, 48)]  # width, height
SIDE = 40


def smooth(width: int, height: int, number: int) -> Image.Image:
    """A picture that survives being made smaller."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (30 + number)), np.cos(columns / (40 + number)), np.sin((rows + columns) / 50)]
    return Image.fromarray(np.stack([127 + 100 * wave for wave in waves], 2).astype(np.uint8))


@pytest.fixture
def split(tmp_path) -> EncodedSplit:
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(len(SIZES))]
    for number, (path, (width, height)) in enumerate(zip(paths, SIZES, strict=True)):
        smooth(width, height, number).save(path, quality=95)
    return EncodedSplit(paths, [str(path) for path in paths], torch.arange(len(SIZES)), 3)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the photographs that were decoded for thumbnails."""
    names: list[str] = []

    def watched(source, *, channels, name):
        names.append(name)
        return Photo(source, channels=channels, name=name)

    monkeypatch.setattr(_thumbnails, "Photo", watched)
    return names


def make(split, folder, *, side=SIDE, limit_mib=1.0):
    return open_thumbnails(split, folder, side=side, limit_mib=limit_mib)


def shapes(kept) -> list:
    return [None if (one := kept.find(number)) is None else one.pixels.shape for number in range(len(kept.index))]


def test_the_shorter_side_is_what_was_asked_for_and_nothing_is_enlarged(split, folder):
    kept = make(split, folder)
    assert shapes(kept) == [(40, 60, 3), (60, 40, 3), (40, 40, 3), (20, 30, 3), (40, 187, 3), (40, 53, 3)]
    assert kept.describe().startswith("All 6 photographs are kept as thumbnails: 0.0 MiB in ")
    small = kept.find(3)  # small enough to be kept as it is
    assert np.array_equal(small.pixels, np.array(split.open(3)))
    photo = Photo(split.items[3], channels=3, name="x")
    assert torch.equal(small.crop((2, 3, 15, 20), (10, 12)), photo.crop((2, 3, 15, 20), (10, 12)))


def test_crops_are_close_to_those_of_the_photograph_by_the_same_box(split, folder):
    kept = make(split, folder)
    torch.manual_seed(0)
    for number, path in enumerate(split.items):
        one, photo = kept.find(number), Photo(path, channels=3, name="x")
        assert (one.height, one.width) == (photo.height, photo.width)
        for _ in range(5):
            box = draw_resized_crop(photo.height, photo.width)
            ours, theirs = one.crop(box, (24, 24)), photo.crop(box, (24, 24))
            assert (ours.shape, ours.dtype, ours.is_contiguous()) == ((3, 24, 24), torch.uint8, True)
            assert (ours.float() - theirs.float()).abs().mean() < 6


def test_grey_photographs_have_grey_thumbnails(split, folder):
    grey = make(EncodedSplit(split.items, split.names, split.targets, 1), folder)
    assert grey.find(0).pixels.shape == (40, 60, 1)
    assert grey.find(0).crop((0, 0, 60, 90), (8, 9)).shape == (1, 8, 9)
    assert make(split, folder).path != grey.path


def test_contents_can_be_kept_as_well_as_files(split, folder):
    contents = [path.read_bytes() for path in split.items]
    kept = make(EncodedSplit(contents, split.names, split.targets, 3), folder)
    assert np.array_equal(kept.pixels, make(split, folder).pixels)


def test_they_are_found_again_and_can_be_sent_to_another_process(split, folder, decoded):
    first = make(split, folder)
    assert sorted(decoded) == sorted(split.names)
    sent = pickle.dumps(make(split, folder))
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).pixels, first.pixels)
    assert len(decoded) == len(SIZES)
    assert {path.suffix for path in folder.iterdir()} == {".bin", ".npz", ".lock"}


@pytest.mark.parametrize("change", ["time", "side", "labels", "order"])
def test_other_photographs_or_other_sides_get_their_own(split, folder, change, decoded):
    first = make(split, folder)
    if change == "time":
        os.utime(split.items[2], ns=(1, 1))
    if change == "labels":
        split = EncodedSplit(split.items, split.names, split.targets.flip(0), 3)
    if change == "order":
        split = split.subset(torch.tensor([1, 0, 2, 3, 4, 5]))
    second = make(split, folder, side=30 if change == "side" else SIDE)
    assert first.path != second.path
    assert len(decoded) == 2 * len(SIZES)


@pytest.mark.parametrize("suffix", [".bin", ".npz"])
@pytest.mark.parametrize("damage", ["first", "middle", "last", "cut", "longer", "empty", "other", "gone"])
def test_a_damaged_file_is_made_again(split, folder, suffix, damage, decoded):
    kept = make(split, folder)
    wanted, path = np.array(kept.pixels), kept.path.with_suffix(suffix)
    content = bytearray(path.read_bytes())
    at = {"first": 0, "middle": len(content) // 2, "last": len(content) - 5}.get(damage)
    if at is not None:
        content[at] ^= 1
    content = {"cut": content[:-1], "longer": content + b"x", "empty": b"", "other": b"x" * 9000}.get(damage, content)
    path.unlink()  # the file that is mapped stays as it is
    if damage != "gone":
        path.write_bytes(content)
    assert np.array_equal(make(split, folder).pixels, wanted)
    harmless = suffix == ".npz" and damage == "longer"  # behind the end of an archive
    assert len(decoded) == (1 if harmless else 2) * len(SIZES)


def test_what_does_not_fit_is_left_out_and_said(split, folder):
    kept = make(split, folder, limit_mib=20_000 / MIB)
    there = [shape is not None for shape in shapes(kept)]
    assert 0 < there.count(True) == kept.num_cached < len(SIZES)
    assert len(kept.pixels) <= 20_000
    assert f"{kept.num_cached} of 6 photographs fit as thumbnails into" in kept.describe()


def test_which_ones_fit_tells_nothing_about_their_class(tmp_path, folder):
    path = tmp_path / "a.jpg"
    smooth(40, 40, 0).save(path)
    labels = torch.arange(200) // 100
    kept = make(EncodedSplit([path] * 200, ["a"] * 200, labels, 3), folder, limit_mib=100 * 4800 / MIB)
    there = torch.tensor([shape is not None for shape in shapes(kept)])
    assert there.sum() == 100
    assert 35 <= int(there[labels == 0].sum()) <= 65


def test_a_limit_that_would_change_what_fits_makes_them_again(split, folder, decoded):
    few = make(split, folder, limit_mib=20_000 / MIB).num_cached
    made = len(decoded)
    assert make(split, folder, limit_mib=20_000 / MIB).num_cached == few
    assert len(decoded) == made
    assert make(split, folder, limit_mib=1).num_cached == len(SIZES)
    assert make(split, folder, limit_mib=2).num_cached == len(SIZES)  # all fit already
    assert len(decoded) == made + len(SIZES)
    assert make(split, folder, limit_mib=20_000 / MIB).num_cached == few


def test_a_limit_that_nothing_fits_into_is_refused(split, folder):
    with pytest.raises(RequestError, match=r"Not one thumbnail of 40 pixels fits into 0\.000\d+ MiB\. Raise cache_mib"):
        make(split, folder, limit_mib=1000 / MIB)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(split, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RequestError, match=r"Can't keep thumbnails in .*file/x: .*another folder by XDG_CACHE_HOME"):
        make(split, tmp_path / "file" / "x")


def test_a_full_disk_leaves_nothing_behind(split, folder, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left on device"):
        make(split, folder)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_a_broken_photograph_and_one_that_is_gone_are_named_and_nothing_is_kept(split, folder):
    split.items[1].write_bytes(split.items[1].read_bytes()[:500])
    with pytest.raises(RequestError, match=r"Can't read the image .*1\.jpg"):
        make(split, folder)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    split.items[1].unlink()
    with pytest.raises(RequestError, match=r"Can't read the image .*1\.jpg: No such file"):
        make(split, folder)


def test_what_a_killed_process_left_is_written_over(split, folder):
    path = make(split, folder).path
    path.replace(path.with_suffix(".unfinished"))
    assert make(split, folder).num_cached == len(SIZES)
    assert not path.with_suffix(".unfinished").exists()


def open_in_a_process(split: EncodedSplit, folder: Path, answers) -> None:
    names: list[str] = []
    _thumbnails.Photo = lambda *source, name, **how: names.append(name) or Photo(*source, name=name, **how)
    kept = make(split, folder)
    answers.put((len(names), kept.num_cached))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12 and later
def test_of_several_processes_one_makes_them(split, folder):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=open_in_a_process, args=(split, folder, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, 6), (0, 6), (6, 6)]
