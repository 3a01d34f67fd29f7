"""manifest.parquet: the clips wanted, each with its shard. A pure function of the inputs and of the manifest before."""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import FormatError, UsageError, atomic_path, canonical_json

MANIFEST_NAME = "manifest.parquet"
MISSING_BYTES = -1

_VERSION_KEY, _VERSION = b"sed_distill.manifest", b"0"
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("start_ms", pa.int64(), nullable=False),
        pa.field("duration_ms", pa.int64()),
        pa.field("expected_ms", pa.int64()),
    ],
    metadata={_VERSION_KEY: _VERSION},
)


class ManifestRow(NamedTuple):
    """One clip wanted.

    source: relative path of its recording, with `/`, bytes other than A-Za-z0-9_.~- as %XX; empty if there is none.
    bytes: size of the recording when the manifest was made; -1 if missing.
    start_ms, duration_ms: the window of the recording; duration is null for a recording that is one clip.
    expected_ms: a clip clearly shorter than this was cut off; null where nothing says.
    """

    key: str
    shard: int
    source: str
    bytes: int
    start_ms: int = 0
    duration_ms: int | None = None
    expected_ms: int | None = None

    def recording(self, folder: Path) -> Path:
        return folder / os.fsdecode(unquote_to_bytes(self.source))


class Merged(NamedTuple):
    """The manifest of this run, and what no longer agrees with the inputs but stays as it was packed."""

    rows: tuple[ManifestRow, ...]
    vanished: int  # clips of committed shards that the inputs no longer have
    found_later: int  # clips rejected as missing in committed shards, whose recordings are there now


def encode_source(path: bytes) -> str:
    return quote_from_bytes(path, safe="/")


def merge_manifest(
    wanted: Iterable[ManifestRow],
    earlier: Sequence[ManifestRow],
    committed: Collection[int],
    *,
    clips_per_shard: int,
) -> Merged:
    """Rows sorted by shard, then key. Clips of `earlier` keep their shard; new ones fill new shards in order of key.

    Raises UsageError if a clip of a committed shard would now be made from something else.
    """
    fresh = {row.key: row for row in wanted}
    vanished = found_later = 0
    rows: list[ManifestRow] = []
    for old in earlier:
        new = fresh.pop(old.key, None)
        if old.shard not in committed:
            rows.append(old if new is None else new._replace(shard=old.shard))
            continue
        rows.append(old)
        if new is None or (new.bytes == MISSING_BYTES != old.bytes):
            vanished += 1
        elif old.bytes == MISSING_BYTES != new.bytes:
            found_later += 1
        elif _origin(new) != _origin(old):
            raise UsageError(_changed(old, new))
    next_shard = max((row.shard + 1 for row in earlier), default=0)
    for number, key in enumerate(sorted(fresh)):
        rows.append(fresh[key]._replace(shard=next_shard + number // clips_per_shard))
    return Merged(tuple(sorted(rows, key=attrgetter("shard", "key"))), vanished, found_later)


def by_shard(rows: Iterable[ManifestRow]) -> Mapping[int, tuple[ManifestRow, ...]]:
    """Rows sorted by shard -> shard -> its rows."""
    return {shard: tuple(group) for shard, group in groupby(rows, key=attrgetter("shard"))}


def rows_sha256(rows: Sequence[ManifestRow]) -> str:
    """Identity of what a shard is made from: the hash of its manifest rows."""
    return hashlib.sha256(canonical_json([list(row) for row in rows]).encode()).hexdigest()


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    """Equal rows give equal bytes. A row group per shard, so that a worker reads only its own."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        for shard_rows in by_shard(rows).values():
            columns = [list(column) for column in zip(*shard_rows, strict=True)]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))


def read_manifest(path: Path, *, shard: int | None = None) -> tuple[ManifestRow, ...]:
    """All rows, or those of one shard. Raises FormatError if the file is not one this version wrote."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            version = (schema.metadata or {}).get(_VERSION_KEY)
            if version != _VERSION or schema.names != _SCHEMA.names:
                raise FormatError(
                    f"{path}: is not a manifest of version {_VERSION.decode()}; use the version that wrote it, "
                    f"or pack into a new dataset"
                )
            groups = [group for group in range(file.num_row_groups) if shard in (None, _shard_of(file, group))]
            table = file.read_row_groups(groups)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"{path}: cannot be read ({reason}); restore it, or pack into a new dataset") from error
    return tuple(ManifestRow(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True))


def _shard_of(file: pq.ParquetFile, group: int) -> int:
    return int(file.metadata.row_group(group).column(_SCHEMA.names.index("shard")).statistics.min)


def _origin(row: ManifestRow) -> tuple[object, ...]:
    """What decides the clip. A recording that was only moved within the folder is the same."""
    return row.bytes, row.start_ms, row.duration_ms, row.expected_ms


def _changed(old: ManifestRow, new: ManifestRow) -> str:
    remedy = "put the old input back, or pack into another dataset"
    if old.bytes != new.bytes:
        has = f"{new.source} has {new.bytes} bytes, shard {old.shard:06d} was packed from {old.bytes}"
    else:
        fields = [
            name for name in ("start_ms", "duration_ms", "expected_ms") if getattr(old, name) != getattr(new, name)
        ]
        differ = ", ".join(f"{name} {getattr(new, name)} instead of {getattr(old, name)}" for name in fields)
        has = f"clip {old.key} of shard {old.shard:06d} is asked for with {differ}"
    return f"{has}; {remedy}"
