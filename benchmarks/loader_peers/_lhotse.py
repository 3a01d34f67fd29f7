"""lhotse: Shar, one tar a field, two repeated cut sets muxed at equal weights, DynamicCutSampler, DataLoader."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet, MonoCut, Recording
from lhotse.array import Array
from lhotse.audio import AudioSource
from lhotse.dataset import DynamicCutSampler, IterableDatasetWrapper, make_worker_init_fn
from lhotse.shar.writers import ArrayTarWriter, JsonlShardWriter, TarWriter
from torch.utils.data import DataLoader, Dataset

from benchmarks.loader_peers._clips import BATCH_SIZE, CLIPS_PER_SHARD, SHAPE, SPEC, Clips

BUFFER = 250


def write(folder: Path, clips: Clips) -> None:
    """By the writers of the fields: SharWriter would encode the FLAC anew."""
    seconds = SPEC.max_samples / SPEC.sample_rate
    for source, numbers in clips.sources.items():
        (folder / source).mkdir(parents=True)
        with (
            JsonlShardWriter(str(folder / source / "cuts.%06d.jsonl.gz"), CLIPS_PER_SHARD) as cuts,
            TarWriter(str(folder / source / "recording.%06d.tar"), CLIPS_PER_SHARD) as recordings,
            ArrayTarWriter(str(folder / source / "logits.%06d.tar"), CLIPS_PER_SHARD) as labels,
        ):
            for number in numbers:
                key = clips.key(number)
                audio = AudioSource(type="shar", channels=[0], source="")
                recording = Recording(key, [audio], SPEC.sample_rate, SPEC.max_samples, seconds)
                recordings.write(f"{key}.flac", io.BytesIO(clips.flac(number)))
                recordings.write(f"{key}.json", io.BytesIO(json.dumps(recording.to_dict()).encode()), count=False)
                array = Array("shar", "", "", list(SHAPE))
                labels.write(key, clips.logits(number), array)
                custom = {"logits": array}
                cuts.write(MonoCut(key, 0, seconds, channel=0, recording=recording, custom=custom))


def batches(folder: Path, workers: int) -> Iterator[Any]:
    sources = [
        CutSet.from_shar(in_dir=folder / source, shuffle_shards=True, seed="randomized").repeat(preserve_id=True)
        for source in ("weak", "strong")
    ]
    mix = CutSet.mux(*sources, weights=[0.5, 0.5], seed="randomized").shuffle(buffer_size=BUFFER)
    wrapped = IterableDatasetWrapper(_Batches(), DynamicCutSampler(mix, max_cuts=BATCH_SIZE))
    yield from DataLoader(wrapped, batch_size=None, num_workers=workers, worker_init_fn=make_worker_init_fn(seed=0))


class _Batches(Dataset):
    def __getitem__(self, cuts: CutSet) -> Any:
        waveforms = torch.stack([torch.from_numpy(cut.load_audio()[0]) for cut in cuts])
        labels = torch.stack([torch.from_numpy(cut.load_logits()).float() for cut in cuts])
        return waveforms, labels, [cut.id for cut in cuts]
