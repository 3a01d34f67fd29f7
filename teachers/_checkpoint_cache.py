"""Checkpoints that were fetched, once for all processes of a node, under the sha256 of what they hold.

    <sha256>.pt      whole; never changed
    <url>.json       which of them an address gave (<url>: a hash of the address)
    <url>.part       being fetched; what is in it is gone on from
    <url>.lock       locked by the one who fetches; the lock dies with its process

A file is named by its hash only when it is whole and has that hash, and is hashed again each time it is given out.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from jobs import stop_if_asked
from pipeline import TeacherError, UsageError, canonical_json, write_atomic
from teachers._checkpoints import archive_damage, file_sha256
from teachers._download import download, forget

_VARIABLE = "SED_DISTILL_CACHE"
_POLL_S = 0.1


def cached_checkpoint(url: str, *, sha256: str | None, archive: bool) -> Path:
    """The file that `url` gives, fetched unless this node has it; with `sha256`, only that file.

    Without, an address gives what it gave the first time. archive: refuse what is no PyTorch checkpoint, so that it is
    not kept. Raises TeacherError (a wrong hash among others), UsageError if the cache cannot be written to, and what
    `download` does.
    """
    folder = _folder()
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    suffix = PurePosixPath(urlsplit(url).path).suffix
    entry = _Entry(folder, name, suffix if re.fullmatch(r"\.\w{1,16}", suffix) else "")
    try:
        if (copy := entry.copy(sha256)) is not None:
            return copy
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{name}.lock", url):
            return entry.copy(sha256) or entry.fetch(url, sha256, archive)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOLCK):
            raise UsageError(
                f"{folder}: checkpoints cannot be kept there ({error.strerror}); set {_VARIABLE} to a folder that can "
                "be written to"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                error.errno, f"{folder}: the disk is full; free some space, or set {_VARIABLE} to another folder"
            ) from error
        raise


class _Entry:
    """What the cache has, or will have, of one address."""

    def __init__(self, folder: Path, name: str, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix
        self.record = folder / f"{name}.json"
        self.part = folder / f"{name}.part"

    def copy(self, sha256: str | None) -> Path | None:
        """The whole file, its hash just checked; None if it is not here, or no longer what it was."""
        sha256 = sha256 or self._recorded()
        copy = self.folder / f"{sha256}{self.suffix}"
        return copy if copy.is_file() and file_sha256(copy) == sha256 else None

    def fetch(self, url: str, sha256: str | None, archive: bool) -> Path:
        joined = download(url, self.part, pinned=sha256 is not None)
        found, trouble = self._examined(sha256, archive)
        if trouble is not None and joined:  # perhaps of two files: once more, in one piece
            forget(self.part)
            download(url, self.part, pinned=sha256 is not None)
            found, trouble = self._examined(sha256, archive)
        if trouble is not None:
            forget(self.part)
            raise TeacherError(f"{url}: {trouble}")
        copy = self.folder / f"{found}{self.suffix}"
        print(f"fetched {url}: {self.part.stat().st_size:,} bytes, sha256={found}", file=sys.stderr, flush=True)
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
        if copy.exists():
            print(f"{copy}: was damaged and is fetched anew; check that disk", file=sys.stderr)
        write_atomic(self.record, canonical_json({"url": url, "sha256": found}))
        self.part.replace(copy)
        forget(self.part)
        return copy

    def _examined(self, sha256: str | None, archive: bool) -> tuple[str, str | None]:
        """The hash of what was fetched, and what is wrong with it."""
        found = file_sha256(self.part)
        if sha256 not in (None, found):
            return found, f"has sha256 {found}, {sha256} is asked for; check both, or ask who published it"
        return found, archive_damage(self.part) if archive else None

    def _recorded(self) -> str | None:
        try:
            return str(json.loads(self.record.read_bytes())["sha256"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None


def _folder() -> Path:
    """~/.cache/sed-distill/checkpoints, or the folder `checkpoints` in the one that SED_DISTILL_CACHE names."""
    try:
        return Path(os.environ.get(_VARIABLE) or Path.home() / ".cache" / "sed-distill").absolute() / "checkpoints"
    except RuntimeError as error:
        raise UsageError(f"no home folder to keep checkpoints in; set {_VARIABLE} to a folder") from error


@contextlib.contextmanager
def _locked(path: Path, url: str) -> Iterator[None]:
    with path.open("ab") as lock:
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    print(f"waiting for another process that fetches {url}", file=sys.stderr, flush=True)
                waiting = True
            stop_if_asked()
            time.sleep(_POLL_S)
        yield
