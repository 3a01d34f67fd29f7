"""Threads that are in no library's code while their process forks.

A child has only the thread that forked. What another one had locked, inside a decoder or an allocator, stays locked in
the child for ever: a DataLoader's worker, forked while threads of a loader decode, would wait for it.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

_LONGEST_S = 5.0
"""How long a fork waits for tasks that do not end, as of a store that does not answer."""

_gates: dict[int, Sequence[threading.Lock]] = {}
_closed: list[threading.Lock] = []
_own = threading.local()


@contextmanager
def fork_waits(threads: int) -> Iterator[Callable[[], None]]:
    """Within the block a fork waits until none of so many threads is in `run_task`.

    Gives what each of the threads has to call once, before its first task.
    """
    locks = [threading.Lock() for _ in range(threads)]
    left = list(locks)

    def join() -> None:
        _own.lock = left.pop()

    _gates[id(locks)] = locks
    try:
        yield join
    finally:
        _gates.pop(id(locks), None)


def run_task(task: Callable[[], None]) -> None:
    """Call `task`, in a thread that has joined; not while the process forks."""
    with _own.lock:
        task()


def _close() -> None:
    deadline = monotonic() + _LONGEST_S
    for locks in list(_gates.values()):
        for lock in locks:
            if lock.acquire(timeout=max(0.0, deadline - monotonic())):
                _closed.append(lock)


def _open() -> None:
    while _closed:
        _closed.pop().release()


def _open_in_child() -> None:
    _closed.clear()
    _gates.clear()  # of threads that are not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close, after_in_parent=_open, after_in_child=_open_in_child)
