"""What no loader can beat: threads that pread and decode every clip and its label into one buffer each, with our
kernels; no order over sources, no check, no hard labels, no batch."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

import numpy as np

from benchmarks.loader_peers._clips import BATCH_SIZE, SHAPE, SPEC, Clips
from benchmarks.loader_peers._ours import LABELS, Ours
from shards import Dataset, read_audio_sidecar, read_label_sidecar, sidecar_paths
from shards.codecs._kernels import decode_audio_into, decode_label_into, label_values

_TASK_CLIPS = 16
_LONGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Limit:
    """For what one of our loaders reads."""

    ours: Ours

    missing = ""

    def write(self, folder: Path, clips: Clips) -> None:
        self.ours.write(folder, clips)

    def batches(self, folder: Path, workers: int) -> Iterator[Any]:
        what = "code" if self.ours.compact else "probability"
        values = label_values("logit", self.ours.labels, what=what)
        pcm = np.int16 if self.ours.compact else np.float32
        places = _places(folder)
        order = np.random.default_rng(0).permutation(len(places))
        memory = local()

        def read(rows: list[int]) -> None:
            if not hasattr(memory, "scratch"):
                memory.scratch = memoryview(bytearray(_LONGEST_BYTES))
                memory.waveform = np.empty(SPEC.max_samples, pcm)
                memory.labels = np.empty(SHAPE, values.dtype)
            for row in rows:
                (audio, audio_at, audio_bytes), (label, label_at, label_bytes) = places[row]
                content = memory.scratch[:audio_bytes]
                os.preadv(audio, [content], audio_at)
                decode_audio_into(content, SPEC, SPEC.max_samples, self.ours.audio, memory.waveform, row)
                content = memory.scratch[:label_bytes]
                os.preadv(label, [content], label_at)
                decode_label_into(content, SHAPE, "logit", self.ours.labels, values, memory.labels, row)

        with ThreadPoolExecutor(workers) as threads:
            while True:
                for first in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
                    batch = order[first : first + BATCH_SIZE].tolist()
                    tasks = [batch[at : at + _TASK_CLIPS] for at in range(0, BATCH_SIZE, _TASK_CLIPS)]
                    list(threads.map(read, tasks))
                    yield None, None, batch


def _places(folder: Path) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """(descriptor, offset, length) of the audio and of the label of every clip."""
    dataset = Dataset.open(folder)
    places = []
    for source in ("weak", "strong"):
        audio_paths = sidecar_paths(dataset.audio_folder(source, SPEC.name))
        label_paths = sidecar_paths(dataset.labels_folder(source, LABELS))
        for audio_path, label_path in zip(audio_paths, label_paths, strict=True):
            audio, labels = read_audio_sidecar(audio_path), read_label_sidecar(label_path)
            descriptors = [os.open(sidecar.tar_path, os.O_RDONLY) for sidecar in (audio, labels)]
            columns = (audio.clips.offset, audio.clips.length, labels.clips.offset, labels.clips.length)
            for audio_at, audio_bytes, label_at, label_bytes in zip(*columns, strict=True):
                places.append(((descriptors[0], audio_at, audio_bytes), (descriptors[1], label_at, label_bytes)))
    return places


FLAC = Limit(Ours("flac", "npy"))
FAST = Limit(Ours("fast", "small"))
FAST_COMPACT = Limit(Ours("fast", "small", compact=True))
