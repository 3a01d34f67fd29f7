"""Remote shards on a local disk: each tar fetched once for all processes that share the folder, the least used dropped.

    <name>.tar      a complete copy; its time of modification is when it was last opened
    <name>.part     one being fetched, as long as it will be; its writer holds a lock on it, which dies with the writer
    lock            held while room is made, and for the rename at the end

A file gets its name `.tar` only when it is complete, and open descriptors outlive their files: whoever has one reads on
while others make room. The locks are flock's, so the folder has to be on a disk of this machine.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline import IntegrityError, UsageError
from shards._fetch import FetchStopped, fetch
from shards._index import IndexedShard
from shards.loader._kinds import check_kind, check_real

_PART_BYTES = 8 * 2**20
_POLL_S = 0.02
_STALLED_S = 600.0
"""How long to wait for another process that makes no progress: longer than all tries of a request take."""
_TRIES = 3

_ours: set[int] = set()
"""Descriptors that may hold a lock."""

_log = logging.getLogger(__name__)


class ShardCache:
    """`MixedLoader(..., cache=ShardCache("/local/cache", max_bytes=200 * 10**9))` for datasets on a store.

    Copies stay for the next run. Any number of threads and processes of one machine may share a folder; each brings its
    own `max_bytes`. Beyond the bound go copies that were dropped while some process has them open.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int) -> None:
        check_kind("folder of a cache", folder, (str, Path), "a folder on a disk of this machine")
        check_real(max_bytes=max_bytes)
        if "://" in str(folder):
            raise UsageError(f"{folder}: is on a store; a cache needs a folder on a disk of this machine")
        if max_bytes < 1:
            raise UsageError(f"max_bytes is {max_bytes}; a cache needs room for at least the largest shard")
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise UsageError(
                f"{self.folder}: the cache cannot be written there ({error.strerror}); give another folder"
            ) from error
        self.indexes = self.folder / "indexes"
        """For the indexes of datasets whose shards are here, about 200 bytes a clip; not counted."""
        self.max_bytes = max_bytes
        self._damaged: dict[str, str] = {}  # name of a copy that cannot be had -> why: asked for again by every clip

    def open_tar(
        self, shard: IndexedShard, in_use: Iterable[int] = (), stopped: Callable[[], bool] = lambda: False
    ) -> int:
        """A descriptor for reading a complete local copy of the tar of `shard`; the caller closes it.

        in_use: descriptors of earlier calls whose copies should be the last to go. Waits for whoever is fetching the
        same tar. Raises IntegrityError if the tar is not there, not as long as its sidecar says, or its sidecar was
        replaced; OSError if the store cannot be reached or the disk is full; UsageError if `max_bytes` is too small;
        FetchStopped soon after `stopped` says so.
        """
        name = _name(shard)
        copy = self.folder / f"{name}.tar"
        found = _opened(copy, shard.tar_bytes)
        if found is not None:
            return found
        if name in self._damaged:
            raise IntegrityError(self._damaged[name])
        if shard.tar_bytes > self.max_bytes:
            raise UsageError(
                f"{shard.tar_path}: has {shard.tar_bytes} bytes, the cache {self.folder} may hold {self.max_bytes}; "
                "give it a larger max_bytes"
            )
        for descriptor in in_use:
            _mark_used(descriptor)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            return self._fetched(shard, copy, stopped)
        except IntegrityError as error:
            self._damaged[name] = str(error)
            raise

    def fetch(self, shard: IndexedShard, stopped: Callable[[], bool] = lambda: False) -> None:
        """Have a copy of the tar of `shard` here for whoever needs it soon. Raises what `open_tar` does."""
        os.close(self.open_tar(shard, stopped=stopped))

    def _fetched(self, shard: IndexedShard, copy: Path, stopped: Callable[[], bool]) -> int:
        path = copy.with_suffix(".part")
        with _locked_part(path, copy, _Watch(stopped)) as part:
            found = _opened(copy, shard.tar_bytes)  # who had the lock may have completed it
            if found is not None:
                path.unlink(missing_ok=True)
                return found
            _log.info("fetching %s, %d bytes", shard.tar_path, shard.tar_bytes)
            try:
                self._reserve(part, shard.tar_bytes, _Watch(stopped))
                _download(shard, part, stopped)
                os.fsync(part)
                opened = os.open(path, os.O_RDONLY)  # before others see it, who might drop it
                with self._lock():  # or it is at neither name for who makes room just now
                    path.rename(copy)
            except BaseException as error:
                path.unlink(missing_ok=True)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise OSError(
                        error.errno,
                        f"{self.folder}: the disk is full before the cache holds its {self.max_bytes} bytes; free some "
                        f"space or give it a smaller max_bytes, at least {shard.tar_bytes}",
                    ) from error
                raise
        return opened

    def _reserve(self, part: int, needed: int, watch: "_Watch") -> None:
        """Make `part` `needed` bytes long, within the bound: what was opened longest ago goes, unfinished ones stay."""
        while True:
            with self._lock():
                os.ftruncate(part, 0)
                copies, fetching = self._survey()
                unfinished = sum(size for size, _ in fetching)
                used = sum(size for _, size, _ in copies) + unfinished
                if needed + unfinished <= self.max_bytes:
                    for _, size, path in sorted(copies):
                        if used + needed <= self.max_bytes:
                            break
                        path.unlink(missing_ok=True)
                        used -= size
                    os.ftruncate(part, needed)
                    return
            watch.wait(fetching, f"{self.folder}: what others are fetching leaves no room for {needed} bytes")

    def _survey(self) -> tuple[list[tuple[int, int, Path]], list[tuple[int, int]]]:
        """Copies as (time, bytes, path), and (bytes, time) of those being fetched. Removes what the dead left."""
        copies, fetching = [], []
        for entry in os.scandir(self.folder):
            path = Path(entry.path)
            if path.suffix == ".tar":
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    copies.append((found.st_mtime_ns, found.st_size, path))
            elif path.suffix == ".part":
                with contextlib.suppress(FileNotFoundError), _descriptor(path, os.O_RDWR) as part:
                    if _try_lock(part):
                        if _is_at(part, path):
                            path.unlink()
                    else:
                        found = os.fstat(part)
                        fetching.append((found.st_size, found.st_mtime_ns))
        return copies, fetching

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with _descriptor(self.folder / "lock", os.O_RDWR | os.O_CREAT) as lock:
            watch = _Watch(lambda: False)  # nobody holds it for long
            while not _try_lock(lock):
                watch.wait(None, f"{self.folder / 'lock'}: is held by a process that does not go on")
            yield


class _Watch:
    """Waits for what another process does, not for one that has stopped."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._seen: object = None
        self._since = time.monotonic()

    def wait(self, progress: object, trouble: str) -> None:
        """Sleep a little. Raises OSError, saying `trouble`, if `progress` has been the same for minutes."""
        if self._stopped():
            raise FetchStopped
        now = time.monotonic()
        if progress != self._seen:
            self._seen, self._since = progress, now
        if now - self._since > _STALLED_S:
            raise OSError(errno.ETIMEDOUT, f"{trouble}; end it, or give this run a cache folder of its own")
        time.sleep(_POLL_S)


def _name(shard: IndexedShard) -> str:
    """Of the copy: a shard that was replaced is another file."""
    return hashlib.sha256(f"{shard.tar_path} {shard.tar_bytes} {shard.sidecar_sha256}".encode()).hexdigest()[:32]


def _opened(copy: Path, tar_bytes: int) -> int | None:
    """`copy` for reading, marked as just used; None if it is not there, or not whole."""
    try:
        descriptor = os.open(copy, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if os.fstat(descriptor).st_size == tar_bytes:
        _mark_used(descriptor)
        return descriptor
    os.close(descriptor)
    copy.unlink(missing_ok=True)
    return None


def _mark_used(descriptor: int) -> None:
    with contextlib.suppress(PermissionError):  # another user's: it only goes earlier
        os.utime(descriptor)


@contextlib.contextmanager
def _locked_part(path: Path, copy: Path, watch: _Watch) -> Iterator[int]:
    """The file to fetch into, ours alone until the end of the block, or until we are killed."""
    while True:
        with _descriptor(path, os.O_RDWR | os.O_CREAT) as part:
            if _try_lock(part):
                if _is_at(part, path):
                    yield part
                    return
                continue  # removed or completed between opening and locking
            progress = os.fstat(part).st_mtime_ns
        watch.wait(progress, f"{path}: another process is fetching {copy.name} and does not go on")


def _download(shard: IndexedShard, part: int, stopped: Callable[[], bool]) -> None:
    """Write the tar of `shard` into `part`. Whole means as long as the sidecar says, and of its sha256."""
    tar, needed = shard.tar_path, _tar_sha256(shard, stopped)
    before = None
    for _ in range(_TRIES):
        digest = _download_once(shard, part, stopped)
        if digest == needed:
            return
        if digest == before:
            # Twice the same: this is what the store has. The checksums of the clips tell which of them are whole.
            _log.warning("%s: is not what its sidecar says; run verify on the dataset", tar)
            return
        before = digest
    raise OSError(errno.EIO, f"{tar}: arrives differently each time it is fetched; check the network or a proxy")


def _download_once(shard: IndexedShard, part: int, stopped: Callable[[], bool]) -> str:
    """Sha256 of what was written."""
    tar, end = shard.tar_path, shard.tar_bytes
    state = hashlib.sha256()
    offset = 0
    while offset < end:
        length = min(_PART_BYTES, end - offset)
        try:
            content = memoryview(fetch(tar, offset, length, stopped))
        except FileNotFoundError as error:
            raise IntegrityError(f"{tar}: is not there; restore it") from error
        if len(content) > length:  # a server that knows no ranges sends everything
            content = content[offset : min(len(content), end)]
        if len(content) < length:
            raise IntegrityError(
                f"{tar}: has {offset + len(content)} bytes, its sidecar states {end}; restore it, or delete "
                f"{shard.path.name} and write the shard again"
            )
        state.update(content)
        _write(part, content, offset)
        offset += len(content)
    return state.hexdigest()


def _write(part: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(part, content, offset)
        content, offset = content[written:], offset + written


def _tar_sha256(shard: IndexedShard, stopped: Callable[[], bool]) -> str:
    """What the sidecar states, which is the very one that was indexed."""
    for _ in range(_TRIES):
        try:
            content = fetch(shard.path, stopped=stopped)
        except FileNotFoundError as error:
            raise IntegrityError(f"{shard.path}: is not there; restore it") from error
        if hashlib.sha256(content).hexdigest() == shard.sidecar_sha256:
            return str(json.loads(content)["tar"]["sha256"])
    raise IntegrityError(f"{shard.path}: was replaced since the dataset was opened; open the dataset again")


@contextlib.contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    _ours.add(descriptor)
    try:
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # or it would outlive a fork between the next two lines
        _ours.discard(descriptor)
        os.close(descriptor)


def _close_inherited() -> None:
    """A forked process would keep the locks of its parent, also when that is killed."""
    for descriptor in _ours:
        os.close(descriptor)
    _ours.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
