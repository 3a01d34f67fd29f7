"""Whether labels were made from the audio that lies beside them under the same keys."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import AcousticMatch, AudioSpec, compare_acoustic
from shards._dataset import Dataset
from shards._index import ShardIndex, open_index

_MOST_COMPARED = 2_000


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Clip number i is at `clips[i]` of `audio`, its label at `place[i]` of `labels`, -1 without one."""

    labels: ShardIndex
    place: npt.NDArray[np.int64]
    audio: ShardIndex
    clips: npt.NDArray[np.int32]

    def by_identity(self, dataset: Dataset, split: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Numbers of the clips whose label was made from other audio, and of those that identities cannot decide.

        A label of audio of another spec is held against that audio, where the dataset stores it too.
        """
        differing, undecided = [], []
        has_label = np.flatnonzero(self.place >= 0)
        specs = [shard.spec for shard in self.labels.shards]
        here = {shard.spec for shard in self.audio.shards}
        for spec in sorted(set(specs), key=lambda spec: spec.name):
            of_spec = np.array([other == spec for other in specs])
            numbers = has_label[of_spec[self.labels.shard[self.place[has_label]]]]
            audio, rows = (
                (self.audio, self.clips[numbers]) if spec in here else self._elsewhere(dataset, split, spec, numbers)
            )
            undecided.append(numbers[rows < 0])
            numbers, rows = numbers[rows >= 0], rows[rows >= 0]
            other = (self.labels.identity[self.place[numbers]] != audio.identity[rows]).any(axis=1)
            differing.append(numbers[other])
        none = np.zeros(0, np.int64)
        return np.sort(np.concatenate([none, *differing])), np.sort(np.concatenate([none, *undecided]))

    def by_sound(self, numbers: npt.NDArray[np.int64]) -> dict[int, AcousticMatch]:
        """Those of the clips `numbers` whose acoustic fingerprints contradict each other, in order.

        Of more than 2,000 whose fingerprints differ at all, a sample of as many is compared, always the same one: it
        takes 0.3 s, all of two million take minutes. Labels of other audio are rarely those of a few clips alone.
        """
        stored, labelled = self.audio.acoustic[self.clips[numbers]], self.labels.acoustic[self.place[numbers]]
        rows = np.flatnonzero((stored != labelled).any(axis=1))
        if len(rows) > _MOST_COMPARED:
            rows = np.sort(np.random.default_rng([0, len(rows)]).choice(rows, _MOST_COMPARED, replace=False))
        refused = {}
        for row in rows:
            match = compare_acoustic(stored[row].tobytes(), labelled[row].tobytes())
            if match.verdict in ("shifted", "different"):
                refused[int(numbers[row])] = match
        return refused

    def named(self, numbers: npt.NDArray[np.int64]) -> str:
        """The first of these clips by its key, and how many more there are."""
        first = self.audio.key[int(self.clips[numbers[0]])].as_py()
        return f"{first} and of {len(numbers) - 1} more clips" if len(numbers) > 1 else str(first)

    def _elsewhere(
        self, dataset: Dataset, split: str, spec: AudioSpec, numbers: npt.NDArray[np.int64]
    ) -> tuple[ShardIndex, npt.NDArray[np.int64]]:
        audio = open_index(dataset.audio_folder(split, spec.name), "audio")
        return audio, audio.rows_of(self.audio.key.take(pa.array(self.clips[numbers])))
