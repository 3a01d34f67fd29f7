"""The sources of a training run: joined, and none of their clips held out in any dataset of the mix."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import UsageError
from shards._dataset import Dataset
from shards._index import open_index
from shards.loader.join._join import JoinedSource, join
from shards.loader.join._source import TRAINING_SPLITS, Source
from shards.loader.join._subset import Subset


def join_sources(sources: Sequence[Source], indexes: Path | None = None) -> list[JoinedSource]:
    """Raises UsageError for sources of one name or with held-out clips, and what `join` raises.

    indexes: a local folder to keep the indexes of datasets on a store in.
    """
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise UsageError(f"sources are named {', '.join(names)}; give each a name of its own with Source(name=...)")
    datasets = [opened(source.dataset) for source in sources]
    joined = [
        join(
            dataset,
            source.split,
            name=source.name,
            audio=source.audio,
            labels=source.labels,
            including=source.including,
            subset=Subset.of(source),
            indexes=indexes,
        )
        for source, dataset in zip(sources, datasets, strict=True)
    ]
    refuse_held_out(zip(joined, datasets, strict=True), indexes)
    return joined


def refuse_held_out(sources: Iterable[tuple[JoinedSource, Dataset]], indexes: Path | None = None) -> None:
    """Raise UsageError, naming the first, if a clip to train on is stored in `dev` or `eval` of a dataset of the mix.

    Keys of AudioSet mean one clip everywhere; those made of paths mean something in their own dataset alone.
    """
    mixed = list(sources)
    held_out = {dataset.root: _held_out(dataset, indexes) for _, dataset in mixed}
    keys_of = {dataset.root: dataset.keys for _, dataset in mixed}
    for source, home in mixed:
        for root, splits in held_out.items():
            if root != home.root and not keys_of[root] == keys_of[home.root] == "audioset":
                continue
            for split, keys in splits.items():
                found = np.flatnonzero(pc.is_in(source.keys, value_set=keys).to_numpy(zero_copy_only=False))
                if len(found):
                    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
                    raise UsageError(
                        f"source {source.name} would train on clip {source.key(found[0])}{more}, held out in "
                        f"{root}/{split}; leave them out with exclude=, a list of keys as the hard.parquet there is"
                    )


def opened(dataset: Dataset | Path | str) -> Dataset:
    return dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)


def _held_out(dataset: Dataset, indexes: Path | None) -> dict[str, pa.LargeStringArray]:
    """The keys of all clips that are stored in the splits that are never trained on, by split."""
    keys = {}
    for split in dataset.splits():
        if split not in TRAINING_SPLITS:
            folders = [dataset.audio_folder(split, spec) for spec in dataset.audio_specs(split)]
            stored = [open_index(folder, "audio", indexes).key for folder in folders]
            keys[split] = pa.concat_arrays([pa.array([], pa.large_string()), *stored])
    return keys
