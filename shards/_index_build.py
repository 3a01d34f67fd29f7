"""Make the tables of an index from sidecars: what has not changed is taken over, only the rest is parsed."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import canonical_json
from shards._dataset import sidecar_paths
from shards._index_file import CLIPS_SCHEMA, IndexTables, ShardKind, column, numbers, shards_schema
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._sidecar_parse import is_sidecar_name, parse_audio_sidecar, parse_label_sidecar, read_sidecar_bytes
from shards._store import is_remote, listing

# A file system's clock may tick as slowly as this: a sidecar younger than it could be replaced with no other time.
_TICK_NS = 2_000_000_000
_YOUNG = -1
_UNKNOWN = -2  # is no time that an index holds: read again
# At a time, to a store: each takes a round trip.
_REQUESTS = 16
# The row of a shard, and its clips.
_Made = tuple[dict[str, Any], pa.Table]


class Stamp(NamedTuple):
    """What a look at the folder says of a sidecar; another stamp means that it may have been replaced."""

    bytes: int
    mtime_ns: int


def sidecar_stamps(folder: Path) -> dict[Path, Stamp]:
    """The sidecars of `folder` in order of number; for the time of an object, which changes, stands its version."""
    if is_remote(folder):
        return {
            folder / name: Stamp(found.bytes, _UNKNOWN if found.version is None else _number(found.version))
            for name, found in listing(folder).items()
            if is_sidecar_name(name)
        }
    stamps = {}
    for path in sidecar_paths(folder):
        try:
            found = path.stat()
        except OSError:  # removed since the folder was listed, or no file that could be read: reading it says so
            continue
        stamps[path] = Stamp(found.st_size, found.st_mtime_ns)
    return stamps


def is_current(tables: IndexTables, stamps: Mapping[Path, Stamp]) -> bool:
    """Whether the tables were made of exactly the sidecars that are there."""
    names = ("shard", "sidecar_bytes", "sidecar_mtime_ns")
    made_of = zip(*(numbers(tables.shards, name).tolist() for name in names), strict=True)
    return list(made_of) == [(int(path.stem), *stamp) for path, stamp in stamps.items()]


def build_tables(stamps: Mapping[Path, Stamp], kind: ShardKind, earlier: IndexTables | None) -> IndexTables:
    """Tables of the sidecars that are there, by way of `earlier` where these are the same.

    A sidecar with a new time but the same bytes, as in a copy of a dataset, is hashed and not parsed again. Raises
    FormatError for a sidecar that this version cannot read.
    """
    now_ns = time.time_ns()
    known = {} if earlier is None else _known(earlier)
    rows: list[dict[str, Any]] = []
    clips: list[pa.Table] = []
    for stamp, (row, table) in zip(stamps.values(), _all_made(stamps, kind, known), strict=True):
        young = stamp.mtime_ns == _UNKNOWN or now_ns - stamp.mtime_ns < _TICK_NS
        rows.append({**row, "sidecar_bytes": stamp.bytes, "sidecar_mtime_ns": _YOUNG if young else stamp.mtime_ns})
        clips.append(table)
    shards = pa.Table.from_pylist(rows, schema=shards_schema(kind))
    same_clips = [row["sidecar_sha256"] for row in rows] == [row["sidecar_sha256"] for row, _ in known.values()]
    return IndexTables(shards, earlier.clips if earlier is not None and same_clips else _sorted(clips))


def sidecar_tables(content: bytes, path: Path, kind: ShardKind) -> _Made:
    """What the sidecar `content` at `path` gives: its row without a stamp, and its clips, `by_key` all 0."""
    if kind == "audio":
        audio = parse_audio_sidecar(content, path)
        return _shard_row(audio, content, None, audio.rejected.reason), _clips_table(audio)
    labels = parse_label_sidecar(content, path)
    return _shard_row(labels, content, canonical_json(labels.target.to_json()), labels.failed.reason), _clips_table(
        labels
    )


def _all_made(stamps: Mapping[Path, Stamp], kind: ShardKind, known: Mapping[int, _Made]) -> Iterator[_Made]:
    def make(path: Path) -> _Made:
        return _made_of(path, stamps[path], kind, known.get(int(path.stem)))

    if not any(map(is_remote, stamps)):  # parsing, which threads cannot share, takes the time
        yield from map(make, stamps)
        return
    with ThreadPoolExecutor(_REQUESTS) as threads:
        yield from threads.map(make, stamps)


def _made_of(path: Path, stamp: Stamp, kind: ShardKind, known: _Made | None) -> _Made:
    if known is not None and _stamp(known[0]) == stamp:
        return known
    content = read_sidecar_bytes(path)
    if known is not None and known[0]["sidecar_sha256"] == hashlib.sha256(content).digest():
        return known
    return sidecar_tables(content, path, kind)


def _known(tables: IndexTables) -> dict[int, _Made]:
    """Shard -> what an earlier index holds of it, the clips without a copy."""
    rows = tables.shards.to_pylist()
    ends = np.cumsum([row["clips"] for row in rows]).tolist()
    return {
        row["shard"]: (row, tables.clips.slice(end - row["clips"], row["clips"]))
        for row, end in zip(rows, ends, strict=True)
    }


def _shard_row(
    sidecar: AudioSidecar | LabelSidecar, content: bytes, target: str | None, refused: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "shard": sidecar.shard,
        "clips": len(sidecar.clips),
        "sidecar_sha256": hashlib.sha256(content).digest(),
        "tar_bytes": sidecar.tar_bytes,
        "codec": sidecar.codec,
        "fingerprint": sidecar.fingerprint,
        "spec": canonical_json(sidecar.spec.to_json()),
        "target": target,
        "provenance": canonical_json(sidecar.provenance),
        "refused": canonical_json(Counter(refused)),
    }


def _clips_table(sidecar: AudioSidecar | LabelSidecar) -> pa.Table:
    clips = sidecar.clips
    count = len(clips)
    columns = {
        "key": clips.key,
        "shard": np.full(count, sidecar.shard, np.int32),
        "row": np.arange(count, dtype=np.int32),
        "offset": clips.offset,
        "length": clips.length,
        "crc32c": clips.crc32c,
        "identity": [bytes.fromhex(identity) for identity in clips.identity],
        "samples": clips.samples,
        "acoustic": [bytes.fromhex(acoustic) for acoustic in clips.acoustic],
        "by_key": np.zeros(count, np.int32),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in CLIPS_SCHEMA], schema=CLIPS_SCHEMA)


def _sorted(tables: list[pa.Table]) -> pa.Table:
    """One table of one chunk, `by_key` filled in. ASCII keys sort by bytes as texts do."""
    clips = pa.concat_tables(tables).combine_chunks()
    place = clips.schema.get_field_index("by_key")
    order = pc.sort_indices(column(clips, "key")).cast(pa.int32())
    return clips.set_column(place, clips.schema.field(place), order)


def _number(version: str) -> int:
    """Of 7 bytes: an old time."""
    return int.from_bytes(hashlib.sha256(version.encode()).digest()[:7], "big")


def _stamp(row: Mapping[str, Any]) -> Stamp:
    return Stamp(row["sidecar_bytes"], row["sidecar_mtime_ns"])
