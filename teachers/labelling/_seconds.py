"""Where the time of a shard goes, step by step."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator


class Seconds:
    """Seconds by step, added up over the threads that work on a shard.

    read, decode, encode: of all threads together. wait: for audio, with nothing for the device to do. copy, device:
    what a GPU says of itself, so that they may overlap each other; idle: what it had nothing to run between two
    batches. write, commit: of the thread that owns the shard.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent: dict[str, float] = defaultdict(float)

    def add(self, step: str, spent_s: float) -> None:
        with self._lock:
            self._spent[step] += spent_s

    @contextlib.contextmanager
    def of(self, step: str) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(step, time.perf_counter() - start_s)

    def total(self) -> dict[str, float]:
        with self._lock:
            return dict(self._spent)
