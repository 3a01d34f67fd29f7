"""Which clips go to which shard of a copy, and whether what a copy has already is what its dataset makes."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from pipeline import UsageError, canonical_json
from shards import AudioSidecar, ManifestRow, rows_sha256

STAGE_VERSION = 1  # raised when the same audio would give other shards


class Span(NamedTuple):
    """Clips `start` to `stop` of one source shard, where the rejected ones come after the stored ones."""

    shard: int
    start: int
    stop: int


Spans = tuple[Span, ...]


class StoredClip(NamedTuple):
    """What of a stored clip is the same in every codec."""

    key: str
    identity: str
    samples: int
    origin: str
    cut_samples: int
    clipped_samples: int
    flags: tuple[str, ...]


class RejectedClip(NamedTuple):
    key: str
    reason: str
    detail: str


def clips_of(sidecar: AudioSidecar) -> tuple[str, ...]:
    """Every clip that a shard accounts for, in the order that spans count."""
    return (*sidecar.clips.key, *sidecar.rejected.key)


def whole(sidecar: AudioSidecar) -> Span:
    return Span(sidecar.shard, 0, len(sidecar.clips) + len(sidecar.rejected))


def stored_in(sidecar: AudioSidecar, span: Span) -> Iterator[tuple[int, StoredClip]]:
    """The stored clips of `span`, each with its row in the shard."""
    clips = sidecar.clips
    for row in range(span.start, min(span.stop, len(clips))):
        yield (
            row,
            StoredClip(
                key=clips.key[row],
                identity=clips.identity[row],
                samples=clips.samples[row],
                origin=clips.origin[row],
                cut_samples=clips.cut_samples[row],
                clipped_samples=clips.clipped_samples[row],
                flags=clips.flags[row],
            ),
        )


def rejected_in(sidecar: AudioSidecar, span: Span) -> Iterator[RejectedClip]:
    refused, stored = sidecar.rejected, len(sidecar.clips)
    for row in range(max(span.start - stored, 0), span.stop - stored):
        yield RejectedClip(refused.key[row], refused.reason[row], refused.detail[row])


def assign(
    keys_of: Mapping[int, Sequence[str]], earlier: Mapping[str, int], *, clips_per_shard: int | None
) -> dict[int, Spans]:
    """Shard of the copy -> what it is made of. keys_of: source shard -> its clips. earlier: clip -> shard in the copy.

    Without `clips_per_shard` every shard is made of the source shard of its number. Otherwise clips keep the shard that
    they have in the copy, and the others fill new shards, which take the lowest free numbers.
    Raises UsageError without `clips_per_shard` for a copy that was made with it.
    """
    if clips_per_shard is None:
        for shard, keys in keys_of.items():
            moved = next((key for key in keys if earlier.get(key, shard) != shard), None)
            if moved is not None:
                raise UsageError(
                    f"clip {moved} lies in shard {earlier[moved]:06d} of the copy, in {shard:06d} of the dataset: "
                    "give --clips-per-shard as when the copy was made, or another --out"
                )
        return {shard: (Span(shard, 0, len(keys)),) for shard, keys in keys_of.items()}
    used = set(earlier.values())
    free = (shard for shard in itertools.count() if shard not in used)
    added = 0
    pieces: dict[int, list[Span]] = {}
    for shard, keys in keys_of.items():
        for position, key in enumerate(keys):
            target = earlier.get(key)
            if target is None:
                if added % clips_per_shard == 0:
                    newest = next(free)
                added += 1
                target = newest
            of_target = pieces.setdefault(target, [])
            if of_target and (of_target[-1].shard, of_target[-1].stop) == (shard, position):
                of_target[-1] = of_target[-1]._replace(stop=position + 1)
            else:
                of_target.append(Span(shard, position, position + 1))
    return {target: tuple(of_target) for target, of_target in sorted(pieces.items())}


def copied_rows(
    spans: Mapping[int, Spans], keys_of: Mapping[int, Sequence[str]], rows: Iterable[ManifestRow]
) -> tuple[ManifestRow, ...]:
    """The manifest of the copy: those of `rows` whose clips it has, in their order, by shard of the copy."""
    shard_of = {
        key: shard
        for shard, of_shard in spans.items()
        for span in of_shard
        for key in keys_of[span.shard][span.start : span.stop]
    }
    copied = (row._replace(shard=shard_of[row.key]) for row in rows if row.key in shard_of)
    return tuple(sorted(copied, key=attrgetter("shard")))


def provenance(codec: str, sources: Iterable[AudioSidecar], rows: Sequence[ManifestRow] | None) -> dict[str, Any]:
    """Everything that decides the shard made of `sources`. rows: its own in the manifest; None if there is none."""
    ways = [
        {name: value for name, value in source.provenance.items() if name != "manifest_sha256"} for source in sources
    ]
    made: dict[str, Any] = {
        "stage": "transcode",
        "stage_version": STAGE_VERSION,
        "codec": codec,
        "source": [way for _, way in sorted({canonical_json(way): way for way in ways}.items())],
    }
    return made if rows is None else {**made, "manifest_sha256": rows_sha256(rows)}


def check_committed(
    copy: AudioSidecar, spans: Spans, sources: Sequence[AudioSidecar], expected: Mapping[str, Any], codec: str
) -> None:
    """Raise UsageError unless shard `copy` is what this call would write of `spans`, each of the shard in `sources`."""
    pairs = list(zip(sources, spans, strict=True))
    stored = [clip for source, span in pairs for _, clip in stored_in(source, span)]
    rejected = [clip for source, span in pairs for clip in rejected_in(source, span)]
    same = {
        "codec": copy.codec == codec,
        "clips": [clip for _, clip in stored_in(copy, whole(copy))] == stored,
        "rejected clips": list(rejected_in(copy, whole(copy))) == rejected,
        "provenance": copy.provenance == expected,
    }
    if not all(same.values()):
        differing = ", ".join(what for what, is_same in same.items() if not is_same)
        raise UsageError(
            f"{copy.path}: is not what this call would write ({differing} differ), because the dataset has changed or "
            "the copy was made otherwise; move this .json and its tar away, or give another --out"
        )
