"""MixedLoader on two sources of hard and soft labels, threads as workers, everything it promises switched on."""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.loader_peers._clips import BATCH_SIZE, SPEC, Clips
from pipeline import TargetSpec, audioset_strong_447, audioset_weak_527, hard_table, write_hard
from shards import AudioShardWriter, Dataset, LabelShardWriter, MixedLoader, Source

LABELS = "teacher"
EVENTS_PER_CLIP = 9
"""Of a strong clip, as in AudioSet; a weak one has two classes."""
VALUES = "probability"


@dataclass(frozen=True)
class Ours:
    """A way to store the clips and to read them. `missing`: what this version lacks for it, or empty."""

    audio: str
    labels: str
    compact: bool = False
    hard: tuple[str, ...] = ("hard_weak", "hard_strong")

    VALUES = VALUES

    @property
    def missing(self) -> str:
        knows = "compact" in inspect.signature(MixedLoader).parameters
        return "" if knows or not self.compact else "MixedLoader without compact batches"

    def write(self, folder: Path, clips: Clips) -> None:
        dataset = Dataset.create(folder, keys="audioset")
        target = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=audioset_strong_447())
        for source in clips.sources:
            audio_folder = dataset.audio_folder(source, SPEC.name)
            for shard, numbers in enumerate(clips.shards(source)):
                with AudioShardWriter(audio_folder, shard, spec=SPEC, provenance={}, codec=self.audio) as writer:
                    for number in numbers:
                        writer.add(clips.key(number), clips.pcm(number), origin="generated")
                    audio = writer.commit()
                folder_of_labels = dataset.labels_folder(source, LABELS)
                with LabelShardWriter(
                    folder_of_labels, audio, target=target, provenance={}, codec=self.labels
                ) as labeller:
                    for number in numbers:
                        labeller.add(clips.key(number), clips.logits(number).astype(np.float32))
                    labeller.commit()
            _write_hard(dataset, source, [clips.key(number) for number in clips.sources[source]])

    def batches(self, folder: Path, workers: int) -> Iterator[Any]:
        """Batches, as (waveform, labels, clip keys) where they are not compact."""
        options = {"compact": True} if self.compact else {}
        loader = MixedLoader(
            [Source(folder, source, share=0.5, labels=(LABELS,)) for source in ("weak", "strong")],
            BATCH_SIZE,
            vocabulary=audioset_strong_447(),
            workers=workers,
            hard=self.hard,
            **options,  # type: ignore[arg-type]
        )
        for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
            yield batch if self.compact else (batch.waveform, batch.targets[LABELS], batch.key)

    def opened(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, Sequence[str]]:
        if not self.compact:
            waveform, labels, keys = batch
            return waveform, labels, keys
        whole = batch.expand()
        return whole.waveform, whole.targets[LABELS], whole.key


FLAC = Ours("flac", "npy")
FAST = Ours("fast", "small")
FAST_WEAK = Ours("fast", "small", hard=("hard_weak",))
FAST_COMPACT = Ours("fast", "small", compact=True)
PCM_COMPACT = Ours("pcm16", "small", compact=True)


def _write_hard(dataset: Dataset, source: str, keys: Sequence[str]) -> None:
    rng = np.random.default_rng([3, len(keys)])
    weak = {key: sorted(rng.choice(audioset_weak_527().mids, 2, replace=False).tolist()) for key in keys}
    events = None
    if source == "strong":
        count = len(keys) * EVENTS_PER_CLIP
        onset_ms = rng.integers(0, 9_000, count)
        events = pa.table(
            {
                "key": np.repeat(keys, EVENTS_PER_CLIP).tolist(),
                "onset_ms": pa.array(onset_ms, pa.int32()),
                "offset_ms": pa.array(onset_ms + rng.integers(100, 1_000, count), pa.int32()),
                "mid": rng.choice(audioset_strong_447().mids, count).tolist(),
            }
        )
    write_hard(dataset.hard_path(source), hard_table(keys, weak=weak, strong=events))
