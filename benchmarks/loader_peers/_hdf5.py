"""HDF5 as published training code has it: one file of mp3 bytes by clip, one of float16 labels, both opened in every
worker; torch's DataLoader with a random sampler over the two sources."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import soundfile
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler

from benchmarks.loader_peers._clips import BATCH_SIZE, SHAPE, SPEC, Clips

LOSSY_AUDIO = True
EPOCH_CLIPS = 1_000_000


def write(folder: Path, clips: Clips) -> None:
    folder.mkdir(parents=True)
    for source, numbers in clips.sources.items():
        keys = np.array([clips.key(number).encode() for number in numbers])
        with h5py.File(folder / f"{source}_audio.h5", "w") as file:
            file["audio_name"] = keys
            mp3 = file.create_dataset("mp3", len(numbers), dtype=h5py.vlen_dtype(np.uint8))
            for row, number in enumerate(numbers):
                mp3[row] = np.frombuffer(_mp3(clips.pcm(number)), np.uint8)
        with h5py.File(folder / f"{source}_labels.h5", "w") as file:
            file["filenames"] = keys
            logits = file.create_dataset("strong_logits", (len(numbers), *SHAPE), "f2")
            for row, number in enumerate(numbers):
                logits[row] = clips.logits(number)


def batches(folder: Path, workers: int) -> Iterator[Any]:
    sources = [_Clips(folder, source) for source in ("weak", "strong")]
    weights = [1 / len(source) for source in sources for _ in range(len(source))]
    sampler = WeightedRandomSampler(weights, EPOCH_CLIPS)
    yield from DataLoader(ConcatDataset(sources), batch_size=BATCH_SIZE, sampler=sampler, num_workers=workers)


class _Clips(Dataset):
    def __init__(self, folder: Path, source: str) -> None:
        self._paths = folder / f"{source}_audio.h5", folder / f"{source}_labels.h5"
        self._files: tuple[h5py.File, ...] = ()
        with h5py.File(self._paths[0]) as file:
            self._keys = [key.decode() for key in file["audio_name"][:]]
        with h5py.File(self._paths[1]) as file:
            self._label_rows = {key.decode(): row for row, key in enumerate(file["filenames"][:])}

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, row: int) -> Any:
        if not self._files:  # each worker its own
            self._files = tuple(h5py.File(path) for path in self._paths)
        audio, labels = self._files
        key = self._keys[row]
        waveform, _ = soundfile.read(io.BytesIO(audio["mp3"][row].tobytes()), dtype="float32")
        waveform = np.pad(waveform[: SPEC.max_samples], (0, max(0, SPEC.max_samples - len(waveform))))
        logits = labels["strong_logits"][self._label_rows[key]]
        return torch.from_numpy(waveform), torch.from_numpy(logits).float(), key


def _mp3(pcm: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SPEC.sample_rate, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()
