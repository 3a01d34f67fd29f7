"""A label set as a report reads it: how much of the split it covers, and every label once, in threads."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from jobs import machine_cpus
from pipeline import AudioSpec, TargetSpec, UsageError
from shards import Dataset, LabelReader, ShardIndex, decode_label_checked, open_index, read_label_sidecar

Probabilities = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """clips: stored = labelled, from their own audio, + failed + missing, not known to the set, + other_audio, labelled
    or failed from other audio than is stored under their key.

    elsewhere: clips that the set has and that are not stored here. reasons: of all clips of the set that failed.
    """

    clips: int
    labelled: int
    failed: int
    missing: int
    other_audio: int
    elsewhere: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class OpenLabels:
    """rows: positions in `index` of the labels that count, those of stored clips, in order."""

    name: str
    index: ShardIndex
    target: TargetSpec
    spec: AudioSpec
    rows: npt.NDArray[np.int64]
    coverage: Coverage

    @property
    def provenances(self) -> list[Mapping[str, Any]]:
        """What its shards were made from, each once."""
        return list({shard.fingerprint: shard.provenance for shard in self.index.shards}.values())

    @property
    def codecs(self) -> list[str]:
        return sorted({shard.codec for shard in self.index.shards})

    def valid_frames(self, row: int) -> int:
        """Frames on audio; 1 for a label without time."""
        if "time" not in self.target.axes:
            return 1
        return self.target.valid_frames(int(self.index.samples[row]), self.spec.sample_rate)

    def read(
        self, rows: npt.NDArray[np.int64], take: Callable[[int, Probabilities], T], progress: Progress
    ) -> Iterator[tuple[int, T]]:
        """(row, take(row, its probabilities)) of rows of the index in order; `take` runs in threads.

        Probabilities are float32 [classes, valid frames]. No more is held than what `take` makes of one shard.
        Raises IntegrityError or FormatError for a damaged label.
        """
        shards = self.index.shard[rows]
        with ThreadPoolExecutor(machine_cpus()) as threads:
            for done, place in enumerate(numbers := np.unique(shards).tolist()):
                progress(f"{self.name}, shard", done, len(numbers))
                wanted = rows[shards == place].tolist()
                sidecar = read_label_sidecar(self.index.shards[place].path)
                with LabelReader(sidecar) as reader:

                    def taken(row: int, reader: LabelReader = reader) -> T:
                        content = reader.read_bytes(int(self.index.row[row]))
                        label = decode_label_checked(
                            content,
                            shape=self.target.shape,
                            kind=self.target.kind,
                            codec=reader.sidecar.codec,
                            where=f"{reader.sidecar.tar_path}: clip {self.index.key[row].as_py()}",
                            probabilities=True,
                        )
                        return take(row, label.reshape(len(label), -1)[:, : self.valid_frames(row)])

                    yield from zip(wanted, threads.map(taken, wanted), strict=True)


def open_labels(dataset: Dataset, split: str, name: str) -> OpenLabels:
    """Raises UsageError where the split has no such set, or one that has no probabilities of classes."""
    index = open_index(dataset.labels_folder(split, name), "labels")
    if not index.shards:
        has = ", ".join(dataset.label_sets(split)) or "none"
        raise UsageError(f"{dataset.root}: split {split} has no label set {name}; it has {has}")
    made = {(shard.target, shard.spec) for shard in index.shards}
    if len(made) > 1:
        raise UsageError(f"{index.folder}: shards differ in target or audio spec; run sed-distill verify")
    ((target, spec),) = made
    if target is None or target.axes not in (("class", "time"), ("class",)):
        axes = None if target is None else target.axes
        raise UsageError(f"label set {name} has axes {axes}; a report is of probabilities of classes, with time or not")
    if target.kind not in ("logit", "probability"):
        raise UsageError(f"label set {name} has values of kind {target.kind}; a report is of probabilities of classes")
    rows, coverage = _coverage(dataset, split, index, spec)
    if not len(rows):
        raise UsageError(
            f"label set {name} has no label of a clip of split {split}: of {coverage.clips:,} stored clips "
            f"{coverage.missing:,} are not in it, {coverage.failed:,} failed, {coverage.other_audio:,} were labelled "
            "from other audio; label the split again"
        )
    return OpenLabels(name=name, index=index, target=target, spec=spec, rows=rows, coverage=coverage)


def audio_beside(dataset: Dataset, split: str, spec: AudioSpec) -> ShardIndex | None:
    """The audio that was labelled, or another spec of it, or None where a label set lies alone."""
    names = dataset.audio_specs(split)
    if not names:
        return None
    return open_index(dataset.audio_folder(split, spec.name if spec.name in names else names[0]), "audio")


def _coverage(
    dataset: Dataset, split: str, index: ShardIndex, spec: AudioSpec
) -> tuple[npt.NDArray[np.int64], Coverage]:
    reasons: Counter[str] = Counter()
    for shard in index.shards:
        reasons.update(shard.refused)
    audio = audio_beside(dataset, split, spec)
    if audio is None or not len(audio):  # a set that was published alone
        clips = len(index)
        rows = np.arange(clips)
        same = np.ones(clips, dtype=np.bool_)
    else:
        clips = len(audio)
        place = index.rows_of(audio.key)
        known = np.flatnonzero(place >= 0)
        rows = place[known]
        same = np.ones(len(rows), dtype=np.bool_)
        if audio.shards[0].spec == spec:  # other audio of the same clips has another identity, and says nothing
            same = (index.identity[rows] == audio.identity[known]).all(axis=1)
    labelled = index.length[rows] > 0
    return np.sort(rows[same & labelled]), Coverage(
        clips=clips,
        labelled=int((same & labelled).sum()),
        failed=int((same & ~labelled).sum()),
        missing=clips - len(rows),
        other_audio=int((~same).sum()),
        elsewhere=len(index) - len(rows),
        reasons=dict(sorted(reasons.items())),
    )
