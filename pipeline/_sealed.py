"""Parquet files that hold the sha256 of themselves: no bit of them can change unseen, and one rename commits them.

The digest is that of the file with 64 zeros in its place, which is the value of a key of the footer. Parquet's own
checksums cover pages, neither their headers nor the footer.
"""

import contextlib
import errno
import hashlib
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline._atomic import atomic_path
from pipeline._errors import FormatError

MAX_TABLE_BYTES, MAX_TABLE_ROWS = 2**32, 2**26
"""A table of a split has a row a clip, of about 100 bytes; a bigger one is refused before it is read into memory."""

_KEY = b"sed_distill.sha256"
_UNSEALED = b"0" * 64
# Key and value of a footer's key-value metadata: Thrift writes the length of the value between them.
_PREFIX = _KEY + b"\x18\x40"


def write_sealed(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, row_group_size: int) -> None:
    """Write `tables` of `schema` so that `path` is complete or untouched; each begins a row group of its own."""
    with atomic_path(path) as temporary:
        # Opened here: Arrow takes names in UTF-8 alone.
        with (
            temporary.open("wb") as stream,
            pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for table in tables:
                writer.write_table(table, row_group_size=row_group_size)
            writer.add_key_value_metadata({_KEY.decode(): _UNSEALED.decode()})
        content = temporary.read_bytes()
        place = content.rindex(_PREFIX + _UNSEALED) + len(_PREFIX)
        with temporary.open("rb+") as file:
            file.seek(place)
            file.write(_digest(content, place))


def read_sealed(path: Path, schema: pa.Schema, remedy: str) -> pa.Table:
    """The table at `path`, of `schema`, whose metadata is one key with the version of the format.

    Raises FormatError, ending in `remedy`, if the file is missing, of another version or columns, or not what was
    written in every bit, OSError if a store cannot be reached.
    """
    with open_sealed(path, schema, remedy) as file:
        return file.read().combine_chunks().cast(schema)


@contextlib.contextmanager
def open_sealed(path: Path, schema: pa.Schema, remedy: str) -> Iterator[pq.ParquetFile]:
    """The file of `read_sealed`, verified in every bit, to read parts of. Raises what that does."""
    try:
        size = path.stat().st_size
        if size > MAX_TABLE_BYTES:
            raise FormatError(f"{path}: has {size} bytes, no table has over {MAX_TABLE_BYTES}; {remedy}")
        with open_regular(path) as stream:
            content = stream.read(size + 1)
    except OSError as error:
        if not isinstance(path, Path) and not isinstance(error, FileNotFoundError):  # a store that cannot be reached
            raise
        if without_answer(error):
            raise OSError(f"{path}: cannot be reached ({error.__cause__})") from error
        why = error.strerror or "is not there"  # what libraries of stores raise has no text of its own
        raise FormatError(f"{path}: cannot be read ({why}); {remedy}") from error
    place = content.rfind(_PREFIX) + len(_PREFIX)
    # Before parquet sees a byte: a damaged footer can make its library end the process.
    if place >= len(_PREFIX) and content[place : place + 64] != _digest(content, place):
        raise FormatError(f"{path}: does not match its own sha256, it was damaged or edited; {remedy}")
    try:
        # ParquetFile, not read_table: that one would read `name=value` folders above the file as columns.
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            _check_version(path, file, schema)
            if place < len(_PREFIX):
                raise FormatError(f"{path}: has no sha256 of itself, it was damaged or edited; {remedy}")
            _check_size(path, file.metadata, remedy)
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: column names of a damaged footer
        reason = str(error).splitlines()[0]
        raise FormatError(f"{path}: is damaged or not parquet ({reason}); {remedy}") from error


def without_answer(error: OSError) -> bool:
    """fsspec says of web servers that a file is not there for all that goes wrong; only 404 and 410 mean it.

    What went wrong is the cause of `error` then.
    """
    cause = error.__cause__
    from_web_server = cause is not None and type(cause).__module__.partition(".")[0] == "aiohttp"
    return from_web_server and getattr(cause, "status", None) not in (404, 410)


def open_regular(path: Path) -> BinaryIO:
    """`path` for reading, links followed. Raises OSError for a pipe, which would be waited on, and for a device."""
    if isinstance(path, Path) and not stat.S_ISREG(path.stat().st_mode):  # anything else is an object of a store
        raise OSError(errno.EINVAL, "is a folder, a pipe or a device, needs a file", str(path))
    return path.open("rb")


def _check_version(path: Path, file: pq.ParquetFile, schema: pa.Schema) -> None:
    """Raises FormatError unless an open file says that it has the version and the columns of `schema`."""
    ((key, needed),) = schema.metadata.items()
    version = (file.schema_arrow.metadata or {}).get(key)
    if version != needed:
        name = key.decode().removeprefix("sed_distill.")
        has = f"is no {name} file" if version is None else f"has {name} version {version.decode(errors='replace')[:20]}"
        raise FormatError(
            f"{path}: {has}, this version of sed-distill reads {needed.decode()}; "
            "use the version that wrote it, or pack the split into a new dataset"
        )
    if not file.schema_arrow.equals(schema):
        has = f"has columns {file.schema_arrow.names} or types unlike version {needed.decode()}"
        raise FormatError(f"{path}: {has}; use the version that wrote it, or pack the split into a new dataset")


def _check_size(path: Path, footer: pq.FileMetaData, remedy: str) -> None:
    """A few bytes can unpack to any number of them; the footer says how many."""
    unpacked = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
    if footer.num_rows > MAX_TABLE_ROWS or unpacked > MAX_TABLE_BYTES:
        raise FormatError(f"{path}: has {footer.num_rows} rows of {unpacked} bytes unpacked, no table has; {remedy}")


def _digest(content: bytes, place: int) -> bytes:
    """Sha256 in hex of `content` with zeros for the 64 bytes at `place`."""
    view = memoryview(content)
    state = hashlib.sha256(view[:place])
    state.update(_UNSEALED)
    state.update(view[place + len(_UNSEALED) :])
    return state.hexdigest().encode()
