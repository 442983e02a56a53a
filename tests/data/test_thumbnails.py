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

from reslab.data import thumbnails
from reslab.data.jpeg import Photo, decode_crop, draw_resized_crop
from reslab.data.splits import EncodedSplit
from reslab.data.thumbnails import HEAD_BYTES, MIB, Thumbnails, open_thumbnails
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
def made(monkeypatch) -> list[str]:
    """Names of the photographs that were decoded for thumbnails."""
    decoded: list[str] = []

    def watched(source, *, channels, name):
        decoded.append(name)
        return Photo(source, channels=channels, name=name)

    monkeypatch.setattr(thumbnails, "Photo", watched)
    return decoded


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("*.bin")
    return path


def test_the_shorter_side_is_what_was_asked_for_and_nothing_is_enlarged(split, folder):
    kept = open_thumbnails(split, folder, side=SIDE)
    shapes = [kept.thumbnail(number).shape for number in range(len(SIZES))]
    assert shapes == [(40, 60, 3), (60, 40, 3), (40, 40, 3), (20, 30, 3), (40, 187, 3), (40, 53, 3)]
    assert kept.num_cached == len(SIZES)
    assert kept.describe().startswith("All 6 photographs are kept as thumbnails: 0.0 MiB in ")


def test_a_photograph_that_is_small_enough_is_kept_as_it_is(split, folder):
    kept = open_thumbnails(split, folder, side=SIDE)
    assert np.array_equal(kept.thumbnail(3), np.array(split.open(3)))
    box = (2, 3, 15, 20)
    ours = kept.crop(3, box, size=(10, 12))
    assert torch.equal(ours, decode_crop(split.items[3], box, size=(10, 12), channels=3, name="x"))


def test_crops_are_close_to_those_of_the_photograph_from_the_same_draw(split, folder):
    kept = open_thumbnails(split, folder, side=SIDE)
    for number, path in enumerate(split.items):
        for seed in range(5):
            torch.manual_seed(seed)
            ours = kept.crop(number, draw_resized_crop, size=(24, 24))
            state = torch.get_rng_state()
            torch.manual_seed(seed)
            theirs = decode_crop(path, draw_resized_crop, size=(24, 24), channels=3, name="x")
            assert torch.equal(torch.get_rng_state(), state)
            assert (ours.shape, ours.dtype, ours.is_contiguous()) == ((3, 24, 24), torch.uint8, True)
            assert (ours.float() - theirs.float()).abs().mean() < 6


def test_grey_photographs_have_grey_thumbnails(split, folder):
    grey = EncodedSplit(split.items, split.names, split.labels, 1)
    kept = open_thumbnails(grey, folder, side=SIDE)
    assert kept.thumbnail(0).shape == (40, 60, 1)
    assert kept.crop(0, draw_resized_crop, size=(8, 9)).shape == (1, 8, 9)
    assert open_thumbnails(split, folder, side=SIDE).path != kept.path


def test_contents_can_be_kept_as_well_as_files(split, folder):
    contents = [path.read_bytes() for path in split.items]
    kept = open_thumbnails(EncodedSplit(contents, split.names, split.labels, 3), folder, side=SIDE)
    assert np.array_equal(kept.thumbnail(0), open_thumbnails(split, folder, side=SIDE).thumbnail(0))


def test_they_are_found_again(split, folder, made):
    first = open_thumbnails(split, folder, side=SIDE)
    assert sorted(made) == sorted(split.names)
    second = open_thumbnails(split, folder, side=SIDE)
    assert len(made) == len(SIZES)
    assert np.array_equal(first.pixels, second.pixels)


def test_nothing_but_the_file_and_its_lock_is_left(split, folder):
    kept = open_thumbnails(split, folder, side=SIDE)
    assert sorted(folder.iterdir()) == [kept.path, kept.path.with_suffix(".lock")]


@pytest.mark.parametrize("change", ["time", "side", "labels", "order"])
def test_other_photographs_or_other_sides_get_their_own(split, folder, change, made):
    first = open_thumbnails(split, folder, side=SIDE)
    if change == "time":
        os.utime(split.items[2], ns=(1, 1))
    if change == "labels":
        split = EncodedSplit(split.items, split.names, split.labels.flip(0), 3)
    if change == "order":
        split = split.subset(torch.tensor([1, 0, 2, 3, 4, 5]))
    second = open_thumbnails(split, folder, side=30 if change == "side" else SIDE)
    assert first.path != second.path
    assert len(made) == 2 * len(SIZES)


@pytest.mark.parametrize("place", ["magic", "head", "index", "pixels", "cut", "longer", "empty", "other"])
def test_a_damaged_file_is_made_again(split, folder, place, made):
    wanted = np.array(open_thumbnails(split, folder, side=SIDE).pixels)
    path = the_file(folder)
    content = bytearray(path.read_bytes())
    at = {"magic": 0, "head": 30, "index": HEAD_BYTES + 11, "pixels": len(content) - 5}.get(place)
    if at is not None:
        content[at] ^= 1
    content = {"cut": content[:-1], "longer": content + b"x", "empty": b"", "other": b"x" * 9000}.get(place, content)
    path.unlink()  # the file that is mapped stays as it is
    path.write_bytes(content)
    again = open_thumbnails(split, folder, side=SIDE)
    assert len(made) == 2 * len(SIZES)
    assert np.array_equal(again.pixels, wanted)
    assert again.whole()


def test_a_file_of_other_photographs_under_this_name_is_made_again(split, folder, made):
    path = open_thumbnails(split, folder, side=SIDE).path
    open_thumbnails(split, folder, side=30).path.replace(path)
    assert open_thumbnails(split, folder, side=SIDE).thumbnail(2).shape == (40, 40, 3)
    assert len(made) == 3 * len(SIZES)


def test_what_does_not_fit_is_left_out_and_said(split, folder):
    limit = 20_000 / MIB
    kept = open_thumbnails(split, folder, side=SIDE, limit_mib=limit)
    assert 0 < kept.num_cached < len(SIZES)
    assert len(kept.pixels) <= 20_000
    there = [number in kept for number in range(len(SIZES))]
    assert there.count(True) == kept.num_cached
    assert kept.crop(there.index(False), draw_resized_crop, size=(8, 8)) is None
    assert kept.crop(there.index(True), draw_resized_crop, size=(8, 8)) is not None
    assert f"{kept.num_cached} of 6 photographs fit as thumbnails into" in kept.describe()


def test_which_ones_fit_tells_nothing_about_their_class(tmp_path, folder):
    image = smooth(40, 40, 0)
    path = tmp_path / "a.jpg"
    image.save(path)
    labels = torch.arange(200) // 100
    split = EncodedSplit([path] * 200, ["a"] * 200, labels, 3)
    kept = open_thumbnails(split, folder, side=SIDE, limit_mib=100 * 4800 / MIB)
    there = torch.tensor([number in kept for number in range(200)])
    assert there.sum() == 100
    assert 35 <= int(there[labels == 0].sum()) <= 65


def test_a_limit_that_would_change_what_fits_makes_them_again(split, folder, made):
    few = open_thumbnails(split, folder, side=SIDE, limit_mib=20_000 / MIB).num_cached
    decoded = len(made)
    assert open_thumbnails(split, folder, side=SIDE, limit_mib=20_000 / MIB).num_cached == few
    assert len(made) == decoded
    assert open_thumbnails(split, folder, side=SIDE, limit_mib=1).num_cached == len(SIZES)
    assert len(made) == decoded + len(SIZES)
    assert open_thumbnails(split, folder, side=SIDE, limit_mib=2).num_cached == len(SIZES)  # all fit already
    assert len(made) == decoded + len(SIZES)
    assert open_thumbnails(split, folder, side=SIDE, limit_mib=20_000 / MIB).num_cached == few


def test_a_limit_that_nothing_fits_into_is_refused(split, folder):
    with pytest.raises(RequestError, match=r"Not one thumbnail of 40 pixels fits into 0\.000\d+ MiB\. Raise the limit"):
        open_thumbnails(split, folder, side=SIDE, limit_mib=1000 / MIB)
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("options", [{"side": 0}, {"limit_mib": 0}])
def test_impossible_sides_and_limits_are_refused(split, folder, options):
    with pytest.raises(RequestError, match="at least 1 pixel and a limit above 0 MiB"):
        open_thumbnails(split, folder, **options)


def test_a_folder_that_cannot_be_written_is_named(split, tmp_path):
    place = tmp_path / "file"
    place.write_text("not a folder")
    with pytest.raises(
        RequestError, match=r"Can't keep thumbnails in .*file/x: .*choose another folder, or go without"
    ):
        open_thumbnails(split, place / "x", side=SIDE)


def test_a_full_disk_leaves_nothing_behind(split, folder, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left on device"):
        open_thumbnails(split, folder, side=SIDE)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_a_broken_photograph_is_named_and_nothing_is_kept(split, folder):
    split.items[1].write_bytes(split.items[1].read_bytes()[:500])
    with pytest.raises(RequestError, match=r"Can't read the image .*1\.jpg"):
        open_thumbnails(split, folder, side=SIDE)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_a_photograph_that_is_gone_is_named(split, folder):
    split.items[1].unlink()
    with pytest.raises(RequestError, match=r"Can't read the image .*1\.jpg: No such file"):
        open_thumbnails(split, folder, side=SIDE)


def test_what_a_killed_process_left_is_written_over(split, folder):
    path = open_thumbnails(split, folder, side=SIDE).path
    path.replace(path.with_suffix(".unfinished"))
    assert open_thumbnails(split, folder, side=SIDE).whole()
    assert not path.with_suffix(".unfinished").exists()


def test_they_can_be_sent_to_another_process(split, folder):
    kept = open_thumbnails(split, folder, side=SIDE)
    sent = pickle.dumps(kept)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).thumbnail(4), kept.thumbnail(4))


def open_in_a_process(split: EncodedSplit, folder: Path, answers) -> None:
    decoded: list[str] = []
    original = thumbnails.shrunk
    thumbnails.shrunk = lambda photo, *, side: decoded.append(photo.name) or original(photo, side=side)
    kept = open_thumbnails(split, folder, side=SIDE)
    answers.put((len(decoded), kept.num_cached))


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


def test_another_file_is_no_thumbnails(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="not a file of thumbnails"):
        Thumbnails(path, "key")
