"""Which clip goes to which shard: a pure function of the inputs and of the manifest before."""

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from pipeline import UsageError
from shards import MISSING_BYTES, ManifestRow


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
