"""Do the next few pieces of work in threads while the caller uses the last, in order, leaving nothing behind."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Work = TypeVar("Work")
Done = TypeVar("Done")


def prefetched(work: Callable[[Work], Done], pieces: Iterable[Work], workers: int) -> Generator[Done, None, None]:
    """`map(work, pieces)` by `workers` threads, at most `workers + 1` pieces ahead; without workers, plain `map`.

    An exception of a piece is raised where its result would have come. When the iterator ends, fails, is dropped or is
    interrupted, pieces not yet begun are cancelled and the threads have ended.
    """
    if workers == 0:
        yield from map(work, pieces)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="shards-loader")
    ahead: deque[Future[Done]] = deque()
    try:
        for piece in pieces:
            ahead.append(pool.submit(work, piece))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
