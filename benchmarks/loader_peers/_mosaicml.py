"""mosaicml-streaming: MDS shards, two streams of equal proportion in every batch (`stratified`), torch's DataLoader.

An epoch is long enough not to end while it is measured.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.loader_peers._clips import BATCH_SIZE, Clips, decoded_flac

if importlib.util.find_spec("torchvision") is None:
    # Its image datasets, which nothing here uses, want these as soon as the package is imported. Transformers, which it
    # also imports, has to see first that there is none.
    importlib.import_module("transformers.utils")
    for name, members in (
        ("torchvision", ()),
        ("torchvision.datasets", ("VisionDataset", "CIFAR10")),
        ("torchvision.transforms", ()),
        ("torchvision.transforms.functional", ("to_tensor",)),
    ):
        sys.modules[name] = types.ModuleType(name)
        for member in members:
            setattr(sys.modules[name], member, type(member, (), {}))

from streaming import MDSWriter, Stream, StreamingDataset

COLUMNS = {"key": "str", "flac": "bytes", "logits": "ndarray:float16:447,250"}
EPOCH_CLIPS = 1_000_000


def write(folder: Path, clips: Clips) -> None:
    for source, numbers in clips.sources.items():
        with MDSWriter(out=str(folder / source), columns=COLUMNS) as writer:
            for number in numbers:
                row = {"key": clips.key(number), "flac": clips.flac(number), "logits": clips.logits(number)}
                writer.write(row)


def batches(folder: Path, workers: int) -> Iterator[Any]:
    clips = _Clips(
        streams=[Stream(local=str(folder / source), proportion=0.5) for source in ("weak", "strong")],
        epoch_size=EPOCH_CLIPS,
        batch_size=BATCH_SIZE,
        batching_method="stratified",
        shuffle=True,
    )
    yield from DataLoader(clips, batch_size=BATCH_SIZE, num_workers=workers)


class _Clips(StreamingDataset):
    def __getitem__(self, at: int) -> Any:
        row = super().__getitem__(at)
        # A copy, as the array is a view of what was read.
        return decoded_flac(row["flac"]), torch.from_numpy(row["logits"].astype(np.float32)), row["key"]
