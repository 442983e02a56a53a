"""Workers: bytes arrive as bytes, and whatever breaks arrives as one sentence that names it."""

from __future__ import annotations

import os
import pickle
import signal

import pytest
import torch
from torch.utils.data import get_worker_info

from reslab.data._workers import ExplainingHandler, WatchedSamples, batches_of, collate_samples, explain, watched_loader
from reslab.errors import RequestError, WorkFailed

NUM_IMAGES = 12
NAMES = [f"photos/{number}.jpg" for number in range(NUM_IMAGES)]


class Samples:
    """Images that hold their number and epoch; what happens at image 7 can be chosen."""

    def __init__(self, at_seven=lambda: None):
        self.at_seven = at_seven

    def __getitem__(self, key):
        epoch, number = key
        if number == 7:
            self.at_seven()
        return torch.full((3, 4, 5), number + 20 * epoch, dtype=torch.uint8), torch.tensor(number)


def raise_value_error() -> None:
    raise ValueError("all is lost.")


def raise_request_error() -> None:
    raise RequestError("Can't read the image photos/7.jpg: it is broken. Replace or remove it.")


def run_out_of_memory() -> None:
    raise MemoryError


def kill_this_process() -> None:
    assert get_worker_info() is not None
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    assert get_worker_info() is not None
    os._exit(3)


def loader(at_seven=lambda: None, *, workers: int = 0):
    keys = [[(0, number) for number in range(start, start + 4)] for start in range(0, NUM_IMAGES, 4)]
    return watched_loader(WatchedSamples(Samples(at_seven), NAMES, workers=workers), keys)


@pytest.fixture
def handler_of_children():
    """Puts the handler of dying children back."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_as_bytes(workers):
    reader, before = loader(workers=workers), torch.get_rng_state()
    for _ in range(2):  # the workers stay alive
        batches = list(batches_of(reader))
        assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        for images, labels in batches:
            assert (images.shape, images.dtype, labels.dtype) == ((4, 3, 4, 5), torch.uint8, torch.int64)
            assert images.is_contiguous()
            assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_has_one_shape_is_stacked_and_the_rest_stays_a_list():
    turned = torch.arange(60, dtype=torch.uint8).view(4, 5, 3).permute(2, 0, 1)
    images, labels = collate_samples([(turned, 1), (turned, 4)])
    assert torch.equal(images, torch.stack([turned, turned]))
    assert labels.tolist() == [1, 4]
    images, targets = collate_samples([(turned, {"a": 1}), (turned[:, :2], {"a": 2})])
    assert [image.shape for image in images] == [(3, 4, 5), (3, 2, 5)]
    assert targets == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (raise_request_error, RequestError, "Can't read the image photos/7.jpg: it is broken. Replace or remove it."),
        (raise_value_error, WorkFailed, "Can't prepare the image photos/7.jpg: ValueError: all is lost. Look at it,"
         " or remove it."),
        (run_out_of_memory, WorkFailed, "Can't prepare the image photos/7.jpg: MemoryError. Look at it, or remove it."),
    ],
)  # fmt: skip
def test_an_error_names_image_and_reason_without_a_traceback(workers, error, kind, sentence):
    batches = batches_of(loader(error, workers=workers))
    assert next(batches)[1].tolist() == [0, 1, 2, 3]
    with pytest.raises(kind) as caught:
        next(batches)
    assert str(caught.value) == sentence
    if not workers:
        assert caught.value.__cause__ is not None  # for who looks for it


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_named_with_its_signal_and_image(workers, handler_of_children, capfd):
    with pytest.raises(WorkFailed) as caught:
        list(batches_of(loader(kill_this_process, workers=workers)))
    who, _, what = str(caught.value).partition(" died over the image photos/7.jpg: ")
    assert who.startswith(f"Worker {workers} of {workers} (process ")
    assert what.startswith("killed by SIGKILL, as the system does to what takes most memory when none is left.")
    assert "Use fewer workers or smaller batches" in what


@pytest.mark.slow  # torch may take 5 s to notice
def test_a_worker_that_leaves_is_named_with_its_exit_code(handler_of_children):
    words = r"Worker 2 of 2 \(process \d+\) died over the image photos/7\.jpg: it ended by"
    with pytest.raises(WorkFailed, match=words):
        list(batches_of(loader(leave, workers=2)))


def test_a_worker_that_dies_between_two_batches_is_named_wherever_we_are(handler_of_children):
    reader = loader(workers=1)
    batches = batches_of(reader)
    for _ in range(3):
        next(batches)
    pid = int(reader.dataset.busy[0, 0])
    words = rf"Worker 1 of 1 \(process {pid}\) died between two batches: killed by SIGKILL"
    with pytest.raises(WorkFailed, match=words):
        end(pid)


def end(pid: int) -> None:
    """Kills a process, and comes back when the process has ended or its handler has raised."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    for _ in range(1000):
        os.getpid()  # Python runs handlers between two instructions


def test_a_handler_is_wrapped_once(handler_of_children):
    for _ in range(2):
        list(batches_of(loader(workers=1)))
    handler = signal.getsignal(signal.SIGCHLD)
    assert isinstance(handler, ExplainingHandler)
    assert not isinstance(handler.handler, ExplainingHandler)


@pytest.mark.parametrize(
    ("report", "cause"),
    [
        ("is killed by signal: Killed. ", "killed by SIGKILL, as the system does"),
        ("is killed by signal: Segmentation fault. ", "killed by SIGSEGV, a fault inside a library"),
        ("is killed by signal: Bus error. It is possible that", "killed by SIGBUS, as the system does when shared"),
        ("is killed by signal: Aborted. ", "killed by SIGABRT. Look at that image"),
        ("is killed by signal: Something new. ", "killed by Something new. Look"),
        ("exited unexpectedly with exit code 3. Details are lost", "it ended by itself with exit code 3. Look"),
        ("exited unexpectedly", "it ended by itself. Look"),
    ],
)
def test_torchs_words_become_ours_also_of_a_worker_of_others(report, cause):
    error = explain(RuntimeError(f"DataLoader worker (pid(s) 999999, 5) {report}"))
    assert isinstance(error, WorkFailed)
    assert str(error).startswith(f"A worker (process 999999) died: {cause}")


def test_other_errors_stay_as_they_are():
    error = RuntimeError("shapes differ")
    assert explain(error) is error


def test_watched_samples_can_be_sent_to_a_spawned_worker():
    watched = WatchedSamples(Samples(raise_value_error), NAMES, workers=2)
    [(image, label)] = pickle.loads(pickle.dumps(watched)).__getitems__([(0, 3)])
    assert (image.unique().tolist(), int(label)) == ([3], 3)
