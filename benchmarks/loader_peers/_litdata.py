"""litdata: optimized chunks, CombinedStreamingDataset of two shuffled ones at equal weights, StreamingDataLoader."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import torch

from benchmarks.loader_peers._clips import BATCH_SIZE, Clips, decoded_flac


def write(folder: Path, clips: Clips) -> None:
    for source, numbers in clips.sources.items():
        litdata.optimize(
            partial(_row, clips),
            inputs=list(numbers),
            output_dir=str(folder / source),
            chunk_bytes="64MB",
            num_workers=1,
            verbose=False,
        )


def batches(folder: Path, workers: int) -> Iterator[Any]:
    sources = [_Clips(str(folder / source), shuffle=True) for source in ("weak", "strong")]
    mix = litdata.CombinedStreamingDataset(sources, weights=[0.5, 0.5], iterate_over_all=False)
    loader = litdata.StreamingDataLoader(mix, batch_size=BATCH_SIZE, num_workers=workers, persistent_workers=True)
    while True:
        yield from loader


class _Clips(litdata.StreamingDataset):
    def __getitem__(self, at: Any) -> Any:
        row = super().__getitem__(at)
        return decoded_flac(row["flac"]), torch.from_numpy(row["logits"]).float(), row["key"]


def _row(clips: Clips, number: int) -> dict[str, Any]:
    return {"key": clips.key(number), "flac": clips.flac(number), "logits": clips.logits(number)}
