"""webdataset: tars of FLAC and .npy, resampled shards, a shuffle buffer a source, RandomMix, WebLoader.

The buffers fill before the first clip and then pass one on for each they take. Batches are collated by torch's
default, straight into shared memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset as wds

from benchmarks.loader_peers._clips import BATCH_SIZE, Clips, decoded_flac, decoded_npy

BUFFER = 250


def write(folder: Path, clips: Clips) -> None:
    for source in clips.sources:
        (folder / source).mkdir(parents=True)
        for shard, numbers in enumerate(clips.shards(source)):
            with wds.TarWriter(str(folder / source / f"{shard:06d}.tar"), encoder=False) as tar:
                for number in numbers:
                    tar.write({"__key__": clips.key(number), "flac": clips.flac(number), "npy": clips.npy(number)})


def batches(folder: Path, workers: int) -> Iterator[Any]:
    sources = [
        wds.WebDataset(sorted(map(str, (folder / source).glob("*.tar"))), resampled=True, shardshuffle=False)
        .shuffle(BUFFER, initial=BUFFER)
        .map(_decoded)
        for source in ("weak", "strong")
    ]
    mix = wds.RandomMix(sources, probs=[0.5, 0.5])
    yield from wds.WebLoader(mix, batch_size=BATCH_SIZE, num_workers=workers)


def _decoded(sample: dict[str, Any]) -> tuple[Any, ...]:
    return decoded_flac(sample["flac"]), decoded_npy(sample["npy"]), sample["__key__"]
