"""Stopping at a safe point: signals only ask, and stages look between two clips whether one did.

A handler that raises does so amid whatever runs. Within a callback of a C library (libsndfile writing a clip into
memory) the exception is lost and the clip is wrong, which no checksum taken afterwards can tell.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_asked: list[str] = []


class Interrupted(BaseException):
    """A signal asked to stop and a stage came to a safe point: writers clean up, nothing of the shard is committed."""


def stop_if_asked() -> None:
    """Raise Interrupted if a signal asked to stop. To be called between two clips or batches."""
    if _asked:
        raise Interrupted(_asked[0])


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """In this block SIGINT and SIGTERM only ask to stop; a second one is taken as Ctrl-C at once.

    Yields a function that names the signal, if there was one. Only the main thread can take signals; in another one
    this does nothing. A signal that is ignored (a shell does that for what runs in the background) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _asked:
            raise KeyboardInterrupt
        _asked.append(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in taken:
            signal.signal(number, handle)
        yield lambda: _asked[0] if _asked else None
    finally:
        for number in taken:
            signal.signal(number, before[number])
        _asked.clear()
