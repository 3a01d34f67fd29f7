"""What a source takes of one split: its clips, and where their labels are, held against the audio they are of."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import AudioSpec, FormatError, IntegrityError, UsageError
from shards._dataset import Dataset
from shards._index import ShardIndex, open_index
from shards._index_binding import Binding
from shards.loader.join._confidence import confidences
from shards.loader.join._subset import Subset


class SplitPart:
    """The clips of one split that a source takes.

    keys: theirs, in order. rows: of the audio index. at: places in the source, int64, once they are put in order.
    """

    def __init__(self, dataset: Dataset, split: str, audio: str, indexes: Path | None = None) -> None:
        self.dataset, self.split, self.where = dataset, split, f"{dataset.root}/{split}"
        self._indexes = indexes
        self.audio = open_index(dataset.audio_folder(split, audio), "audio", indexes)
        if not len(self.audio):
            stored = ", ".join(dataset.audio_specs(split)) or "none"
            raise UsageError(
                f"{self.where}: has no clip stored as {audio} (its audio: {stored}); pack the split first, or ask for "
                "audio that it has"
            )
        _check_unique(self.audio, self.where)
        self.rows = self.audio.by_key
        self.at = np.zeros(0, np.int64)
        self.keys = self.audio.key.take(pa.array(self.rows))

    def choose(self, subset: Subset, hard: pa.Table) -> None:
        """Leave out what `subset` does not hold; `hard` is the split's table of HARD_SCHEMA."""
        self._keep(subset.by_key(self.keys, hard))
        if subset.confidence is not None and len(self.rows):
            index, rows = self.labels(subset.confidence.label_set)
            # The last one is for the rows -1, of clips without a label.
            sure = np.append(confidences(index) >= subset.confidence.at_least, False)
            self._keep(sure[rows])

    def put(self, chosen: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> None:
        """Leave the clips at positions `chosen`, which belong to the places `at` of the source."""
        self.at = at
        if len(chosen) < len(self.rows):
            self.rows, self.keys = self.rows[chosen], self.keys.take(pa.array(chosen))

    def labels(self, label_set: str) -> tuple[ShardIndex, npt.NDArray[np.int64]]:
        """The index of a label set and for each clip its row there, -1 without one.

        Raises UsageError if there is none, IntegrityError if a label was made from other audio than is stored.
        """
        dataset, split, where = self.dataset, self.split, f"{self.where}/labels/{label_set}"
        if label_set not in dataset.label_sets(split):
            have = ", ".join(dataset.label_sets(split)) or "none"
            raise UsageError(f"{where}: there is no such label set; the split has {have}: label it or ask for these")
        index = open_index(dataset.labels_folder(split, label_set), "labels", self._indexes)
        if not index.shards:
            raise UsageError(f"{where}: has no committed shard; label the split")
        if index.key.equals(self.audio.key):  # the usual case, labelled shard by shard
            rows = self.rows.astype(np.int64)
            if _specs(index) == _specs(self.audio) and np.array_equal(index.identity, self.audio.identity):
                return index, rows
        else:
            _check_unique(index, where)
            rows = index.rows_of(self.keys)
        _check_audio(Binding(labels=index, place=rows, audio=self.audio, clips=self.rows), dataset, split, where)
        return index, rows

    def _keep(self, wanted: npt.NDArray[np.bool_]) -> None:
        if not wanted.all():
            self.rows, self.keys = self.rows[wanted], self.keys.filter(pa.array(wanted))


def _specs(index: ShardIndex) -> set[AudioSpec]:
    return {shard.spec for shard in index.shards}


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
