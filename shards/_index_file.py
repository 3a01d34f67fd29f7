"""`index.arrow`: what all sidecars of a shard folder say, in one file that is mapped instead of parsed. Only a cache.

Two Arrow IPC streams, the table of shards and that of clips, each one uncompressed record batch; then the sha256 of all
bytes before it. Nothing of a file is used before that hash has been compared.
"""

import hashlib
import mmap
import os
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import ACOUSTIC_BYTES, FormatError, atomic_path

INDEX_NAME = "index.arrow"
IDENTITY_BYTES = 16
REMEDY = "delete it, it is made again when it is needed"
ShardKind = Literal["audio", "labels"]

_VERSION_KEY, _VERSION = b"sed_distill.index", b"1"
_DIGEST_BYTES = 32
_BLOCK_BYTES = 1 << 20
# Texts that most shards share are stored once.
_SHARED_TEXT = pa.dictionary(pa.int32(), pa.string())
_SHARD_FIELDS = [
    pa.field("shard", pa.int32(), nullable=False),
    pa.field("clips", pa.int64(), nullable=False),
    pa.field("sidecar_bytes", pa.int64(), nullable=False),
    pa.field("sidecar_mtime_ns", pa.int64(), nullable=False),
    pa.field("sidecar_sha256", pa.binary(_DIGEST_BYTES), nullable=False),
    pa.field("tar_bytes", pa.int64(), nullable=False),
    pa.field("codec", pa.string(), nullable=False),
    pa.field("fingerprint", pa.string(), nullable=False),
    # JSON; `refused` counts rejected clips (labels: failed ones) by reason, `target` is null for audio.
    pa.field("spec", _SHARED_TEXT, nullable=False),
    pa.field("target", _SHARED_TEXT),
    pa.field("provenance", _SHARED_TEXT, nullable=False),
    pa.field("refused", _SHARED_TEXT, nullable=False),
]
CLIPS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.large_string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
        pa.field("identity", pa.binary(IDENTITY_BYTES), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("acoustic", pa.binary(ACOUSTIC_BYTES), nullable=False),
        # Entry i is the position of the clip whose key is the i-th in order.
        pa.field("by_key", pa.int32(), nullable=False),
    ]
)


class IndexTables(NamedTuple):
    """Shards in order of number (`shards_schema`), clips in order of shard and row (CLIPS_SCHEMA)."""

    shards: pa.Table
    clips: pa.Table


def shards_schema(kind: ShardKind) -> pa.Schema:
    return pa.schema(_SHARD_FIELDS, metadata={_VERSION_KEY: _VERSION, b"kind": kind.encode()})


def write_index(path: Path, tables: IndexTables) -> None:
    """Write the tables so that `path` is complete or untouched. Raises OSError if it cannot be written."""
    with atomic_path(path) as temporary:
        # Opened here: Arrow takes names in UTF-8 alone.
        with temporary.open("wb") as file, pa.PythonFile(file, "w") as sink:
            for table in tables:
                with pa.ipc.new_stream(sink, table.schema) as stream:
                    stream.write_table(table.combine_chunks())
        with temporary.open("rb+") as written:
            digest = _sha256(written, temporary.stat().st_size)
            written.write(digest)


def read_index(path: Path, kind: ShardKind) -> IndexTables | None:
    """The tables at `path`, mapped; None if there is no such file or another version of sed-distill wrote it.

    Raises FormatError if the file is not what was written in every bit.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            content = _verified(file)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    if content is None:
        raise FormatError(f"{path}: does not match its own sha256, it was damaged or edited; {REMEDY}")
    try:
        source = pa.BufferReader(content)
        with pa.ipc.open_stream(source) as stream:
            if not stream.schema.equals(shards_schema(kind), check_metadata=True):
                return None
            shards = stream.read_all()
        with pa.ipc.open_stream(source) as stream:
            if not stream.schema.equals(CLIPS_SCHEMA, check_metadata=True):
                return None
            clips = stream.read_all()
        shards.validate(full=True)
        clips.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path}: is no index ({str(error).splitlines()[0]}); {REMEDY}") from error
    if not _consistent(shards, clips):
        raise FormatError(f"{path}: contradicts itself; {REMEDY}")
    return IndexTables(shards, clips)


def column(table: pa.Table, name: str) -> pa.Array:
    """A column of a table of at most one record batch, without a copy."""
    chunked = table.column(name)
    return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)


def numbers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """A column of numbers, without a copy."""
    values: npt.NDArray[np.int64] = column(table, name).to_numpy()
    return values


def _verified(file: BinaryIO) -> pa.Buffer | None:
    """The content without its digest, mapped; None if the digest is that of other bytes."""
    size = os.fstat(file.fileno()).st_size
    body = size - _DIGEST_BYTES
    if body <= 0:
        return None
    mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    # Read, not hashed through the map: whatever a process touches of a map counts as its memory.
    return pa.py_buffer(mapped).slice(0, body) if _sha256(file, body) == mapped[body:] else None


def _sha256(file: BinaryIO, length: int) -> bytes:
    """Digest of the first `length` bytes of a file that is at its start; leaves it behind them."""
    state = hashlib.sha256()
    left = length
    while left and (block := file.read(min(_BLOCK_BYTES, left))):
        state.update(block)
        left -= len(block)
    return state.digest()


def _consistent(shards: pa.Table, clips: pa.Table) -> bool:
    """Whether every shard has its clips, every clip its row, and `by_key` every position once."""
    if any(
        table.column(field.name).null_count for table in (shards, clips) for field in table.schema if not field.nullable
    ):
        return False
    counts = numbers(shards, "clips")
    if (
        any(table.column(0).num_chunks > 1 for table in (shards, clips))
        or (counts < 0).any()
        or counts.sum() != len(clips)
    ):
        return False
    first = np.repeat(np.cumsum(counts) - counts, counts)
    by_key = numbers(clips, "by_key")
    if len(by_key) and not 0 <= by_key.min() <= by_key.max() < len(clips):
        return False
    return (
        bool((np.diff(numbers(shards, "shard")) > 0).all())
        and bool((numbers(clips, "shard") == np.repeat(numbers(shards, "shard"), counts)).all())
        and bool((numbers(clips, "row") == np.arange(len(clips)) - first).all())
        and bool((np.bincount(by_key, minlength=len(clips)) == 1).all())
    )
