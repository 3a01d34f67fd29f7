"""Batch memory is used again only when nothing can see it any more, and nothing large is allocated then."""

import os
import pickle
import resource
import sys
import threading
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch

from shards.loader._memory import ALIGNMENT, Field, SlabPool, hold_until_copied

FIELDS = {
    "wave": Field(np.dtype(np.float32), (1001,)),
    "codes": Field(np.dtype(np.uint8), (7, 3)),
    "frames": Field(np.dtype(np.int64), ()),
}


def test_fields_are_aligned_and_apart() -> None:
    arrays = SlabPool(FIELDS, 5, most=2).take()
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "wave": (np.float32, (5, 1001)),
        "codes": (np.uint8, (5, 7, 3)),
        "frames": (np.int64, (5,)),
    }
    assert all(array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous for array in arrays.values())
    for number, array in enumerate(arrays.values(), start=1):
        array.fill(number)
    assert [np.unique(array).tolist() for array in arrays.values()] == [[1], [2], [3]]
    assert SlabPool(FIELDS, 5, most=2).take(2)["wave"].shape == (2, 1001)


def _storage(tensor: torch.Tensor) -> object:
    return tensor.untyped_storage()


def _exported(tensor: torch.Tensor) -> object:
    return memoryview(tensor.numpy())


# Each keeps something of a batch's `wave` after the batch itself and everything else of it is gone.
KEPT = {
    "an array": lambda arrays: arrays["wave"],
    "one row": lambda arrays: arrays["wave"][3],
    "a number's view": lambda arrays: arrays["wave"][3, 10:11],
    "a view as bytes": lambda arrays: arrays["wave"].view(np.uint8)[:, 4:8],
    "a transposed view": lambda arrays: arrays["wave"].T[5],
    "a tensor": lambda arrays: torch.from_numpy(arrays["wave"]),
    "a row of a tensor": lambda arrays: torch.from_numpy(arrays["wave"])[3],
    "a view of a tensor": lambda arrays: torch.from_numpy(arrays["wave"]).flatten()[7:9].unsqueeze(0),
    "a detached alias": lambda arrays: torch.from_numpy(arrays["wave"]).detach(),
    "a tensor's storage": lambda arrays: _storage(torch.from_numpy(arrays["wave"])),
    "an array of a tensor": lambda arrays: torch.from_numpy(arrays["wave"])[2:].numpy(),
    "a buffer of it": lambda arrays: _exported(torch.from_numpy(arrays["wave"])),
    "another field": lambda arrays: arrays["codes"][0],
}


@pytest.mark.parametrize("kept", KEPT)
def test_a_slab_comes_back_when_the_last_view_is_gone(kept: str) -> None:
    pool = SlabPool(FIELDS, 5, most=2)
    arrays = pool.take()
    arrays["wave"].fill(1)
    arrays["codes"].fill(1)
    alive = KEPT[kept](arrays)
    del arrays
    other = pool.take()
    assert pool.allocated == 2
    for array in other.values():
        array.fill(2)
    if isinstance(alive, torch.Tensor | np.ndarray):
        assert (alive != 2).all()
    del alive, other, array
    both = pool.take(), pool.take()
    assert pool.allocated == 2
    del both


def test_the_latest_slabs_come_back_and_the_rest_is_freed() -> None:
    pool = SlabPool(FIELDS, 5, most=3)
    kept = [pool.take() for _ in range(7)]
    assert pool.allocated == 7
    assert len({arrays["wave"].ctypes.data for arrays in kept}) == 7
    tracked = [weakref.ref(lease.memory) for lease in pool._leases]
    assert len(tracked) == 3
    addresses = {arrays["wave"].ctypes.data for arrays in kept[-3:]}
    kept.clear()
    again = [pool.take() for _ in range(4)]
    assert pool.allocated == 8
    assert {arrays["wave"].ctypes.data for arrays in again} >= addresses
    assert sum(memory() is not None for memory in tracked) == 3


def test_giving_a_slab_back_runs_no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python runs, a KeyboardInterrupt can arrive, and in a callback it would be swallowed."""
    pool = SlabPool(FIELDS, 5, most=3)
    arrays = dict(pool.take())
    called = []
    sys.setprofile(lambda frame, event, argument: called.append((event, frame.f_code.co_name)))
    try:
        arrays.clear()
    finally:
        sys.setprofile(None)
    assert {event for event, _ in called} <= {"c_call", "c_return"}
    assert len(pool._ended) == 1


def test_memory_used_again_has_no_page_faults() -> None:
    """Fresh memory of this size faults on each of its pages, which costs a peer 40 % of its time."""
    pool = SlabPool({"wave": Field(np.dtype(np.float32), (160_000,))}, 16, most=2)
    for _ in range(2):
        pool.take()["wave"].fill(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        pool.take()["wave"].fill(1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100  # once through it are 2,500


def test_a_pool_travels_without_its_slabs() -> None:
    pool = SlabPool(FIELDS, 5, most=2)
    del pool.take()["wave"]
    sent = pickle.dumps(pool)
    assert len(sent) < 2_000
    copied = pickle.loads(sent)
    assert copied.take()["wave"].shape == (5, 1001)
    assert (pool.allocated, copied.allocated) == (1, 1)


def test_threads_that_share_a_pool_never_share_a_slab() -> None:
    pool = SlabPool(FIELDS, 5, most=8)
    wrong = []

    def use(own: int) -> None:
        for _ in range(300):
            arrays = pool.take()
            arrays["wave"].fill(own)
            tensor = torch.from_numpy(arrays["wave"])
            del arrays
            if not bool((tensor == own).all()):
                wrong.append(own)

    threads = [threading.Thread(target=use, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    assert pool.allocated <= 8  # each has one, and the one before until its variable is another's


def test_a_forked_process_has_slabs_of_its_own() -> None:
    pool = SlabPool(FIELDS, 5, most=3)
    pool.take()["wave"].fill(1)
    kept = pool.take()["wave"]
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if (pool.take(), pool.allocated)[1] == 1 and (kept == 1).all() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.allocated == 1


class _Event:
    """Stands for one of a GPU: what was recorded is done when `done` says so, or when somebody waits for it."""

    made: ClassVar[list["_Event"]] = []

    def __init__(self) -> None:
        self.done = self.waited = False
        self.made.append(self)

    def record(self, stream: object = None) -> None:
        self.stream = stream

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.waited, self.done = not self.done, True


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[_Event]:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **how: empty(*shape, **how))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(_Event, "made", [])
    return _Event.made


def test_pinned_memory_is_not_written_while_a_gpu_may_read_it(gpu: list[_Event]) -> None:
    pool = SlabPool(FIELDS, 5, most=9, pin_memory=True)
    first = pool.take()["wave"].ctypes.data
    second = pool.take()["wave"].ctypes.data  # the first one's batch is gone, the copies from it are not
    assert (pool.allocated, len(gpu)) == (2, 1)
    gpu[0].done = True
    assert pool.take()["wave"].ctypes.data == first
    assert (pool.allocated, len(gpu)) == (2, 2)
    for _ in range(20):  # a GPU that falls behind: the caller waits for it in the end
        pool.take()
    assert pool.allocated < 8
    assert any(event.waited for event in gpu)
    assert second != first


def test_a_batch_stays_until_it_is_copied(gpu: list[_Event]) -> None:
    pool = SlabPool(FIELDS, 5, most=9)
    tensors = [torch.from_numpy(array) for array in pool.take().values()]
    device = torch.device("cuda", 0)
    hold_until_copied(tensors, device)
    tensors.clear()
    assert gpu[0].stream == f"stream of {device}"
    other = pool.take()
    assert pool.allocated == 2
    gpu[0].done = True
    del other
    pool.take(), pool.take()
    assert pool.allocated == 2
    hold_until_copied([torch.zeros(1)], torch.device("cpu"))
    assert len(gpu) == 1
