"""One source as the loader sees it: its clips in key order, each with where its audio and labels lie, joined by key.

The order of clips is that of their keys, so neither resharding nor transcoding moves a clip in the mix.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import AudioSpec, FormatError, TargetSpec, UsageError, canonical_json, read_hard
from shards._dataset import Dataset
from shards._hard import HardPart, HardRows, hard_rows
from shards._index import IndexedShard, ShardIndex
from shards._index_file import IDENTITY_BYTES
from shards.loader.join._source import Coverage, label_sets
from shards.loader.join._split import SplitPart
from shards.loader.join._subset import Subset
from shards.loader.targets._options import Average


@dataclass(frozen=True, kw_only=True)
class Members:
    """Where the member of every clip lies, in columns of their own memory: no index file stays mapped.

    shards: what they lie in; a label set, or a source of several splits, may mix codecs. shard: int32 [clips], -1 for a
    clip without a member. offset, length: int64, bytes in the tar. crc32c: uint32.
    """

    shards: tuple[IndexedShard, ...]
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    crc32c: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.shard)


@dataclass(frozen=True, kw_only=True)
class LabelRows:
    """One label set of a source: what it is, and where the label of each clip lies."""

    target: TargetSpec
    members: Members
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JoinedSource:
    """The clips of a source in key order, with all that belongs to them. Can be pickled.

    samples: int32 [clips]. labels: every label set that is read. targets: what is to be made of them, as the source
    named it. fingerprint: changes with the clips, their audio, their hard labels, how their other labels were made, and
    which clips have them.
    """

    name: str
    spec: AudioSpec
    keys: pa.LargeStringArray
    samples: npt.NDArray[np.int32]
    audio: Members
    labels: Mapping[str, LabelRows]
    targets: tuple[str | Average, ...]
    hard: HardRows
    coverage: tuple[Coverage, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, clip: int) -> str:
        return str(self.keys[clip].as_py())


def join(
    dataset: Dataset,
    split: str,
    *,
    name: str,
    audio: str,
    labels: Sequence[str | Average] = (),
    including: Sequence[str] = (),
    subset: Subset | None = None,
    indexes: Path | None = None,
) -> JoinedSource:
    """Join audio, label sets and hard labels of one split, or of several as one, by clip key.

    indexes: a local folder to keep the indexes of a dataset on a store in.

    Raises UsageError for what is not there, FormatError for shards that contradict each other, and IntegrityError if a
    label was made from other audio than the clip of its key. Where only the acoustic fingerprints can tell, a sample of
    2,000 clips of each label set is compared.
    """
    subset = subset or Subset()
    parts = [SplitPart(dataset, split, audio, indexes) for split in (split, *including)]
    hard = _choose(dataset, parts, subset, name)
    _give_back_memory()
    clips = sum(len(part.rows) for part in parts)
    specs = {shard.spec for part in parts for shard in part.audio.shards}
    if len(specs) != 1:
        raise FormatError(f"{parts[0].where}/audio/{audio}: has shards of {len(specs)} audio specs; pack it again")
    coverage = []
    joined_labels = {}
    for label_set in label_sets(labels):
        joined_labels[label_set], covered = _join_labels(parts, label_set, clips, name)
        coverage.append(covered)
    keys = pa.concat_arrays(part.keys for part in parts)
    if len(parts) > 1:
        keys = keys.take(pa.array(_in_order(parts)))
    samples, identities = np.empty(clips, np.int32), np.empty((clips, IDENTITY_BYTES), np.uint8)
    for part in parts:
        samples[part.at], identities[part.at] = part.audio.samples[part.rows], part.audio.identity[part.rows]
    joined = JoinedSource(
        name=name,
        spec=specs.pop(),
        keys=keys,
        samples=samples,
        audio=_members([(part.audio, part.rows, part.at) for part in parts], clips),
        labels=joined_labels,
        targets=tuple(labels),
        hard=hard,
        coverage=(*coverage, *_hard_coverage(hard, name, clips)),
        fingerprint=_fingerprint(name, keys, identities, joined_labels, hard),
    )
    _give_back_memory()
    return joined


def _choose(dataset: Dataset, parts: Sequence[SplitPart], subset: Subset, name: str) -> HardRows:
    """Leave the clips of `subset` in the parts and say where each belongs; their hard labels."""
    tables = [read_hard(dataset.hard_path(part.split)) for part in parts]
    subset.check_classes(tables, f"source {name}")
    subset.warn_of_strangers([part.keys for part in parts], f"source {name}")
    for part, table in zip(parts, tables, strict=True):
        part.choose(subset, table)
    _put_in_order(parts, subset.first)
    if not any(len(part.rows) for part in parts):
        stored = " and ".join(f"{len(part.audio)} clips in {part.where}" for part in parts)
        raise UsageError(f"source {name} has no clip left: {stored}, none of them meets {subset}; loosen that")
    by_part = [HardPart(table=table, keys=part.keys) for part, table in zip(parts, tables, strict=True)]
    return hard_rows(dataset, by_part, _in_order(parts))


def _put_in_order(parts: Sequence[SplitPart], first: int | None) -> None:
    """Give every clip its place among those of all parts, by key, and leave the `first` of them.

    Raises UsageError if two parts have a clip.
    """
    if len(parts) == 1:
        parts[0].put(np.arange(len(parts[0].rows))[:first], np.arange(len(parts[0].rows))[:first])
        return
    keys = pa.concat_arrays(part.keys for part in parts)
    order = pc.sort_indices(keys).to_numpy().astype(np.int64)
    ordered = keys.take(pa.array(order))
    again = pc.index(pc.equal(ordered.slice(1), ordered.slice(0, max(0, len(ordered) - 1))), True).as_py()
    if again >= 0:
        splits = " and ".join(part.split for part in parts)
        raise UsageError(
            f"{parts[0].dataset.root}: clip {ordered[again].as_py()} is stored in two of the splits {splits}; exclude "
            "it, or verify the dataset and remove it from one of them"
        )
    order, end = order[:first], 0
    for part in parts:
        begin, end = end, end + len(part.rows)
        at = np.flatnonzero((begin <= order) & (order < end))
        part.put(order[at] - begin, at)


def _in_order(parts: Sequence[SplitPart]) -> npt.NDArray[np.int64]:
    """For every place in the source, its position in the clips of all parts, one part after the other."""
    return np.argsort(np.concatenate([part.at for part in parts]), kind="stable")


_Placed = tuple[ShardIndex, npt.NDArray[np.integer[Any]], npt.NDArray[np.int64]]


def _members(placed: Sequence[_Placed], clips: int) -> Members:
    """The members at some rows of indexes, each with their places; none at a place that is not named."""
    shards: list[IndexedShard] = []
    shard, crc32c = np.full(clips, -1, np.int32), np.zeros(clips, np.uint32)
    offset, length = np.zeros(clips, np.int64), np.zeros(clips, np.int64)
    for index, rows, at in placed:
        shard[at] = index.shard[rows] + len(shards)
        offset[at], length[at], crc32c[at] = index.offset[rows], index.length[rows], index.crc32c[rows]
        shards += index.shards
    return Members(shards=tuple(shards), shard=shard, offset=offset, length=length, crc32c=crc32c)


def _join_labels(parts: Sequence[SplitPart], label_set: str, clips: int, name: str) -> tuple[LabelRows, Coverage]:
    found = [part.labels(label_set) for part in parts]
    target = _one_target(parts, [index for index, _ in found], label_set)
    placed = []
    known = 0
    for part, (index, rows) in zip(parts, found, strict=True):
        at, rows = part.at[rows >= 0], rows[rows >= 0]
        known += len(rows)
        has = index.length[rows] > 0  # a clip that failed has a row of length 0
        placed.append((index, rows[has], at[has]))
    members = _members(placed, clips)
    labelled = sum(len(rows) for _, rows, _ in placed)
    coverage = Coverage(
        source=name, target=label_set, clips=clips, labelled=labelled, failed=known - labelled, missing=clips - known
    )
    if not coverage.labelled:
        where = ", ".join(f"{part.where}/labels/{label_set}" for part in parts)
        raise UsageError(f"{where}: has no label for any of the {clips} clips of source {name}; label the split")
    fingerprints = {shard.fingerprint for index, _ in found for shard in index.shards}
    return LabelRows(target=target, members=members, fingerprints=tuple(sorted(fingerprints))), coverage


def _one_target(parts: Sequence[SplitPart], indexes: Sequence[ShardIndex], label_set: str) -> TargetSpec:
    target: TargetSpec | None = None
    for part, index in zip(parts, indexes, strict=True):
        where = f"{part.where}/labels/{label_set}"
        targets = {shard.target for shard in index.shards}
        if len(targets) != 1:
            raise FormatError(f"{where}: its shards state {len(targets)} targets, a label set has one; label it again")
        own = targets.pop()
        if own is None:
            raise FormatError(f"{where}: its sidecars state no target; label it again")
        if target not in (None, own):
            other = f"{parts[0].where}/labels/{label_set}"
            raise UsageError(
                f"{where}: has labels {_described(own)}, {other} has {_described(target)}; splits of one source need "
                "one target: label one of them again, or make it a source of its own"
            )
        target = own
    if target is None:
        raise UsageError(f"label set {label_set} has no shard")
    return target


def _described(target: TargetSpec | None) -> str:
    if target is None:
        return "nothing"
    classes = "" if target.vocabulary is None else f", vocabulary {target.vocabulary.sha256[:8]}"
    return f"{target.kind} [{', '.join(target.axes)}] = {list(target.shape)}{classes}"


def _hard_coverage(hard: HardRows, name: str, clips: int) -> list[Coverage]:
    known = {"hard_weak": hard.weak.known, "hard_strong": hard.strong.known}
    return [
        Coverage(source=name, target=target, clips=clips, labelled=int(has.sum()), failed=0, missing=int((~has).sum()))
        for target, has in known.items()
    ]


def _fingerprint(
    name: str,
    keys: pa.LargeStringArray,
    identities: npt.NDArray[np.uint8],
    labels: Mapping[str, LabelRows],
    hard: HardRows,
) -> str:
    """Changes with all that JoinedSource.fingerprint says; not with shard sizes or codecs."""
    state = hashlib.sha256(f"{name}\n{len(keys)}\n".encode())
    for part in _text(keys):
        state.update(part)
    state.update(identities.tobytes())
    for label_set, rows in labels.items():
        made = " ".join(rows.fingerprints)
        state.update(f"\n{label_set} {canonical_json(rows.target.to_json())} {made}\n".encode())
        state.update(np.packbits(rows.members.shard >= 0).tobytes())
    for content in hard.content():
        state.update(content)
    return state.hexdigest()


def _text(keys: pa.LargeStringArray) -> Iterator[bytes | memoryview]:
    """The keys and where each ends: keys that are cut elsewhere are other ones."""
    _, ends, text = keys.buffers()
    bounds = np.frombuffer(ends, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    yield (bounds - bounds[0]).tobytes()
    yield memoryview(text)[bounds[0] : bounds[-1]]


def _give_back_memory() -> None:
    """Arrow keeps what tables and lookups of millions of keys took: hundreds of MB, of a process that runs for days."""
    pa.default_memory_pool().release_unused()
