"""Processes that train students side by side and never outlive the command that started them."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection


@contextlib.contextmanager
def training_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """An executor whose processes end with the block, whatever they do, and with this process, however it ends.

    Left to itself an executor waits for what runs, and its processes stay for good where their owner is killed.
    """
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    with (
        watched,
        ProcessPoolExecutor(count, mp_context=context, initializer=_end_with, initargs=(watched,)) as processes,
        held,
    ):
        yield processes


def _end_with(watched: Connection) -> None:
    """Leave this process when the other end of `watched` is closed, which nobody but the owner holds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the owner decides

    def leave() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
