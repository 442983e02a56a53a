"""Workers: bytes arrive as bytes, and whatever breaks arrives as one sentence that names it."""

from __future__ import annotations

import os
import pickle
import signal

import pytest
import torch
from torch.utils.data import get_worker_info

from reslab.data import workers
from reslab.data.workers import (
    Failure,
    Watched,
    batches_of,
    cause_of,
    collate_uint8,
    explain,
    to_device_uint8,
    watched_loader,
)
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


def keys(epoch: int = 0, *, batch: int = 4) -> list[list[tuple[int, int]]]:
    return [[(epoch, number) for number in range(start, start + batch)] for start in range(0, NUM_IMAGES, batch)]


def loader(at_seven=lambda: None, *, workers: int = 0, batches=None):
    watched = Watched(Samples(at_seven), NAMES, workers=workers)
    return watched_loader(watched, keys() if batches is None else batches)


@pytest.fixture
def handler_of_children():
    """Puts the handler of dying children back."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_as_bytes(workers):
    reader = loader(workers=workers)
    for _ in range(2):  # the workers stay alive
        batches = list(batches_of(reader))
        assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        for images, labels in batches:
            assert (images.shape, images.dtype, labels.dtype) == ((4, 3, 4, 5), torch.uint8, torch.int64)
            assert images.is_contiguous()
            assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_torchs_global_generator_is_not_touched():
    before = torch.get_rng_state()
    list(batches_of(loader(workers=1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_that_were_turned_in_memory_are_stacked_as_images():
    turned = [(torch.arange(60, dtype=torch.uint8).view(4, 5, 3).permute(2, 0, 1), torch.tensor(1)) for _ in range(2)]
    images, labels = collate_uint8(turned)
    assert torch.equal(images, torch.stack([image for image, _ in turned]))
    assert labels.tolist() == [1, 1]


def test_floats_are_our_own_mistake():
    with pytest.raises(AssertionError):
        collate_uint8([(torch.zeros(3, 4, 5), torch.tensor(1))])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_used_is_named_in_its_own_sentence(workers):
    with pytest.raises(RequestError) as caught:
        list(batches_of(loader(raise_request_error, workers=workers)))
    assert str(caught.value) == "Can't read the image photos/7.jpg: it is broken. Replace or remove it."


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "reason"), [(raise_value_error, "ValueError: all is lost"), (run_out_of_memory, "MemoryError")]
)
def test_any_other_error_names_image_and_reason_without_a_traceback(workers, error, reason):
    with pytest.raises(WorkFailed) as caught:
        list(batches_of(loader(error, workers=workers)))
    assert str(caught.value) == f"Can't prepare the image photos/7.jpg: {reason}. Look at it, or remove it."


def test_batches_before_the_broken_one_arrive():
    batches = batches_of(loader(raise_value_error, workers=2))
    assert next(batches)[1].tolist() == [0, 1, 2, 3]
    with pytest.raises(WorkFailed):
        next(batches)


def test_in_this_process_the_cause_is_kept_for_who_looks_for_it():
    with pytest.raises(WorkFailed) as caught:
        list(batches_of(loader(raise_value_error)))
    assert isinstance(caught.value.__cause__, ValueError)


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
    with pytest.raises(
        WorkFailed, match=r"Worker 2 of 2 \(process \d+\) died over the image photos/7\.jpg: it ended by"
    ):
        list(batches_of(loader(leave, workers=2)))


def test_a_worker_that_dies_between_two_batches_is_named_wherever_we_are(handler_of_children):
    reader = loader(workers=1)
    batches = batches_of(reader)
    for _ in range(3):
        next(batches)
    pid = int(reader.dataset.busy[0, 0])
    with pytest.raises(
        WorkFailed, match=rf"Worker 1 of 1 \(process {pid}\) died between two batches: killed by SIGKILL"
    ):
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
    assert isinstance(handler, workers.NamedDeaths)
    assert not isinstance(handler.handler, workers.NamedDeaths)


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
def test_torchs_words_become_ours(report, cause):
    assert cause_of(f"DataLoader worker (pid 12) {report}").startswith(cause)


def test_a_death_of_somebody_elses_worker_is_told_too():
    error = explain(RuntimeError("DataLoader worker (pid(s) 999999, 5) exited unexpectedly"))
    assert isinstance(error, WorkFailed)
    assert str(error).startswith("A worker (process 999999) died: it ended by itself.")


def test_other_errors_stay_as_they_are():
    error = RuntimeError("shapes differ")
    assert explain(error) is error


def test_a_failure_can_be_sent():
    failure = Failure("It broke.", is_request=True)
    assert pickle.loads(pickle.dumps(failure)) == failure
    assert collate_uint8(failure) is failure


def test_a_watched_data_set_can_be_sent_to_a_spawned_worker():
    watched = Watched(Samples(raise_value_error), NAMES, workers=2)
    image, label = pickle.loads(pickle.dumps(watched))[0, 3]
    assert torch.equal(image, watched[0, 3][0])
    assert int(label) == 3


def test_on_the_cpu_nothing_is_copied():
    images, labels = torch.zeros(2, 3, 4, 5, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    sent = to_device_uint8((images, labels), torch.device("cpu"))
    assert [part.data_ptr() for part in sent] == [images.data_ptr(), labels.data_ptr()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_a_gpu_it_goes_through_pinned_memory():
    batch = torch.arange(120, dtype=torch.uint8).view(2, 3, 4, 5), torch.arange(2)
    images, labels = to_device_uint8(batch, torch.device("cuda"))
    assert (images.device.type, images.dtype) == ("cuda", torch.uint8)
    assert torch.equal(images.cpu(), batch[0])
    assert torch.equal(labels.cpu(), batch[1])
