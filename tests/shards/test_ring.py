"""Pieces of work ahead of their consumer: order, bounds, errors where they belong, every way to leave."""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import UsageError
from shards.loader import _fork as fork_module
from shards.loader._ring import THREAD_NAME, in_order


class Piece:
    def __init__(self, number: int, tasks: int, run: Callable[["Piece", int], None]) -> None:
        self.number = number
        self.done: list[int] = []
        self.dropped = False
        self.tasks = [lambda task=task: (run(self, task), self.done.append(task))[1] for task in range(tasks)]

    def drop(self) -> None:
        self.dropped = True


def nothing(piece: Piece, task: int) -> None:
    pass


def watch() -> SimpleNamespace:
    return SimpleNamespace(wait_s=0.0, ready=0)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@given(
    tasks=st.lists(st.integers(0, 5), max_size=12),
    workers=st.integers(0, 4),
    ahead=st.integers(1, 3),
    sleepy=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_task_is_done_once_and_pieces_come_in_order(
    tasks: list[int], workers: int, ahead: int, sleepy: int
) -> None:
    def run(piece: Piece, task: int) -> None:
        if (piece.number + task) % 4 < sleepy:
            time.sleep(0.001)

    pieces = [Piece(number, count, run) for number, count in enumerate(tasks)]
    for number, piece in enumerate(in_order(pieces, workers, ahead, watch())):
        assert piece.number == number
        assert sorted(piece.done) == list(range(tasks[number]))
    assert all(len(piece.done) == count for piece, count in zip(pieces, tasks, strict=True))
    assert not threads()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_is_begun_than_is_allowed(workers: int, ahead: int) -> None:
    begun = 0

    def works() -> Iterator[Piece]:
        nonlocal begun
        for number in range(20):
            begun += 1
            yield Piece(number, 2, nothing)

    for given_out, _ in enumerate(in_order(works(), workers, ahead, watch()), start=1):
        time.sleep(0.002)
        assert begun <= min(20, given_out + ahead)
    assert begun == 20


def test_all_threads_work_at_one_piece() -> None:
    together = threading.Barrier(3, timeout=20)
    seen = set()

    def run(piece: Piece, task: int) -> None:
        together.wait()  # broken, unless three threads are here at once
        seen.add(threading.get_ident())

    assert len(list(in_order([Piece(0, 3, run)], 3, 1, watch()))) == 1
    assert len(seen) == 3


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_where_its_piece_would_have_come(workers: int) -> None:
    def run(piece: Piece, task: int) -> None:
        if (piece.number, task) == (3, 1):
            raise ZeroDivisionError("of piece 3")

    pieces = in_order((Piece(number, 2, run) for number in range(9)), workers, 2, watch())
    assert [next(pieces).number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="of piece 3"):
        next(pieces)
    assert not list(pieces)
    assert not threads()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell ignores SIGINT for what runs in the background: a test that waits for it would wait for ever."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_leaving_cancels_what_has_not_begun_and_tells_what_runs() -> None:
    running, left = threading.Event(), threading.Event()
    pieces: list[Piece] = []

    def run(piece: Piece, task: int) -> None:
        if piece.number:
            running.set()
            while not piece.dropped:
                time.sleep(0.001)
            left.set()

    def works() -> Iterator[Piece]:
        for number in range(9):
            pieces.append(Piece(number, 4, run))
            yield pieces[-1]

    def interrupt() -> None:
        running.wait(20)
        time.sleep(0.3)  # until the consumer waits for the second piece
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    iterator = in_order(works(), 1, 2, watch())
    next(iterator)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    assert left.is_set()
    assert not threads()
    assert sum(len(piece.done) for piece in pieces[1:]) == 1  # the one task that had begun


def test_an_iterator_that_garbage_collection_finds_in_a_thread_of_its_own_does_no_harm() -> None:
    collected = threading.Event()

    def run(piece: Piece, task: int) -> None:
        if piece.number == 2:
            released.wait(20)
            gc.collect()
            collected.set()

    released = threading.Event()
    cycle: list[object] = [in_order((Piece(number, 1, run) for number in range(9)), 1, 3, watch())]
    cycle.append(cycle)
    next(cycle[0])  # type: ignore[call-overload]
    gc.disable()
    try:
        del cycle
        released.set()
        assert collected.wait(20)
    finally:
        gc.enable()
    for _ in range(2_000):
        if not threads():
            break
        time.sleep(0.005)
    assert not threads()


def test_a_forked_iterator_says_so_and_ends_nobody_elses_threads() -> None:
    iterator = in_order((Piece(number, 1, nothing) for number in range(9)), 2, 1, watch())
    next(iterator)
    child = os.fork()
    if not child:
        code = 1
        try:
            next(iterator)
        except UsageError as error:
            code = 0 if "its threads were not; make one here" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(iterator)) == 8


def test_no_task_runs_while_the_process_forks() -> None:
    """What a task has locked, in a decoder say, would stay locked in the child."""
    lock = threading.Lock()

    def run(piece: Piece, task: int) -> None:
        for _ in range(20):
            with lock:
                time.sleep(0.0001)

    iterator = in_order((Piece(number, 4, run) for number in range(10_000)), 3, 3, watch())
    for _ in range(15):
        next(iterator)
        child = os.fork()
        if not child:
            os._exit(0 if lock.acquire(timeout=1) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    iterator.close()
    assert not threads()


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_module, "_LONGEST_S", 0.2)
    stuck = threading.Event()

    def run(piece: Piece, task: int) -> None:
        if piece.number:
            stuck.wait(20)

    iterator = in_order((Piece(number, 1, run) for number in range(3)), 1, 2, watch())
    next(iterator)
    child = os.fork()
    if not child:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    stuck.set()
    assert len(list(iterator)) == 2


def test_waiting_and_what_is_ready_are_told() -> None:
    def run(piece: Piece, task: int) -> None:
        if not piece.number:
            time.sleep(0.05)

    told = watch()
    iterator = in_order((Piece(number, 2, run) for number in range(9)), 2, 3, told)
    next(iterator)
    assert told.wait_s > 0.04
    waited = told.wait_s
    time.sleep(0.1)
    next(iterator)
    assert told.ready >= 2
    assert told.wait_s < waited + 0.04
    told = watch()
    next(in_order([Piece(0, 1, run)], 0, 1, told))
    assert told.wait_s > 0.04
