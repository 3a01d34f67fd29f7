"""manifest.parquet: the clips wanted in one audio set, each with its shard. What is committed has to add up to it."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pyarrow as pa

from pipeline import FormatError, canonical_json, one_chunk
from pipeline._sealed import open_sealed, read_sealed, write_sealed

MANIFEST_NAME = "manifest.parquet"
MISSING_BYTES = -1

_VERSION_KEY, _VERSION = b"sed_distill.manifest", b"1"
_REMEDY = "sed-distill repair says which command writes it again"
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
        """Where it lies, `folder` being the one that was packed."""
        return folder / os.fsdecode(unquote_to_bytes(self.source))


def spell_source(path: bytes) -> str:
    """The relative path of a recording as `ManifestRow.source` holds it; `ManifestRow.recording` reads it."""
    return quote_from_bytes(path, safe="/")


def by_shard(rows: Iterable[ManifestRow]) -> Mapping[int, tuple[ManifestRow, ...]]:
    """Shard -> its rows, both in the order given."""
    groups: dict[int, list[ManifestRow]] = {}
    for row in rows:
        groups.setdefault(row.shard, []).append(row)
    return {shard: tuple(group) for shard, group in groups.items()}


def rows_sha256(rows: Sequence[ManifestRow]) -> str:
    """Identity of what a shard is made from: the hash of its manifest rows."""
    return hashlib.sha256(canonical_json([list(row) for row in rows]).encode()).hexdigest()


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    """Equal rows give equal bytes. A row group per shard, so that a worker reads only its own."""
    write_sealed(path, _SCHEMA, map(_table, by_shard(rows).values()), row_group_size=max(len(rows), 1))


def read_manifest(path: Path, *, shard: int | None = None) -> tuple[ManifestRow, ...]:
    """All rows, or those of one shard alone; every bit of the file is verified.

    Raises FormatError if the file is not one this version wrote.
    """
    table = read_sealed(path, _SCHEMA, _REMEDY) if shard is None else _read_shard(path, shard)
    required = [field.name for field in _SCHEMA if not field.nullable]
    if any(table[name].null_count for name in required):
        raise FormatError(f"{path}: has nulls that no manifest has; {_REMEDY}")
    rows = tuple(ManifestRow(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
    if len({row.key for row in rows}) != len(rows):
        raise FormatError(f"{path}: names a clip twice, needs one row for each; {_REMEDY}")
    return rows


def manifest_keys(path: Path) -> pa.Array:
    """The keys of all rows, without a Python object for each. Raises FormatError as `read_manifest` does."""
    return one_chunk(read_sealed(path, _SCHEMA, _REMEDY).column("key"))


def _table(rows: Sequence[ManifestRow]) -> pa.Table:
    columns = [list(column) for column in zip(*rows, strict=True)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _read_shard(path: Path, shard: int) -> pa.Table:
    with open_sealed(path, _SCHEMA, _REMEDY) as file:
        numbers = file.read(["shard"]).column(0)
        # A row group holds one shard. Its statistics would say which, but pyarrow ends the process over odd ones.
        ends = list(itertools.accumulate(file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)))
        groups = [group for group, end in enumerate(ends) if numbers[end - 1].as_py() == shard]
        return file.read_row_groups(groups).cast(_SCHEMA)
