"""PSDS1 of whatever gives frame probabilities, a label set or a student, on one split: the wiring around `psds1`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import FRAMES, UsageError, Vocabulary, projection, read_hard
from shards import AudioReader, Dataset, LabelReader
from students import Event, Psds, events_to_frames, median_filter, psds1

# Odd, since an even filter has no middle frame; 9 is the published choice.
MEDIAN_FILTERS = (1, 3, 5, 9, 13)


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """The clips of a split in shard order with their truth. valid_frames: int64 [clips]."""

    dataset: Dataset
    split: str
    audio: str
    vocabulary: Vocabulary
    keys: tuple[str, ...]
    events: tuple[tuple[Event, ...], ...]
    durations_s: tuple[float, ...]
    valid_frames: npt.NDArray[np.int64]

    def evaluate(self, probs: npt.NDArray[np.float32], median_frames: int) -> Psds:
        """PSDS1 of probabilities [clips, classes, 250] after a median filter of `median_frames`."""
        filtered = median_filter(probs, median_frames)
        silent = np.arange(FRAMES) >= self.valid_frames[:, None, None]
        return psds1(np.where(silent, -np.inf, filtered), self.events, self.durations_s)

    def ceiling(self) -> Psds:
        """What perfect labels on the 40 ms grid reach."""
        return psds1(events_to_frames(self.events, classes=len(self.vocabulary)), self.events, self.durations_s)


def open_evaluation_split(dataset: Dataset, split: str, audio: str, vocabulary: Vocabulary) -> EvaluationSplit:
    """Raises UsageError where a clip of the split has no strong labels: absent is not silent."""
    hard = {row["key"]: row for row in read_hard(dataset.hard_path(split)).to_pylist()}
    column = vocabulary.index()
    keys, events, durations_s, valid = [], [], [], []
    for shard in dataset.audio_shards(split, audio):
        for key, samples in zip(shard.clips.key, shard.clips.samples, strict=True):
            if not hard[key]["strong_annotated"]:
                raise UsageError(
                    f"{dataset.hard_path(split)}: clip {key} has no strong labels; evaluate where all have them"
                )
            keys.append(key)
            events.append(
                tuple(
                    (e["onset_ms"], e["offset_ms"], column[e["mid"]]) for e in hard[key]["events"] if e["mid"] in column
                )
            )
            durations_s.append(samples / shard.spec.sample_rate)
            valid.append(min(FRAMES, -(-samples // shard.spec.hop_samples)))
    return EvaluationSplit(
        dataset=dataset, split=split, audio=audio, vocabulary=vocabulary, keys=tuple(keys), events=tuple(events),
        durations_s=tuple(durations_s), valid_frames=np.array(valid, dtype=np.int64),
    )  # fmt: skip


def label_set_probs(evaluation: EvaluationSplit, labels: str) -> npt.NDArray[np.float32]:
    """Probabilities [clips, classes, 250] as stored in a label set. Raises UsageError where a clip has no label."""
    dataset = evaluation.dataset
    probs = np.full((len(evaluation.keys), len(evaluation.vocabulary), FRAMES), np.nan, dtype=np.float32)
    row_of = {key: row for row, key in enumerate(evaluation.keys)}
    for shard in dataset.label_shards(evaluation.split, labels):
        columns = projection(shard.target.vocabulary, evaluation.vocabulary, strict=True)
        with LabelReader(shard) as reader:
            for row, key in enumerate(shard.clips.key):
                if key in row_of and shard.clips.length[row]:
                    probs[row_of[key]] = 1 / (1 + np.exp(-reader.read(row)[columns]))
    missing = np.isnan(probs).any(axis=(1, 2))
    if missing.any():
        raise UsageError(
            f"label set {labels} of split {evaluation.split} lacks {int(missing.sum())} of {len(missing)} clips, "
            f"for example {evaluation.keys[int(missing.argmax())]}: run label again"
        )
    return probs


def model_probs(
    evaluation: EvaluationSplit,
    predict: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    batch_size: int = 20,
) -> npt.NDArray[np.float32]:
    """Probabilities of a model. `predict` maps waveforms [B, N] to probabilities [B, classes, 250]."""
    parts = []
    for shard in evaluation.dataset.audio_shards(evaluation.split, evaluation.audio):
        with AudioReader(shard) as reader:
            for start in range(0, len(shard.clips), batch_size):
                rows = range(start, min(start + batch_size, len(shard.clips)))
                waveforms = np.zeros((len(rows), shard.spec.max_samples), dtype=np.float32)
                for place, row in enumerate(rows):
                    pcm = reader.read(row)
                    waveforms[place, : len(pcm)] = pcm.astype(np.float32) / 32768
                parts.append(predict(waveforms))
    return np.concatenate(parts)


def best_median_filter(dev: EvaluationSplit, probs: npt.NDArray[np.float32]) -> int:
    """The filter with the highest PSDS1 on dev; the shortest of equals."""
    return max(MEDIAN_FILTERS, key=lambda frames: (dev.evaluate(probs, frames).mean, -frames))
