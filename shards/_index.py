"""The index of a shard folder: every clip of its sidecars in columns, found by key. Opening it looks at every sidecar's
size and time, so an index is never older than the folder; what changed is parsed again, the rest is not.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import AudioSpec, FormatError, SedDistillError, TargetSpec
from pipeline._json import integer
from shards._dataset import Dataset
from shards._index_build import build_tables, is_current, sidecar_stamps, sidecar_tables
from shards._index_file import (
    CLIPS_SCHEMA,
    INDEX_NAME,
    REMEDY,
    IndexTables,
    ShardKind,
    column,
    numbers,
    read_index,
    shards_schema,
    write_index,
)
from shards._sidecar_parse import read_sidecar_bytes
from shards._store import is_remote

# A search by halves costs this many times as much a key as a lookup in a hash table of all keys, once that is made.
_FEW = 64


@dataclass(frozen=True, kw_only=True)
class IndexedShard:
    """What an index knows of a shard. `refused`: reason -> rejected clips of audio, failed ones of labels.

    clips: where its clips are in the columns of the index. target: None for audio.
    """

    path: Path
    shard: int
    spec: AudioSpec
    target: TargetSpec | None
    codec: str
    tar_bytes: int
    sidecar_sha256: str
    provenance: Mapping[str, Any]
    fingerprint: str
    refused: Mapping[str, int]
    clips: range

    @property
    def tar_path(self) -> Path:
        return self.path.with_suffix(".tar")


class ShardIndex:
    """The clips of a shard folder in order of shard and row, one entry a clip in every column.

    Columns may be views of a mapped file: copy what is kept for days where the file lies on a network.
    """

    def __init__(self, folder: Path, kind: ShardKind, tables: IndexTables, *, stored: bool) -> None:
        self.folder = folder
        self.kind = kind
        self.stored = stored
        """Whether the folder has a file with this index; False where it cannot be written."""
        self._clips = tables.clips
        self.shards = _shards(folder, tables.shards)

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def key(self) -> pa.LargeStringArray:
        return column(self._clips, "key")

    @cached_property
    def shard(self) -> npt.NDArray[np.int32]:
        """For each clip the place of its shard in `shards`."""
        return np.repeat(np.arange(len(self.shards), dtype=np.int32), [len(shard.clips) for shard in self.shards])

    @property
    def row(self) -> npt.NDArray[np.int32]:
        return numbers(self._clips, "row").astype(np.int32, copy=False)

    @property
    def offset(self) -> npt.NDArray[np.int64]:
        """Bytes before the member's content in the tar."""
        return numbers(self._clips, "offset")

    @property
    def length(self) -> npt.NDArray[np.int64]:
        """Bytes of the member's content; 0 for a clip without a label."""
        return numbers(self._clips, "length")

    @property
    def crc32c(self) -> npt.NDArray[np.int64]:
        return numbers(self._clips, "crc32c")

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """Per channel."""
        return numbers(self._clips, "samples")

    @property
    def identity(self) -> npt.NDArray[np.uint8]:
        """Uint8 [clips, 16]: the start of the sha256 of the PCM."""
        return _raw(self._clips, "identity")

    @property
    def acoustic(self) -> npt.NDArray[np.uint8]:
        """Uint8 [clips, ACOUSTIC_BYTES]: acoustic fingerprints."""
        return _raw(self._clips, "acoustic")

    @property
    def by_key(self) -> npt.NDArray[np.int32]:
        """Positions of the clips in order of their keys."""
        return numbers(self._clips, "by_key").astype(np.int32, copy=False)

    def rows_of(self, keys: Sequence[str] | pa.Array) -> npt.NDArray[np.int64]:
        """Position of the clip of every key, -1 for keys that are not here."""
        asked = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.large_string())
        if len(asked) * _FEW < len(self):
            return np.array([self._row_of(key) for key in asked.to_pylist()], dtype=np.int64)
        found = pc.index_in(asked.cast(pa.large_string()), value_set=self.key)
        rows: npt.NDArray[np.int64] = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        del found
        pa.default_memory_pool().release_unused()  # the table of all keys was 100 MB for a million
        return rows

    def repeated_key(self) -> str | None:
        """The first key that two shards store, which no folder may have; None if there is none."""
        keys = self.key.take(pa.array(self.by_key))
        again = pc.index(pc.equal(keys.slice(1), keys.slice(0, max(0, len(keys) - 1))), True).as_py()
        return None if again < 0 else str(keys[again])

    def _row_of(self, key: str) -> int:
        keys, by_key = self.key, self.by_key
        place = bisect_left(range(len(self)), key, key=lambda number: keys[by_key[number]].as_py())
        row = int(by_key[place]) if place < len(self) else -1
        return row if row >= 0 and keys[row].as_py() == key else -1


def open_index(folder: Path, kind: ShardKind, keep_in: Path | None = None) -> ShardIndex:
    """The index of `folder` as its sidecars are now: its file if that is current, else made and, if possible, stored.

    keep_in: a local folder for the files of folders on a store, which hold none. A folder that is empty or missing has
    an index without clips. Raises FormatError for a sidecar that this version cannot read.
    """
    stamps = sidecar_stamps(folder)
    if not stamps:
        empty = IndexTables(shards_schema(kind).empty_table(), CLIPS_SCHEMA.empty_table())
        return ShardIndex(folder, kind, empty, stored=True)
    path = folder / INDEX_NAME
    if is_remote(folder):
        if keep_in is None:
            return ShardIndex(folder, kind, build_tables(stamps, kind, None), stored=False)
        path = keep_in / f"{hashlib.sha256(f'{kind} {folder}'.encode()).hexdigest()[:32]}.arrow"
    earlier = None
    try:
        earlier = read_index(path, kind)
        # Made before its rows are used in any way: a forged file can hold what is no spec, no target, no JSON.
        known = None if earlier is None else ShardIndex(folder, kind, earlier, stored=True)
        if known is not None and earlier is not None and is_current(earlier, stamps):
            return known
    except (SedDistillError, ValueError, RecursionError):  # a damaged cache is a missing one; index_problem reports it
        earlier = None
    tables = build_tables(stamps, kind, earlier)
    stored = True
    if earlier is None or not tables.shards.equals(earlier.shards):
        try:
            write_index(path, tables)
        except OSError:  # read-only or full: then it serves this process alone
            stored = False
    return ShardIndex(folder, kind, tables, stored=stored)


def dataset_folders(dataset: Dataset) -> Iterator[tuple[Path, ShardKind]]:
    """Every shard folder of a dataset that exists, for which an index can be opened."""
    for split in dataset.splits():
        for spec in dataset.audio_specs(split):
            yield dataset.audio_folder(split, spec), "audio"
        for label_set in dataset.label_sets(split):
            yield dataset.labels_folder(split, label_set), "labels"


def index_problem(folder: Path, kind: ShardKind) -> str | None:
    """What is wrong with the index file of `folder`: damaged, or not what the sidecars it was made from say.

    One that is missing, of another version, or older than sidecars is no problem: `open_index` makes it again. Reads
    every sidecar of a current one.
    """
    if is_remote(folder):
        return None
    path = folder / INDEX_NAME
    stamps = sidecar_stamps(folder)
    try:
        tables = read_index(path, kind)
    except FormatError as error:
        return str(error)
    if tables is None or not is_current(tables, stamps):
        return None
    end = 0
    for stated, sidecar in zip(tables.shards.to_pylist(), stamps, strict=True):
        clips = tables.clips.slice(end, stated["clips"])
        end += stated["clips"]
        try:
            content = read_sidecar_bytes(sidecar)
            row, given = sidecar_tables(content, sidecar, kind)
        except FormatError:  # a fault of the sidecar, which says so itself
            continue
        if hashlib.sha256(content).digest() != stated["sidecar_sha256"]:
            return f"{path}: was made from another {sidecar.name}, of the same size and time; {REMEDY}"
        differs = any(stated[name] != value for name, value in row.items())
        if differs or not clips.drop_columns("by_key").equals(given.drop_columns("by_key")):
            return f"{path}: is not what {sidecar.name} says; {REMEDY}"
    keys = column(tables.clips, "key").take(column(tables.clips, "by_key"))
    if not pc.all(pc.less_equal(keys.slice(0, max(0, len(keys) - 1)), keys.slice(1))).as_py():
        return f"{path}: its keys are not in order; {REMEDY}"
    return None


def _raw(clips: pa.Table, name: str) -> npt.NDArray[np.uint8]:
    values = column(clips, name)
    width = values.type.byte_width
    if not len(values):
        return np.zeros((0, width), np.uint8)
    flat = np.frombuffer(values.buffers()[1], np.uint8, count=len(values) * width, offset=values.offset * width)
    return flat.reshape(len(values), width)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"an index holds {type(value).__name__}, needs an object; {REMEDY}")
    return value


def _counts(value: object) -> dict[str, int]:
    return {reason: integer(count, "an index") for reason, count in _object(value).items()}


def _shards(folder: Path, table: pa.Table) -> tuple[IndexedShard, ...]:
    where = str(folder / INDEX_NAME)
    parsed: dict[str, Any] = {}

    def once(text: str, parse: Any) -> Any:
        """Most shards have the same texts; a vocabulary is not built for each of them."""
        if text not in parsed:
            parsed[text] = parse(json.loads(text))
        return parsed[text]

    shards = []
    first = 0
    for row in table.to_pylist():
        target = row["target"]
        shards.append(
            IndexedShard(
                path=folder / f"{row['shard']:06d}.json",
                shard=row["shard"],
                spec=once(row["spec"], lambda value: AudioSpec.from_json(value, where)),
                target=None if target is None else once(target, lambda value: TargetSpec.from_json(value, where)),
                codec=row["codec"],
                tar_bytes=row["tar_bytes"],
                sidecar_sha256=row["sidecar_sha256"].hex(),
                provenance=once(row["provenance"], _object),
                fingerprint=row["fingerprint"],
                refused=once(row["refused"], _counts),
                clips=range(first, first + row["clips"]),
            )
        )
        first += row["clips"]
    return tuple(shards)
