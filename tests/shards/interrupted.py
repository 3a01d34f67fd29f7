"""Writing that is disturbed at a chosen point, in processes that are forked for it.

A point is a line of the modules that write: every line they execute for a piece of work is one, in its order. Run from
a process without threads (`alone`), because a forked child has only the thread that forked it.
"""

import contextlib
import errno
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from unittest import mock

import pipeline._atomic
import pipeline._sealed
import shards._tar
import shards._writer

Work = Callable[[], object]
_Result = TypeVar("_Result")
_WRITING = {module.__file__ for module in (pipeline._atomic, pipeline._sealed, shards._tar, shards._writer)}
_OPENED_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DONE, REFUSED, CRASHED = 0, 1, 2


def alone(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """`function(*arguments)` in a fresh process without threads, those of numpy's libraries included."""
    with (
        mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


def in_child(work: Work, before: Work = lambda: None) -> int:
    """Process id of a forked child that does `before` and `work` and ends with DONE, or REFUSED for an OSError or one
    of this project's own errors, or CRASHED."""
    child = os.fork()
    if child:
        return child
    status = CRASHED
    try:
        before()
        work()
        status = DONE
    except (OSError, pipeline.SedDistillError):
        status = REFUSED
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """What the child ended with; minus the signal if one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def points(work: Work) -> int:
    """How many lines `work` has, found by doing it."""
    return _counted(work, _at_every_line)


def file_calls(work: Work) -> int:
    """How many calls of `work` ask the file system for space: files and folders made, renamed, flushed."""
    return _counted(work, _at_every_file_call)


def killed_at(point: int, work: Work) -> int:
    """Do `work` in a child that is killed just before its `point`-th line; what it ended with."""
    return ended(in_child(work, lambda: _at_line(point, lambda: os.kill(os.getpid(), signal.SIGKILL))))


def killed_after(seconds: float, work: Work) -> int:
    child = in_child(work)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return ended(child)


def full_at_call(call: int, work: Work) -> int:
    """Do `work` in a child in which that call, and all after it, find no space left."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return ended(in_child(work, lambda: _at_every_file_call(count)))


def full_at_byte(size: int, work: Work) -> int:
    """Do `work` in a child in which no file can grow beyond `size` bytes: any write can be the one that fails."""
    return ended(in_child(work, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))))


def killed_at_byte(size: int, work: Work) -> int:
    """Do `work` in a child that is killed in the middle of the first write beyond `size` bytes of any file."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return ended(in_child(work, limit))


def without_rights(work: Work) -> int:
    """Do `work` in a child that may write only where everybody may: root drops its rights."""

    def drop() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65_534)
            os.setuid(65_534)

    return ended(in_child(work, drop))


class Stopping:
    """A child that stops before its `point`-th line until `go`; a point beyond its last line stops it nowhere."""

    def __init__(self, point: int, work: Work) -> None:
        self._from_child, to_parent = os.pipe()
        from_parent, self._to_child = os.pipe()

        def stop() -> None:
            os.write(to_parent, b"s")
            os.read(from_parent, 1)

        self._child = in_child(work, lambda: _at_line(point, stop))
        os.close(to_parent)
        os.close(from_parent)

    def stopped_or_ended(self) -> None:
        os.read(self._from_child, 1)

    def go(self) -> int:
        """Let it run to its end; what it ended with."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._to_child, b"g")
        status = ended(self._child)
        os.close(self._from_child)
        os.close(self._to_child)
        return status


def _counted(work: Work, at_every: Callable[[Work], None]) -> int:
    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1

    receiver, sender = os.pipe()

    def tell() -> None:
        work()
        sys.settrace(None)
        os.write(sender, str(passed).encode())

    status = ended(in_child(tell, lambda: at_every(count)))
    os.close(sender)
    with open(receiver) as file:
        told = file.read()
    if status != DONE:
        raise RuntimeError(f"undisturbed work ended with {status}")
    return int(told)


def _at_line(point: int, act: Work) -> None:
    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1
        if passed == point + 1:
            act()

    _at_every_line(count)


def _at_every_line(act: Work) -> None:
    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in _WRITING:
            return None
        if event == "line":
            act()
        return trace

    sys.settrace(trace)


def _at_every_file_call(act: Work) -> None:
    """Audit hooks see what Python asks for and may refuse it; they stay for the life of the process. Not fsync."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.mkdir", "os.rename") or (event == "open" and arguments[2] & _OPENED_TO_WRITE):
            act()

    sys.addaudithook(audit)
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        act()
        flush(descriptor)

    os.fsync = fsync


def tree(root: Path) -> dict[str, bytes]:
    """Everything that is no leftover, by path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(pipeline._atomic.TEMPORARY_PREFIX)
    }


def leftovers(root: Path) -> Iterator[Path]:
    return root.rglob(f"{pipeline._atomic.TEMPORARY_PREFIX}*")
