"""From what a user has (a folder, segment and event lists) to the clips wanted and the hard labels they come with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa

from pipeline import (
    AudioSetKeys,
    AudioSpec,
    ClipRejected,
    FolderEntry,
    UsageError,
    check_unique,
    clip_starts,
    decode,
    hard_table,
    path_key,
    probe_duration_ms,
    read_path_csv,
    read_strong_tsv,
    read_weak_csv,
    scan_folder,
)
from shards import MISSING_BYTES, KeyMode, ManifestRow, spell_source

LongMode = Literal["first", "split"]

# How much shorter than its segment a clip may be. AudioSet's segments are rounded to seconds: of the 16,935 published
# eval durations 1,278 are more than 0.1 s below their segment, the furthest 1.09 s.
SEGMENT_TOLERANCE_MS = 1_500


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """rows: the clips wanted, shard 0 in all of them. hard: their hard labels, in the same order (by key).

    extra: recordings of the folder that the lists do not ask for."""

    rows: tuple[ManifestRow, ...]
    hard: pa.Table
    extra: int


def find_wanted(
    folder: Path,
    *,
    keys: KeyMode,
    weak_csv: Path | None,
    strong_tsv: Path | None,
    spec: AudioSpec,
    long: LongMode,
) -> Wanted:
    """Raises UsageError for inputs that do not go together and MetadataError for lists that do not hold together."""
    if keys not in get_args(KeyMode) or long not in get_args(LongMode):
        raise UsageError(f"keys are {keys!r} and long is {long!r}, need audioset or path, first or split")
    if keys == "audioset":
        if long == "split":
            raise UsageError("keys audioset cannot split: a segment is one clip; use keys path, or long first")
        return _by_segment(folder, weak_csv, strong_tsv)
    if strong_tsv is not None:
        raise UsageError(f"{strong_tsv} names clips by YouTube id, keys path cannot match them; use keys audioset")
    return _by_path(folder, weak_csv, spec, long)


def _by_segment(folder: Path, weak_csv: Path | None, strong_tsv: Path | None) -> Wanted:
    weak = None if weak_csv is None else read_weak_csv(weak_csv)
    strong = None if strong_tsv is None else read_strong_tsv(strong_tsv)
    names = AudioSetKeys(*(table for table in (weak, strong) if table is not None))
    entries = scan_folder(folder)
    found = [(key, entry) for entry in entries if (key := names.key(entry.path)) is not None]
    if not found:
        raise UsageError(
            f"none of the {len(entries)} recordings in {folder} belongs to the {len(names)} segments listed; "
            f"give the list of these recordings, or use keys path"
        )
    check_unique((key, entry.path) for key, entry in found)
    entry_of = dict(found)
    expected_ms: dict[str, int | None] = {} if strong is None else dict.fromkeys(strong.column("key").to_pylist())
    if weak is not None:
        columns = (weak.column(name).to_pylist() for name in ("key", "start_ms", "end_ms"))
        expected_ms |= {
            key: max(0, end - start - SEGMENT_TOLERANCE_MS) for key, start, end in zip(*columns, strict=True)
        }
    rows = tuple(_row(key, entry_of.get(key), expected_ms=expected_ms[key]) for key in sorted(expected_ms))
    hard = hard_table((row.key for row in rows), weak=weak, strong=strong)
    return Wanted(rows=rows, hard=hard, extra=len(entries) - len(found))


def _by_path(folder: Path, csv: Path | None, spec: AudioSpec, long: LongMode) -> Wanted:
    """Without a CSV every recording is wanted, with one exactly its rows.

    Its paths count from the folder or, where none of them is found so, from the CSV's own folder.
    """
    entries = {entry.path: entry for entry in scan_folder(folder)}
    mids_of = None if csv is None else _mids_of(csv)
    if csv is not None and mids_of is not None and mids_of.keys().isdisjoint(entries):
        from_csv = {os.path.relpath(csv.absolute().parent / path, folder): mids for path, mids in mids_of.items()}
        mids_of = mids_of if from_csv.keys().isdisjoint(entries) else from_csv
    listed = list(entries) if mids_of is None else list(mids_of)
    present = [path for path in listed if path in entries]
    if not present:
        raise UsageError(
            f"{csv}: none of its {len(listed)} paths is a recording in {folder}, counted from there or from "
            f"the CSV's folder; the first is {listed[0]!r}: give the folder that the paths start at"
        )
    rows: list[ManifestRow] = []
    mids_of_clip: dict[str, tuple[str, ...]] = {}
    for path in listed:
        pieces = _pieces(folder, path, entries.get(path), spec, long)
        rows += pieces
        if mids_of is not None:
            mids_of_clip |= dict.fromkeys((piece.key for piece in pieces), mids_of[path])
    rows.sort(key=lambda row: row.key)
    hard = hard_table((row.key for row in rows), weak=None if mids_of is None else mids_of_clip)
    return Wanted(rows=tuple(rows), hard=hard, extra=len(entries) - len(present))


def _mids_of(csv: Path) -> Mapping[str, tuple[str, ...]]:
    table = read_path_csv(csv)
    columns = (table.column(name).to_pylist() for name in ("path", "weak_mids"))
    return {path: tuple(mids) for path, mids in zip(*columns, strict=True)}


def _pieces(folder: Path, path: str, entry: FolderEntry | None, spec: AudioSpec, long: LongMode) -> list[ManifestRow]:
    """The clips of one recording. Each piece of a long one has its weak labels, whether or not it holds the class."""
    total_ms = _duration_ms(folder / path) if long == "split" and entry is not None else None
    starts = [0] if total_ms is None else clip_starts(total_ms, spec.clip_ms)
    if total_ms is None or len(starts) == 1:
        return [_row(path_key(path), entry)]
    pieces = ((start_ms, min(spec.clip_ms, total_ms - start_ms)) for start_ms in starts)
    return [
        _row(path_key(path, start_ms), entry, start_ms=start_ms, duration_ms=piece_ms, expected_ms=piece_ms)
        for start_ms, piece_ms in pieces
    ]


def _duration_ms(recording: Path) -> int | None:
    """Some formats (MP3 without a Xing header, raw AAC) do not state it: only decoding tells. None if damaged."""
    stated_ms = probe_duration_ms(recording)
    if stated_ms is not None:
        return stated_ms
    try:
        decoded = decode(recording)
    except ClipRejected:
        return None
    return int(decoded.samples.shape[1]) * 1000 // decoded.sample_rate


def _row(
    key: str,
    entry: FolderEntry | None,
    *,
    start_ms: int = 0,
    duration_ms: int | None = None,
    expected_ms: int | None = None,
) -> ManifestRow:
    source, size = ("", MISSING_BYTES) if entry is None else (spell_source(entry.raw), entry.size_bytes)
    return ManifestRow(key, 0, source, size, start_ms, duration_ms, expected_ms)
