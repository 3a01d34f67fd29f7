"""PSDS1 of whatever gives frame probabilities, a label set or a student, on one split: the wiring around `psds1`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline import FRAMES, AudioSpec, Event, UsageError, Vocabulary, read_hard
from shards import Batch, Dataset, evaluation_batches
from students import Psds, median_filter, psds1, psds1_ceiling

# Odd, since an even filter has no middle frame; 9 is the published choice.
MEDIAN_FILTERS = (1, 3, 5, 9, 13, 19, 25, 37, 51)
Model = Callable[[Batch], Tensor]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The clips of a split in key order, their truth, and what each model says: float32 [clips, classes, 250].

    Frames without audio are at -inf: nothing is detected there.
    """

    vocabulary: Vocabulary
    keys: tuple[str, ...]
    events: tuple[tuple[Event, ...], ...]
    durations_s: tuple[float, ...]
    probs: Mapping[str, npt.NDArray[np.float32]]

    def psds1(self, model: str, *, median_frames: int) -> Psds:
        """After a median filter of `median_frames`, to which frames without audio are the lowest there are."""
        filtered = median_filter(self.probs[model], median_frames)
        return psds1(
            np.where(np.isneginf(self.probs[model]), -np.inf, filtered), self.events, self.durations_s, self.vocabulary
        )

    def ceiling(self) -> Psds:
        """What perfect labels on the 40 ms grid reach."""
        return psds1_ceiling(self.events, self.durations_s, self.vocabulary)

    def best_median_filter(self, model: str) -> int:
        """The filter with the highest PSDS1, the shortest of equals. To be called on dev, never on eval."""
        return max(MEDIAN_FILTERS, key=lambda frames: (self.psds1(model, median_frames=frames).mean, -frames))


def evaluate(
    dataset: Dataset,
    split: str,
    vocabulary: Vocabulary,
    models: Mapping[str, Model],
    *,
    labels: tuple[str, ...] = (),
    batch_size: int = 20,
) -> Evaluation:
    """Run every model on every clip of `split`. A model maps a batch to probabilities [B, classes, 250].

    Raises UsageError where a clip has no strong labels: absent is not silent.
    """
    spec = AudioSpec()
    hard = {row["key"]: row for row in read_hard(dataset.hard_path(split)).to_pylist()}
    seconds = {
        key: samples / spec.sample_rate
        for shard in dataset.audio_shards(split, spec.name)
        for key, samples in zip(shard.clips.key, shard.clips.samples, strict=True)
    }
    keys: list[str] = []
    probs: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in models}
    for batch in evaluation_batches(dataset, split, batch_size, vocabulary=vocabulary, labels=labels, workers=1):
        keys += batch.key
        silent = np.arange(FRAMES) >= batch.valid_frames.numpy()[:, None, None]
        for name, model in models.items():
            probs[name].append(np.where(silent, np.float32(-np.inf), model(batch).numpy()))
    unknown = [key for key in keys if not hard[key]["strong_annotated"]]
    if unknown:
        raise UsageError(
            f"{dataset.hard_path(split)}: {len(unknown)} clips have no strong labels, {unknown[0]} first; "
            "evaluate on a split where all have them"
        )
    return Evaluation(
        vocabulary=vocabulary,
        keys=tuple(keys),
        events=tuple(
            tuple(Event(event["onset_ms"], event["offset_ms"], event["mid"]) for event in hard[key]["events"])
            for key in keys
        ),
        durations_s=tuple(seconds[key] for key in keys),
        probs={name: np.concatenate(parts) for name, parts in probs.items()},
    )


def label_set_model(labels: str) -> Model:
    """A label set as a model. Raises UsageError at the first clip that it has no label for."""

    def probabilities(batch: Batch) -> Tensor:
        absent = (batch.weight[labels] == 0).flatten(1).all(dim=1).nonzero()[:, 0].tolist()
        if absent:
            raise UsageError(f"label set {labels} has no label for clip {batch.key[absent[0]]}: run label again")
        return batch.targets[labels]

    return probabilities
