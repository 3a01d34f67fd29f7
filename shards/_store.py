"""Local folders and object stores alike, for reading: what lies in a folder, the start of a file, a stream.

Local paths are plain `pathlib.Path`. Anything with a URL scheme is a `UPath` of universal-pathlib over fsspec, which
spells the methods used here as pathlib does; it is typed as a Path and imported only then.
"""

import contextlib
import errno
import importlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from pipeline import FormatError, UsageError
from pipeline._sealed import open_regular, without_answer

_STREAM_BLOCK_BYTES = 8 * 2**20


class Entry(NamedTuple):
    """One name in a folder; `bytes` is 0 for what is not a file, -1 in listings of web servers, which tell no sizes.

    version: changes with the content of an object of a store, None where nothing says so.
    """

    kind: Literal["file", "folder", "link", "special file"]
    bytes: int
    version: str | None = None

    @property
    def needed(self) -> str:
        """What is wrong with an entry that should be a file."""
        return f"is a {self.kind}, needs a file of its own; put the file itself there"


def to_path(root: str | Path) -> Path:
    """A local path, file:// URI or URL of an object store (s3://bucket/prefix) as a path; a path as it is.

    Raises UsageError if the libraries for that kind of store are not installed.
    """
    if not isinstance(root, str):
        return root
    if "://" not in root:
        return Path(root)
    parts = urlsplit(root)
    if parts.password is not None:
        raise UsageError(
            f"{parts.scheme}://{parts.hostname}: holds a password, which messages would show; "
            "keep credentials in the environment or the files of the store's own tools"
        )
    if parts.scheme != "file":
        return _store_path(root, parts.scheme)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{root}: names another machine; give a path or file:///path on this one")
    return Path(unquote(parts.path))


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def listing(folder: Path) -> dict[str, Entry]:
    """What lies in `folder`, by name in order; empty if there is no such folder. Links are not followed."""
    if is_remote(folder):
        with store_errors(folder):
            return dict(sorted(_remote_entries(folder)))
    try:
        with os.scandir(folder) as entries:
            found = {}
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile, as a writer's temporary file is
                    found[entry.name] = _entry(entry.stat(follow_symlinks=False))
            return dict(sorted(found.items()))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def entry_at(path: Path) -> Entry | None:
    """What lies at `path` itself, links not followed; None if nothing does."""
    store: Any = path
    try:
        if not is_remote(path):
            return _entry(path.lstat())
        with store_errors(path):
            # Not is_file: that one takes a look that failed for a file that is not there.
            found = store.fs.info(store.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Entry("folder", 0) if found["type"] == "directory" else Entry("file", int(found["size"] or 0))


def file_bytes(path: Path, listed: Entry) -> int:
    """Bytes of a file that a listing shows, asked for where that does not tell."""
    if listed.bytes >= 0:
        return listed.bytes
    found = entry_at(path)
    return 0 if found is None else found.bytes


def read_start(path: Path, most: int, remedy: str) -> bytes | None:
    """The first `most` bytes of a file; None if there is nothing.

    Raises FormatError, ending in `remedy`, for what cannot be read, OSError if a store cannot be reached.
    """
    try:
        with store_errors(path), open_regular(path) as file:
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if is_remote(path):  # says nothing about the file
            raise
        raise FormatError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def open_stream(path: Path) -> BinaryIO:
    """For reading from begin to end; a store is read ahead in big blocks."""
    if not is_remote(path):
        return path.open("rb")
    store: Any = path
    return cast(BinaryIO, store.open("rb", block_size=_STREAM_BLOCK_BYTES, cache_type="readahead"))


@contextlib.contextmanager
def store_errors(root: Path) -> Iterator[None]:
    """What the libraries of stores raise for a network or credentials that fail, as an OSError with one line."""
    try:
        yield
    except FileNotFoundError as error:
        if error.__cause__ is None or not without_answer(error):
            raise
        with store_errors(root):
            raise error.__cause__ from error
    except _error_kinds(root) as error:
        status = getattr(error, "status", None)  # of a web server's answer
        if status in (401, 403):
            raise PermissionError(f"{root}: the server refuses access (status {status})") from error
        if status == 416:
            raise OSError(errno.EINVAL, "the range lies behind the end") from error
        raise OSError(f"{root}: cannot be reached ({' '.join(str(error).split())})") from error


def _error_kinds(root: Path) -> tuple[type[Exception], ...]:
    """Only what is loaded by the time of an error can have been raised."""
    names = (
        ("botocore.exceptions", "BotoCoreError"),
        ("aiohttp", "ClientError"),
        ("asyncio", "TimeoutError"),
    )
    loaded = [(module, name) for module, name in names if is_remote(root) and module in sys.modules]
    return tuple(getattr(sys.modules[module], name) for module, name in loaded)


def _store_path(url: str, scheme: str) -> Path:
    try:
        path = importlib.import_module("upath").UPath(url)
        path.fs.invalidate_cache()  # what this process listed earlier may have changed
    except ImportError as error:
        own = scheme in ("s3", "http", "https")
        needs = "pip install '.[s3]'" if own else f"pip install universal-pathlib and fsspec's {scheme} store"
        raise UsageError(f"{url}: reading from a store needs libraries that are not here ({error}); {needs}") from error
    except ValueError as error:
        raise UsageError(
            f"{url}: is of no store that fsspec knows ({error}); give a path or s3://bucket/prefix"
        ) from error
    return cast(Path, path)


def _remote_entries(folder: Path) -> Iterator[tuple[str, Entry]]:
    store: Any = folder
    try:
        found = store.fs.ls(store.path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    for info in found:
        name = info["name"].rstrip("/").rpartition("/")[2]
        if info["type"] == "directory":
            yield name, Entry("folder", 0)
        elif info["name"].rstrip("/") != store.path.rstrip("/"):  # a store may list the marker of the folder itself
            size = -1 if info["size"] is None else int(info["size"])
            yield name, Entry("file", size, info.get("ETag") or info.get("etag"))


def _entry(found: os.stat_result) -> Entry:
    if stat.S_ISREG(found.st_mode):
        return Entry("file", found.st_size)
    if stat.S_ISDIR(found.st_mode):
        return Entry("folder", 0)
    return Entry("link" if stat.S_ISLNK(found.st_mode) else "special file", 0)
