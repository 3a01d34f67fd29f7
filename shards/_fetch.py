"""Bytes of an object on a store, however often its network fails on the way."""

import asyncio
import errno
import importlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from shards._store import store_errors

_PAUSES_S = (0.2, 0.8, 3.2)
"""Between the tries of a request, about: each caller's own differ by up to a half."""
_REQUEST_S = 20.0
_SLOWEST_BYTES_S = 2**17
"""A request that takes longer than these two allow has failed."""
_POLL_S = 0.1


class FetchStopped(Exception):
    """Nobody needs the bytes any more."""


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Bytes of an object by one ranged request; fewer, or none, where it ends. Raises what `fetch` does."""
    content = fetch(path, offset, length)
    return content if len(content) <= length else content[offset : offset + length]


def fetch(path: Path, offset: int = 0, length: int | None = None, stopped: Callable[[], bool] = lambda: False) -> bytes:
    """As `read_range`, or the whole object; longer than `length` is everything, from a server that knows no ranges.

    A request that fails, is cut short or is too slow is made again, 4 times in all. Raises FileNotFoundError and
    PermissionError at once, else OSError, and FetchStopped soon after `stopped` says so.
    """
    shortest = None
    for pause_s in (*_PAUSES_S, None):
        if stopped():
            raise FetchStopped
        try:
            content = _requested(path, offset, length, stopped)
            if length is None or not content or len(content) >= length or len(content) == shortest:
                return content  # twice the same length: the object ends here
            shortest = len(content)
            raise OSError(errno.EIO, f"the answer has {shortest} bytes, {length} were asked for")
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if pause_s is None:
                last = str(error).removeprefix(f"{path}: ")
                raise OSError(f"{path}: {len(_PAUSES_S) + 1} requests failed, the last one: {last}") from error
        time.sleep(pause_s * (1 + (os.getpid() + threading.get_ident() // 64 + offset) % 256 / 512))
    raise AssertionError("the last try returns or raises")


def _requested(path: Path, offset: int, length: int | None, stopped: Callable[[], bool]) -> bytes:
    """One request, or as many as the library for that store makes of it. Raises OSError."""
    store: Any = path
    # The path's own file system does not survive a fork; this one is kept by process and thread.
    files = importlib.import_module("fsspec").filesystem(store.protocol, **store.storage_options)
    part = {} if length is None else {"start": offset, "end": offset + length}
    try:
        with store_errors(path):
            if not files.async_impl:
                return bytes(files.cat_file(store.path, **part))
            return _answer(files, store.path, part, _REQUEST_S + (length or 0) / _SLOWEST_BYTES_S, stopped)
    except OSError as error:
        if error.errno == errno.EINVAL:  # how a range that lies behind the end is refused
            return b""
        raise


def _answer(files: Any, path: str, part: dict[str, int], most_s: float, stopped: Callable[[], bool]) -> bytes:
    """What `cat_file` gives, asked for in the thread of the library's event loop and given up where it takes long."""
    answer = asyncio.run_coroutine_threadsafe(files._cat_file(path, **part), files.loop)
    end = time.monotonic() + most_s
    try:
        while not wait([answer], _POLL_S).done:
            if stopped():
                raise FetchStopped
            if time.monotonic() > end:
                raise OSError(errno.ETIMEDOUT, f"no whole answer within {most_s:.0f} s")
        return bytes(answer.result())
    finally:
        answer.cancel()
