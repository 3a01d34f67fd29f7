"""One label set against the audio of its spec: by clip key, wherever either is stored."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from shards.checks._verify_audio import missing_shards, repeated
from shards.checks._verify_columns import (
    Columns,
    Head,
    Rows,
    bound_elsewhere,
    most_common,
    rows_by_shard,
    rows_of,
    without,
)
from shards.checks._verify_problem import Problem, bounded, first_of


def label_problems(labels: Columns, audio_of: Mapping[str, Columns]) -> Iterator[Problem]:
    """What is wrong with a label set as a whole. `audio_of`: audio folders of its split by name of their spec."""
    yield from missing_shards(labels, ())
    if not labels.heads:
        if not labels.broken:
            detail = "has no shards; label the split into it, or remove the folder"
            yield Problem(labels.path, None, "incomplete", detail)
        return
    yield from _mixed(labels)
    spec = most_common(head.spec for head in labels.heads)
    labels = without(labels, {head.number for head in labels.heads if head.spec != spec})
    audio = audio_of.get(spec.name, Columns(path=labels.path.parent.parent / "audio" / spec.name))
    yield from repeated(labels, "labelled")
    place = rows_of(labels.keys, audio.keys)
    yield from _stale(labels, audio, place)
    yield from _orphans(labels, audio, place)
    yield from _unlabelled(labels, audio, place)


def _mixed(labels: Columns) -> Iterator[Problem]:
    def made(head: Head) -> tuple[object, ...]:
        return head.fingerprint, head.target, head.spec, head.codec

    usual = most_common(map(made, labels.heads))
    for head in labels.heads:
        names = ("provenance", "target", "audio spec", "codec")
        differs = [name for name, one, other in zip(names, made(head), usual, strict=True) if one != other]
        if differs:
            what = f"has another {' and '.join(differs)} than most of its set"
            detail = f"{what}; label the shard again, or into another set"
            yield Problem(head.path, None, "mixed", detail)


def _stale(labels: Columns, audio: Columns, place: Rows) -> Iterator[Problem]:
    """Shard by shard, so that no second copy of all rows is made."""
    detail = "was labelled from other audio than is stored; label the shard again"
    for shard, rows in rows_by_shard(labels, np.flatnonzero(place >= 0)):
        path = labels.heads[shard].path
        differing = bound_elsewhere(labels.bound[rows], audio.bound[place[rows]]).tolist()
        yield from bounded(Problem(path, labels.key(rows[row]), "stale", detail) for row in differing)


def _orphans(labels: Columns, audio: Columns, place: Rows) -> Iterator[Problem]:
    """Labels of clips that are not stored; none while nobody knows which clips a damaged audio shard held."""
    if audio.lost is None:
        return
    rows = np.flatnonzero(place < 0)
    rows = rows[rows_of(labels.keys.take(pa.array(rows)), audio.lost) < 0]
    for shard, orphans in rows_by_shard(labels, rows):
        head = labels.heads[shard]
        if len(orphans) == head.clips:
            labels.broken.add(head.number)
        what = f"{first_of(len(orphans), 'label')} of clips that are not stored in {audio.path}"
        detail = f"{what}; restore the audio, or label the split again"
        yield Problem(head.path, labels.key(orphans[0]), "orphan", detail)


def _unlabelled(labels: Columns, audio: Columns, place: Rows) -> Iterator[Problem]:
    """Stored clips that no label shard has a row for, but those that a damaged label shard may have had."""
    labelled = (rows_of(audio.keys, labels.keys) >= 0) | (rows_of(audio.keys, audio.strange) >= 0)
    if labels.broken and not _aligned(labels, audio, place):
        return
    for shard, rows in rows_by_shard(audio, np.flatnonzero(~labelled)):
        number = audio.heads[shard].number
        if number not in labels.broken:
            what = f"{first_of(len(rows), 'clip')} of {audio.heads[shard].path} and without a label"
            path = labels.path / f"{number:06d}.json"
            yield Problem(path, audio.key(rows[0]), "incomplete", f"{what}; label the split again")


def _aligned(labels: Columns, audio: Columns, place: Rows) -> bool:
    """Whether labels lie in shards of the numbers that their clips have, as the labelling commands write them."""
    numbers_of_labels = np.array([head.number for head in labels.heads], np.int64)
    numbers_of_audio = np.array([head.number for head in audio.heads], np.int64)
    rows = place >= 0
    return bool(np.array_equal(numbers_of_labels[labels.shard[rows]], numbers_of_audio[audio.shard[place[rows]]]))
