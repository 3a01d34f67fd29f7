"""A few pieces of work ahead of the caller, all threads at one piece, delivered in order, leaving nothing behind."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from pipeline import UsageError
from shards.loader._fork import fork_waits, run_task

THREAD_NAME = "shards-loader"


class Work(Protocol):
    """A piece made of tasks that may run in any order and at the same time; they keep their results themselves."""

    @property
    def tasks(self) -> Sequence[Callable[[], None]]: ...

    def drop(self) -> None:
        """Nobody waits for it any more: tasks that run may end early."""


AnyWork = TypeVar("AnyWork", bound=Work)


class Waiting(Protocol):
    """How long a caller waited in all, and how many pieces were done ahead when it got the last one."""

    wait_s: float
    ready: int


def check_ahead(workers: int, ahead: int) -> None:
    """Raise UsageError for numbers that `in_order` cannot take."""
    if workers < 0 or ahead < 1:
        raise UsageError(f"workers is {workers} (needs 0 or more), prefetch {ahead} (1 or more)")


def in_order(works: Iterable[AnyWork], workers: int, ahead: int, waiting: Waiting) -> Generator[AnyWork, None, None]:
    """The works, each when all its tasks are done, by `workers` threads and at most `ahead` beside the one waited for.

    Without workers, tasks run in the caller's thread when their work is asked for. An exception of a task is raised
    where its work would have come. When the iterator ends, fails, is dropped or is interrupted, tasks not yet begun are
    cancelled and the threads have ended. Raises UsageError in a process that was forked from the iterator's own.
    """
    if workers == 0:
        for work in works:
            began = perf_counter()
            for task in work.tasks:
                task()
            waiting.wait_s += perf_counter() - began
            yield work
        return
    process = os.getpid()
    with fork_waits(workers) as join:
        pool = ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME, initializer=join)
        pending: deque[_Begun[AnyWork]] = deque()
        to_come = (_Begun(work, pool, workers) for work in works)
        try:
            while True:
                if os.getpid() != process:
                    raise UsageError("an iterator of a loader was forked, its threads were not; make one here")
                pending.extend(islice(to_come, ahead + 1 - len(pending)))
                if not pending:
                    return
                began = perf_counter()
                pending[0].wait()
                waiting.wait_s += perf_counter() - began
                waiting.ready = sum(begun.is_done for begun in islice(pending, 1, None))
                # Not by way of a variable, which would keep it, and its memory, until the next one is asked for.
                yield pending.popleft().work
        finally:
            if os.getpid() == process:
                for begun in pending:
                    begun.drop()
                # Garbage is collected in any thread, and none can wait for its own end.
                own = threading.current_thread().name.startswith(THREAD_NAME)
                pool.shutdown(wait=not own, cancel_futures=True)


class _Begun(Generic[AnyWork]):
    """A piece that threads are at. Each takes one task after the other until none is left: a thread that waits is woken
    once for a piece, and not for every task."""

    def __init__(self, work: AnyWork, pool: ThreadPoolExecutor, workers: int) -> None:
        self.work = work
        self._left = iter(tuple(work.tasks))
        self._threads = [pool.submit(_run_all, self._left) for _ in range(min(workers, len(work.tasks)))]

    @property
    def is_done(self) -> bool:
        return all(thread.done() for thread in self._threads)

    def wait(self) -> None:
        """Raises what a task raised."""
        wait(self._threads)
        for thread in self._threads:
            thread.result()

    def drop(self) -> None:
        self.work.drop()
        for _ in self._left:  # now no thread takes another
            pass


def _run_all(tasks: Iterator[Callable[[], None]]) -> None:
    """Run those that no other thread has taken."""
    for task in tasks:
        run_task(task)
