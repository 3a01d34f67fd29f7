"""Which clip goes to which shard: a pure function of the inputs and of the manifest before."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from pipeline import UsageError
from shards import MISSING_BYTES, AudioSidecar, ManifestRow, rows_sha256


class Merged(NamedTuple):
    """The manifest of this run, and what no longer agrees with the inputs but stays as it was packed."""

    rows: tuple[ManifestRow, ...]
    vanished: int  # clips of committed shards that the inputs no longer have
    found_later: int  # clips rejected as missing in committed shards, whose recordings are there now


def merge_manifest(
    wanted: Iterable[ManifestRow],
    earlier: Sequence[ManifestRow],
    committed: Collection[int],
    *,
    clips_per_shard: int,
) -> Merged:
    """Rows sorted by shard, then key. Clips of `earlier` keep their shard; new ones fill new shards in order of key.

    New shards take the lowest numbers that are free: after a lost manifest, those of shards that were lost as well.
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
    used = {*committed, *(row.shard for row in earlier)}
    free = (shard for shard in itertools.count() if shard not in used)
    for number, key in enumerate(sorted(fresh)):
        if number % clips_per_shard == 0:
            shard = next(free)
        rows.append(fresh[key]._replace(shard=shard))
    return Merged(tuple(sorted(rows, key=attrgetter("shard", "key"))), vanished, found_later)


def recover_rows(
    wanted: Iterable[ManifestRow], earlier: Sequence[ManifestRow], committed: Iterable[AudioSidecar]
) -> tuple[tuple[ManifestRow, ...], frozenset[str]]:
    """Of committed shards that `earlier` lacks because the manifest was lost: their rows, as this call's inputs say.

    Shards with clips that this call has not are left to the call that packed them; the second answer is their clips.
    Raises UsageError for a shard of which this call has all clips, but from something else.
    """
    listed = {row.shard for row in earlier}
    unlisted = [sidecar for sidecar in committed if sidecar.shard not in listed]
    fresh = {row.key: row for row in wanted} if unlisted else {}
    rows: list[ManifestRow] = []
    others: set[str] = set()
    for sidecar in unlisted:
        keys = sorted((*sidecar.clips.key, *sidecar.rejected.key))
        if not fresh.keys() >= set(keys):
            others.update(keys)
            continue
        now = [fresh[key]._replace(shard=sidecar.shard) for key in keys]
        # Recordings that were missing may be there now; what was packed is that they were not.
        refused = zip(sidecar.rejected.key, sidecar.rejected.reason, strict=True)
        missing = {key for key, reason in refused if reason == "missing"}
        then = [row._replace(source="", bytes=MISSING_BYTES) if row.key in missing else row for row in now]
        packed = sidecar.provenance.get("manifest_sha256")
        recovered = next((found for found in (then, now) if rows_sha256(found) == packed), None)
        if recovered is None:
            raise UsageError(
                f"{sidecar.path}: no manifest has its clips, and this call would pack them from other recordings or "
                f"lists; restore manifest.parquet, or move this .json and its tar away and give the command again"
            )
        rows += recovered
    return tuple(rows), frozenset(others)


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
