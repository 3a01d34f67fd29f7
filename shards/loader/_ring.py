"""A few pieces of work ahead of the caller, all threads at one piece, delivered in order, leaving nothing behind."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from time import perf_counter
from typing import Protocol, TypeVar

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
        pending: deque[tuple[AnyWork, list[Future[None]]]] = deque()
        to_come = ((work, [pool.submit(run_task, task) for task in work.tasks]) for work in works)
        try:
            while True:
                if os.getpid() != process:
                    raise UsageError("an iterator of a loader was forked, its threads were not; make one here")
                pending.extend(islice(to_come, ahead + 1 - len(pending)))
                if not pending:
                    return
                began = perf_counter()
                for future in pending[0][1]:
                    future.result()
                waiting.wait_s += perf_counter() - began
                waiting.ready = sum(all(future.done() for future in rest) for _, rest in islice(pending, 1, None))
                # Not by way of a variable, which would keep it, and its memory, until the next one is asked for.
                yield pending.popleft()[0]
        finally:
            if os.getpid() == process:
                for work, _ in pending:
                    work.drop()
                # Garbage is collected in any thread, and none can wait for its own end.
                own = threading.current_thread().name.startswith(THREAD_NAME)
                pool.shutdown(wait=not own, cancel_futures=True)
