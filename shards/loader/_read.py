"""Members of committed tars by offset, read by many threads; every byte is checked before it is used."""

import errno
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline import IntegrityError
from shards._fetch import read_range
from shards._index import IndexedShard
from shards._reader import NOT_AS_WRITTEN, TAR_ENDS
from shards._store import is_remote
from shards.codecs._kernels import ShortRead, WrongChecksum, read_checked
from shards.loader._cache import ShardCache

_MOST_OPEN = 4_096
_PART = 2  # of the descriptors that the process may have, one of so many is for tars
_SCRATCH_BYTES = 1 << 18
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ELOOP)


class Tars:
    """The tars of a loader, opened when they are first read from, for all threads of a process.

    A tar that is open stays readable as it was, also after it was deleted or another took its place. Errors of the
    machine (no descriptor left, a disk or network that fails) are not the clip's: they pass as OSError.
    """

    def __init__(self, cache: ShardCache | None = None, most_open: int | None = None) -> None:
        """cache: of tars on a store; without one every read there is a request of its own."""
        self._cache = cache
        self._most_open = most_open or _descriptors()
        # Single operations on dict and deque are atomic: no lock that a fork could leave locked.
        self._open: dict[Path, _Open] = {}
        self._opened: deque[Path] = deque()
        self._own = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return Tars, (self._cache, self._most_open)

    def read(self, shard: IndexedShard, offset: int, length: int, crc32c: int, key: str) -> memoryview:
        """The member of clip `key`, valid until this thread reads the next.

        Raises IntegrityError unless it is there with its length and CRC32C.
        """
        tar = self._open.get(shard.path)
        try:
            if tar is None:
                if self._cache is None and is_remote(shard.path):
                    return _read_remote(shard.tar_path, offset, length, crc32c)
                tar = self._open_tar(shard)
            tar.used = True
            return read_checked(tar.descriptor, offset, length, crc32c, self._room(length))
        except ShortRead as error:
            raise IntegrityError(f"{shard.tar_path}: clip {key}: {TAR_ENDS}") from error
        except WrongChecksum as error:
            raise IntegrityError(f"{shard.tar_path}: clip {key}: {NOT_AS_WRITTEN}") from error
        except OSError as error:
            if tar is None:
                raise
            # A read does not know the file's name.
            raise OSError(error.errno, error.strerror, str(shard.tar_path)) from error

    def stop_when(self, stopped: Callable[[], bool]) -> None:
        """A copy that this thread waits for is given up, with FetchStopped, soon after `stopped` says so."""
        self._own.stopped = stopped

    def _room(self, length: int) -> bytearray:
        scratch: bytearray | None = getattr(self._own, "scratch", None)
        if scratch is None or len(scratch) < length:
            scratch = self._own.scratch = bytearray(max(length + length // 2, _SCRATCH_BYTES))
        return scratch

    def _open_tar(self, shard: IndexedShard) -> "_Open":
        if is_remote(shard.path) and self._cache is not None:
            in_use = self._in_use()  # held, so that their descriptors stay theirs
            tar = _Open(self._cache.open_tar(shard, [tar.descriptor for tar in in_use], self._stopped()), copy=True)
            self._close_dropped()
        else:
            tar = _Open(_open_file(shard.tar_path))
        kept = self._open.setdefault(shard.path, tar)
        if kept is tar:  # and no other thread was faster
            self._opened.append(shard.path)
            # In a random order the one opened first is as good to close as the one used least recently.
            if len(self._opened) > self._most_open:
                self._open.pop(self._opened.popleft(), None)
        return kept

    def _stopped(self) -> Callable[[], bool]:
        stopped: Callable[[], bool] = getattr(self._own, "stopped", _never)
        return stopped

    def _in_use(self) -> "list[_Open]":
        """The copies that were read from since the last one was opened."""
        in_use = [tar for tar in list(self._open.values()) if tar.copy and tar.used]
        for tar in in_use:
            tar.used = False
        return in_use

    def _close_dropped(self) -> None:
        """An open descriptor keeps the space of a copy that the cache made room of."""
        for path, tar in list(self._open.items()):
            if tar.copy and not os.fstat(tar.descriptor).st_nlink:
                self._open.pop(path, None)


class _Open:
    """An open file, closed when nothing refers to it any more: never in the middle of another thread's read."""

    __slots__ = ("copy", "descriptor", "used")

    def __init__(self, descriptor: int, *, copy: bool = False) -> None:
        """copy: of a tar on a store, in a cache that drops those not used for long."""
        self.descriptor = descriptor
        self.copy = copy
        self.used = False

    def __del__(self) -> None:
        os.close(self.descriptor)


def _never() -> bool:
    return False


def _open_file(path: Path) -> int:
    try:
        # A pipe in the place of a tar would be waited on for ever without O_NONBLOCK, which files ignore.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); restore it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{path}: cannot be read (is a folder, a pipe or a device); restore it")
    return descriptor


def _read_remote(path: Path, offset: int, length: int, crc32c: int) -> memoryview:
    try:
        content = read_range(path, offset, length)
    except (FileNotFoundError, PermissionError) as error:
        raise IntegrityError(f"{path}: cannot be read ({type(error).__name__}); restore it") from error
    if len(content) != length:
        raise ShortRead
    if google_crc32c.value(content) != crc32c:
        raise WrongChecksum
    return memoryview(content)


def _descriptors() -> int:
    """How many tars may stay open."""
    if sys.platform == "win32":
        return _MOST_OPEN // _PART
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // _PART))
