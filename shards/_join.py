"""One split as the loader sees it: its clips in key order, each with where its audio and labels lie, joined by key.

The order of clips is that of their keys, so neither resharding nor transcoding moves a clip in the mix.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, FormatError, IntegrityError, TargetSpec, UsageError
from shards._dataset import Dataset
from shards._hard import HardRows, join_hard
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._source import Coverage


@dataclass(frozen=True, kw_only=True)
class LabelRows:
    """Where the labels of one set lie: for each clip the number of its sidecar, -1 without a label, and its row."""

    target: TargetSpec
    sidecars: tuple[LabelSidecar, ...]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class JoinedSource:
    """The clips of a split in key order, with all that belongs to them. `samples` is int32 [clips]."""

    name: str
    spec: AudioSpec
    keys: tuple[str, ...]
    samples: npt.NDArray[np.int32]
    audio: tuple[AudioSidecar, ...]
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
    label was made from other audio than the clip of its key.
    """
    sidecars = dataset.audio_shards(split, audio)
    where = f"{dataset.root}/{split}"
    places = _unique(
        ((key, (number, row)) for number, side in enumerate(sidecars) for row, key in enumerate(side.clips.key)), where
    )
    keys = tuple(sorted(key for key in places if key not in exclude))
    if not keys:
        raise UsageError(
            f"{where}: has no clip stored as {audio} ({len(places)} before exclusion); pack the split first"
        )
    shard, row = _columns(keys, places)
    specs = {side.spec for side in sidecars}
    if len(specs) != 1:
        raise FormatError(f"{where}/audio/{audio}: shards have {len(specs)} audio specs; pack the split again")
    clips = [sidecars[s].clips for s in shard]
    identities = [clip.identity[r] for clip, r in zip(clips, row, strict=True)]
    coverage = []
    joined_labels = {}
    for label_set in labels:
        joined_labels[label_set], covered = _join_labels(dataset, split, label_set, keys, identities, name)
        coverage.append(covered)
    hard = join_hard(dataset, split, keys)
    return JoinedSource(
        name=name,
        spec=specs.pop(),
        keys=keys,
        samples=np.array([clip.samples[r] for clip, r in zip(clips, row, strict=True)], dtype=np.int32),
        audio=sidecars,
        shard=shard,
        row=row,
        labels=joined_labels,
        hard=hard,
        coverage=(*coverage, *_hard_coverage(hard, name, len(keys))),
        fingerprint=_fingerprint(name, keys, identities, joined_labels),
    )


def _join_labels(
    dataset: Dataset, split: str, label_set: str, keys: Sequence[str], identities: Sequence[str], name: str
) -> tuple[LabelRows, Coverage]:
    where = f"{dataset.root}/{split}/labels/{label_set}"
    if label_set not in dataset.label_sets(split):
        have = ", ".join(dataset.label_sets(split)) or "none"
        raise UsageError(f"{where}: there is no such label set; the split has {have}: label it or ask for these")
    sidecars = dataset.label_shards(split, label_set)
    if not sidecars:
        raise UsageError(f"{where}: has no committed shard; label the split")
    targets = {side.target for side in sidecars}
    if len(targets) != 1:
        raise FormatError(f"{where}: its shards state {len(targets)} targets, a label set has one; label it again")
    target = targets.pop()
    if target.kind not in ("logit", "probability"):
        raise UsageError(f"{where}: holds values of kind {target.kind}; this loader reads logits and probabilities")
    places = _unique(
        ((key, (number, row)) for number, side in enumerate(sidecars) for row, key in enumerate(side.clips.key)), where
    )
    shard, row = _columns(keys, places)
    failed = 0
    strangers = []
    for clip in np.flatnonzero(shard >= 0).tolist():
        rows = sidecars[shard[clip]].clips
        if rows.identity[row[clip]] != identities[clip]:
            strangers.append(keys[clip])
        elif not rows.length[row[clip]]:
            shard[clip] = -1
            failed += 1
    if strangers:
        others = f" and of {len(strangers) - 1} more clips" if len(strangers) > 1 else ""
        raise IntegrityError(
            f"{where}: the label of {strangers[0]}{others} was made from other audio than {split} stores now; "
            "label the split again, or restore the audio the labels were made from"
        )
    labelled = int((shard >= 0).sum())
    if not labelled:
        raise UsageError(f"{where}: has no label for any of the {len(keys)} clips of source {name}; label the split")
    coverage = Coverage(
        source=name,
        target=label_set,
        clips=len(keys),
        labelled=labelled,
        failed=failed,
        missing=len(keys) - labelled - failed,
    )
    return LabelRows(target=target, sidecars=sidecars, shard=shard, row=row), coverage


def _hard_coverage(hard: HardRows, name: str, clips: int) -> list[Coverage]:
    known = {"hard_weak": hard.weak.known, "hard_strong": hard.strong.known}
    return [
        Coverage(source=name, target=target, clips=clips, labelled=int(has.sum()), failed=0, missing=int((~has).sum()))
        for target, has in known.items()
    ]


def _unique(places: Iterable[tuple[str, tuple[int, int]]], where: str) -> dict[str, tuple[int, int]]:
    """Key -> place, where every key may occur once."""
    found: dict[str, tuple[int, int]] = {}
    for key, place in places:
        if found.setdefault(key, place) is not place:
            raise FormatError(f"{where}: clip {key} is stored in two shards; verify the dataset and remove one of them")
    return found


def _columns(
    keys: Sequence[str], places: Mapping[str, tuple[int, int]]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Shard number and row of every key, -1 for keys without a place."""
    columns = np.array([places.get(key, (-1, -1)) for key in keys], dtype=np.int32).reshape(len(keys), 2)
    return columns[:, 0].copy(), columns[:, 1].copy()


def _fingerprint(name: str, keys: Sequence[str], identities: Sequence[str], labels: Mapping[str, LabelRows]) -> str:
    """Changes with the clips, their audio, and how their labels were made; not with shard sizes or codecs."""
    state = hashlib.sha256(name.encode())
    for key, identity in zip(keys, identities, strict=True):
        state.update(f"\n{key} {identity}".encode())
    for label_set, rows in labels.items():
        made = sorted({side.fingerprint for side in rows.sidecars})
        state.update(f"\n{label_set} {rows.target.vocabulary.sha256} {' '.join(made)}".encode())
    return state.hexdigest()
