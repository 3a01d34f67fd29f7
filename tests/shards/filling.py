"""Batches filled clip by clip, without a loader: what a test of targets needs of one."""

import pickle
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from shards import Average, Batch, CompactBatch, Dataset
from shards.loader._fill import Filler
from shards.loader._metrics import Stages
from shards.loader._read import Tars
from shards.loader.join._join import JoinedSource, join
from shards.loader.targets._options import TargetOptions


def joined(
    root: Path, split: str, labels: Sequence[str | Average] = (), *, audio: str, including: tuple[str, ...] = ()
) -> JoinedSource:
    return join(Dataset.open(root), split, name=split, audio=audio, labels=labels, including=including)


def filled(
    sources: Sequence[JoinedSource], options: TargetOptions, picks: Sequence[tuple[int, int]]
) -> Batch | CompactBatch:
    """The batch of clips picks[i] = (source, clip), written over memory full of ones by a filler that was pickled."""
    filler: Filler = pickle.loads(pickle.dumps(Filler(sources, options, Tars())))
    arrays = {}
    for name, (dtype, shape) in filler.fields.items():
        ones = bytearray(b"\xff") * (len(picks) * prod(shape) * dtype.itemsize)
        arrays[name] = np.frombuffer(ones, dtype).reshape(len(picks), *shape)
    extras = [filler.fill(arrays, place, *pick, Stages()) for place, pick in enumerate(picks)]
    names = [sources[number].name for number, _ in picks]
    return filler.batch(arrays, extras, names, [sources[number].key(clip) for number, clip in picks])


def every_clip(sources: Sequence[JoinedSource]) -> list[tuple[int, int]]:
    """All clips of all sources, those of the last source first."""
    return [(number, clip) for number in reversed(range(len(sources))) for clip in range(len(sources[number]))]
