"""Every clip of a split once, for evaluation."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, ClassMap, Grid, UsageError, Vocabulary
from shards._dataset import Dataset
from shards.loader._batch import Batch
from shards.loader._cache import ShardCache
from shards.loader._kinds import check_each, check_whole
from shards.loader._making import Feed, Maker, Making
from shards.loader._metrics import Meter
from shards.loader._ring import check_ahead, in_order
from shards.loader.join._join import join
from shards.loader.join._training import opened
from shards.loader.targets._options import HARD_TARGETS, Average, TargetOptions


def evaluation_batches(
    dataset: Dataset | Path | str,
    split: str,
    batch_size: int,
    *,
    vocabulary: Vocabulary | ClassMap,
    labels: Sequence[str | Average] = (),
    audio: str = AudioSpec().name,
    workers: int = 2,
    prefetch: int = 2,
    temperature: float = 1.0,
    grid: Grid | None = None,
    hard: tuple[str, ...] = HARD_TARGETS,
    cache: ShardCache | None = None,
) -> Iterator[Batch]:
    """Every clip of any split once, in key order, the last batch short.

    Nothing is replaced here: a damaged clip raises IntegrityError or FormatError, as a figure has to be over all clips.
    """
    check_whole(batch_size=batch_size, workers=workers, prefetch=prefetch)
    check_each("labels", labels, (str, Average), "names of label sets, or Average")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; needs 1 or more")
    check_ahead(workers, prefetch)
    indexes = None if cache is None else cache.indexes
    source = join(opened(dataset), split, name=split, audio=audio, labels=labels, indexes=indexes)
    options = TargetOptions(vocabulary=vocabulary, temperature=temperature, grid=grid, hard=hard)
    feed = Feed(source=source, order=_KeyOrder(), stride=0)
    maker = Maker([feed], options, batch_size=batch_size, ahead=prefetch, cache=cache)
    portions = (range(first, min(first + batch_size, len(source))) for first in range(0, len(source), batch_size))
    makings = in_order((maker.begin([portion]) for portion in portions), workers, prefetch, Meter([split]))
    return _finished(makings)


def _finished(makings: Generator[Making, None, None]) -> Iterator[Batch]:
    with closing(makings):
        yield from map(_batch, makings)  # no variable here keeps a batch's memory


def _batch(making: Making) -> Batch:
    return cast(Batch, making.batch())


class _KeyOrder:
    def clips(self, draws: range) -> npt.NDArray[np.int64]:
        return np.arange(draws.start, draws.stop, draws.step)
