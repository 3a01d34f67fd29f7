"""A packed dataset of AudioSet clips with hard labels, and labels that a teacher could have made of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import (
    AudioSpec,
    Event,
    audioset_strong_447,
    audioset_weak_527,
    frame_labels,
    hard_table,
    write_hard,
)
from shards import AudioShardWriter, Dataset, LabelReader

SPEC = AudioSpec(sample_rate=1_000)
CLIPS = 120
_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


@dataclass(frozen=True)
class Example:
    """`keys` in the order of the shards; `logits` float16 [clips, 447, 250] and `weak` [clips, 527] in that order."""

    dataset: Dataset
    keys: list[str]
    events: dict[str, list[Event]]
    logits: npt.NDArray[np.float16]
    weak: npt.NDArray[np.float16]

    @property
    def names(self) -> list[str]:
        return [f"Y{key.rpartition('_')[0]}.mp3" for key in self.keys]


def write_example(root: Path, *, clips: int = CLIPS, seed: int = 3) -> Example:
    """Split strong: three shards, with weak and strong labels of 40 classes that are both."""
    rng = np.random.default_rng([seed, 0])
    dataset = Dataset.create(root, keys="audioset")
    keys = [f"{''.join(rng.choice(list(_CHARACTERS), 11))}_{int(rng.integers(0, 300)) * 1000}" for _ in range(clips)]
    both = sorted(set(audioset_strong_447().mids) & set(audioset_weak_527().mids))
    classes = [both[i] for i in rng.permutation(len(both))[:40]]
    events = {key: _events(rng, classes) for key in keys}
    for number, part in enumerate(np.array_split(np.arange(clips), 3)):
        with AudioShardWriter(
            dataset.audio_folder("strong", SPEC.name),
            number,
            spec=SPEC,
            provenance={"made": "by a test"},
            codec="pcm16",
        ) as writer:
            for row in part:
                samples = 10_000 if row % 4 else int(rng.integers(8_000, 10_000))
                pcm = rng.integers(-9000, 9000, samples).astype(np.int16)
                writer.add(keys[row], pcm, origin="mp3")
            writer.commit()
    weak = {key: sorted({event.mid for event in events[key]}) for key in keys}
    write_hard(dataset.hard_path("strong"), hard_table(keys, weak=weak, strong=_table(events)))
    logits = np.stack([teacher_logits(rng, events[key]) for key in keys])
    return Example(dataset, keys, events, logits, np.stack([clip_logits(rng, weak[key]) for key in keys]))


def teacher_logits(rng: np.random.Generator, events: list[Event]) -> npt.NDArray[np.float16]:
    """What a teacher says of a clip: high where an event is, soft at its ends, noise elsewhere. [447, 250]"""
    active = frame_labels(events, audioset_strong_447()).astype(np.float32)
    soft = np.stack([np.convolve(row, np.ones(3) / 3, "same") if row.any() else row for row in active])
    return (-7 + 10 * soft + rng.normal(0, 1.5, soft.shape)).astype(np.float16)


def clip_logits(rng: np.random.Generator, mids: list[str]) -> npt.NDArray[np.float16]:
    present = np.isin(audioset_weak_527().mids, mids)
    return (-6 + 6 * present + rng.normal(0, 1.5, 527)).astype(np.float16)


def shifted(logits: npt.NDArray[np.float16], frames: int) -> npt.NDArray[np.float16]:
    """Late by `frames`, or early; what comes in is silence."""
    late = np.full_like(logits, -7)
    if frames >= 0:
        late[..., frames:] = logits[..., : logits.shape[-1] - frames]
    else:
        late[..., :frames] = logits[..., -frames:]
    return late


def stored_labels(dataset: Dataset, split: str, labels: str) -> dict[str, npt.NDArray[np.float32]]:
    found = {}
    for side in dataset.label_shards(split, labels):
        with LabelReader(side) as reader:
            for row, key in enumerate(side.clips.key):
                if side.clips.length[row]:
                    found[key] = reader.read(row)
    return found


def _events(rng: np.random.Generator, classes: list[str]) -> list[Event]:
    events = []
    for _ in range(int(rng.integers(1, 5))):
        onset = int(rng.integers(0, 7_000))
        events.append(Event(onset, onset + int(rng.integers(300, 3_000)), str(rng.choice(classes))))
    return events


def _table(events: dict[str, list[Event]]) -> pa.Table:
    rows = [(key, *event) for key, each in events.items() for event in each]
    names = ("key", "onset_ms", "offset_ms", "mid")
    types = (pa.string(), pa.int32(), pa.int32(), pa.string())
    return pa.table({name: pa.array([row[i] for row in rows], types[i]) for i, name in enumerate(names)})
