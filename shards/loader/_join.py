"""One split as the loader sees it: its clips in key order, each with where its audio and labels lie, joined by key.

The order of clips is that of their keys, so neither resharding nor transcoding moves a clip in the mix.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import AudioSpec, FormatError, IntegrityError, TargetSpec, UsageError
from shards._dataset import Dataset
from shards._hard import HardRows, join_hard
from shards._index import ShardIndex, open_index
from shards._index_binding import Binding
from shards._index_file import INDEX_NAME
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._sidecar_parse import parse_audio_sidecar, parse_label_sidecar, read_sidecar_bytes
from shards.loader._source import Coverage

_AnySidecar = TypeVar("_AnySidecar", AudioSidecar, LabelSidecar)


class JoinedSidecars(Generic[_AnySidecar]):
    """The sidecars of an index by number, each parsed when it is first read from."""

    def __init__(self, index: ShardIndex, parse: Callable[[bytes, Path], _AnySidecar]) -> None:
        self._shards = index.shards
        self._parse: Callable[[bytes, Path], _AnySidecar] = parse
        self._parsed: dict[int, _AnySidecar] = {}

    def __getitem__(self, number: int) -> _AnySidecar:
        """Raises IntegrityError if it is not the one that was joined: its rows may be other clips."""
        if number not in self._parsed:
            shard = self._shards[number]
            content = read_sidecar_bytes(shard.path)
            if hashlib.sha256(content).hexdigest() != shard.sidecar_sha256:
                raise IntegrityError(
                    f"{shard.path}: was replaced since the dataset was opened; open the dataset again, and where that "
                    f"does not help delete {INDEX_NAME} beside it, which is of another file of the same size and time"
                )
            self._parsed[number] = self._parse(content, shard.path)
        return self._parsed[number]


@dataclass(frozen=True, kw_only=True)
class LabelRows:
    """Where the labels of one set lie: for each clip the number of its sidecar, -1 without a label, and its row."""

    target: TargetSpec
    sidecars: JoinedSidecars[LabelSidecar]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JoinedSource:
    """The clips of a split in key order, with all that belongs to them. `samples` is int32 [clips]."""

    name: str
    spec: AudioSpec
    keys: tuple[str, ...]
    samples: npt.NDArray[np.int32]
    audio: JoinedSidecars[AudioSidecar]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    labels: Mapping[str, LabelRows]
    hard: HardRows
    coverage: tuple[Coverage, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.keys)


def join(
    dataset: Dataset, split: str, *, name: str, audio: str, labels: Sequence[str], exclude: Collection[str] = ()
) -> JoinedSource:
    """Join audio, label sets and hard labels of one split by clip key.

    Raises UsageError for what is not there, FormatError for shards that contradict each other, and IntegrityError if a
    label was made from other audio than the clip of its key. Where only the acoustic fingerprints can tell, a sample of
    2,000 clips of each label set is compared.
    """
    where = f"{dataset.root}/{split}"
    index = open_index(dataset.audio_folder(split, audio), "audio")
    _check_unique(index, where)
    clips = _chosen(index, exclude)
    if not len(clips):
        raise UsageError(
            f"{where}: has no clip stored as {audio} ({len(index)} before exclusion); pack the split first"
        )
    specs = {shard.spec for shard in index.shards}
    if len(specs) != 1:
        raise FormatError(f"{where}/audio/{audio}: shards have {len(specs)} audio specs; pack the split again")
    keys = index.key.take(pa.array(clips))
    coverage = []
    joined_labels = {}
    for label_set in labels:
        joined_labels[label_set], covered = _join_labels(dataset, split, label_set, keys, index, clips, name)
        coverage.append(covered)
    texts = tuple(keys.to_pylist())
    hard = join_hard(dataset, split, texts)
    return JoinedSource(
        name=name,
        spec=specs.pop(),
        keys=texts,
        samples=index.samples[clips].astype(np.int32),
        audio=JoinedSidecars(index, parse_audio_sidecar),
        shard=index.shard[clips],
        row=index.row[clips],
        labels=joined_labels,
        hard=hard,
        coverage=(*coverage, *_hard_coverage(hard, name, len(clips))),
        fingerprint=_fingerprint(name, texts, index.identity[clips], joined_labels),
    )


def _chosen(index: ShardIndex, exclude: Collection[str]) -> npt.NDArray[np.int32]:
    """Places of the clips that are not excluded, in order of their keys."""
    wanted = np.ones(len(index), dtype=np.bool_)
    excluded = index.rows_of(list(exclude))
    wanted[excluded[excluded >= 0]] = False
    return index.by_key[wanted[index.by_key]]


def _join_labels(
    dataset: Dataset,
    split: str,
    label_set: str,
    keys: pa.LargeStringArray,
    audio: ShardIndex,
    clips: npt.NDArray[np.int32],
    name: str,
) -> tuple[LabelRows, Coverage]:
    where = f"{dataset.root}/{split}/labels/{label_set}"
    if label_set not in dataset.label_sets(split):
        have = ", ".join(dataset.label_sets(split)) or "none"
        raise UsageError(f"{where}: there is no such label set; the split has {have}: label it or ask for these")
    index = open_index(dataset.labels_folder(split, label_set), "labels")
    if not index.shards:
        raise UsageError(f"{where}: has no committed shard; label the split")
    targets = {shard.target for shard in index.shards}
    if len(targets) != 1:
        raise FormatError(f"{where}: its shards state {len(targets)} targets, a label set has one; label it again")
    target = targets.pop()
    if target is None or target.vocabulary is None or set(target.axes) - {"class", "time"}:
        has = "no target" if target is None else f"axes {target.axes} of kind {target.kind}"
        raise UsageError(f"{where}: has {has}; this loader reads class and time")
    _check_unique(index, where)
    place = index.rows_of(keys)
    binding = Binding(labels=index, place=place, audio=audio, clips=clips)
    _check_audio(binding, dataset, split, where)
    known = place >= 0
    labelled = known.copy()
    labelled[known] = index.length[place[known]] > 0
    shard, row = (np.full(len(clips), -1, np.int32) for _ in range(2))
    shard[labelled], row[known] = index.shard[place[labelled]], index.row[place[known]]
    coverage = Coverage(
        source=name,
        target=label_set,
        clips=len(clips),
        labelled=int(labelled.sum()),
        failed=int((known & ~labelled).sum()),
        missing=int((~known).sum()),
    )
    if not coverage.labelled:
        raise UsageError(f"{where}: has no label for any of the {len(clips)} clips of source {name}; label the split")
    rows = LabelRows(
        target=target,
        sidecars=JoinedSidecars(index, parse_label_sidecar),
        shard=shard,
        row=row,
        fingerprints=tuple(sorted({shard.fingerprint for shard in index.shards})),
    )
    return rows, coverage


def _check_audio(binding: Binding, dataset: Dataset, split: str, where: str) -> None:
    """Raise IntegrityError if a label was made from other audio than is stored."""
    differing, undecided = binding.by_identity(dataset, split)
    if len(differing):
        raise IntegrityError(
            f"{where}: the label of {binding.named(differing)} was made from other audio than {split} stores now; "
            "label the split again, or restore the audio the labels were made from"
        )
    refused = binding.by_sound(undecided)
    if refused:
        first = next(iter(refused.values()))
        how = (
            "sounds unlike"
            if first.verdict == "different"
            else (f"is {abs(first.lag_ms)} ms {'later' if first.lag_ms > 0 else 'earlier'} than")
        )
        raise IntegrityError(
            f"{where}: the label of {binding.named(np.array(list(refused)))} was made from audio of another spec that "
            f"{how} what {split} stores; label the split again from the audio that is stored"
        )


def _check_unique(index: ShardIndex, where: str) -> None:
    key = index.repeated_key()
    if key is not None:
        raise FormatError(f"{where}: clip {key} is stored in two shards; verify the dataset and remove one of them")


def _hard_coverage(hard: HardRows, name: str, clips: int) -> list[Coverage]:
    known = {"hard_weak": hard.weak.known, "hard_strong": hard.strong.known}
    return [
        Coverage(source=name, target=target, clips=clips, labelled=int(has.sum()), failed=0, missing=int((~has).sum()))
        for target, has in known.items()
    ]


def _fingerprint(
    name: str, keys: Sequence[str], identities: npt.NDArray[np.uint8], labels: Mapping[str, LabelRows]
) -> str:
    """Changes with the clips, their audio, and how their labels were made; not with shard sizes or codecs."""
    state = hashlib.sha256(f"{name}\n{len(keys)}\n".encode())
    state.update("\n".join(keys).encode())
    state.update(identities.tobytes())
    for label_set, rows in labels.items():
        made = " ".join(rows.fingerprints)
        state.update(f"\n{label_set} {rows.target.classes.sha256} {made}".encode())
    return state.hexdigest()
