"""How sure a label set is of each clip: its highest probability. Read once out of all labels, then kept beside them."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import FormatError, IntegrityError, UsageError
from pipeline._sealed import read_sealed, write_sealed
from shards._index import IndexedShard, ShardIndex
from shards._store import is_remote
from shards.codecs._kernels import decode_label_into, label_values
from shards.loader._read import Tars

CONFIDENCE_NAME = "confidence.parquet"

_SCHEMA = pa.schema(
    [
        # Of the sidecar that the confidences are of: a shard that was written again is read again.
        pa.field("sidecar_sha256", pa.string(), nullable=False),
        pa.field("confidence", pa.list_(pa.float32()), nullable=False),
    ],
    metadata={b"sed_distill.confidence": b"1"},
)
_log = logging.getLogger(__name__)
_Confidences = npt.NDArray[np.float32]


def confidences(index: ShardIndex) -> _Confidences:
    """For each clip of a label index the highest probability of any class in any frame that stands on audio.

    float32 [clips], in its order; NaN for a clip without a label or with a damaged one. Raises UsageError for labels
    without classes.
    """
    for shard in index.shards:
        if shard.target is None or shard.target.vocabulary is None or shard.target.kind not in ("logit", "probability"):
            raise UsageError(f"{index.folder}: labels of these classes have no probability; choose another label set")
    path = index.folder / CONFIDENCE_NAME
    known: dict[str, _Confidences] = {}
    if not is_remote(path) and path.is_file():
        try:
            rows = read_sealed(path, _SCHEMA, "delete it, it is made again").to_pylist()
            known = {row["sidecar_sha256"]: np.array(row["confidence"], np.float32) for row in rows}
        except FormatError as error:
            _log.info("%s", error)
    # A seal says what was written, not that these are all clips of the shard.
    missing = [shard for shard in index.shards if len(known.get(shard.sidecar_sha256, ())) != len(shard.clips)]
    if missing:
        known.update(_read(index, missing))
        _store(index, known)
    empty = np.zeros(0, np.float32)
    return np.concatenate([empty, *(known[shard.sidecar_sha256] for shard in index.shards)])


def _read(index: ShardIndex, shards: list[IndexedShard]) -> Iterator[tuple[str, _Confidences]]:
    _log.info("%s: reading the labels of %d shards for their confidence", index.folder, len(shards))
    reader = _Reader(index)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip((shard.sidecar_sha256 for shard in shards), pool.map(reader.shard, shards), strict=True)
    if reader.damaged:
        _log.warning("%d labels cannot be read and have no confidence: %s", len(reader.damaged), reader.damaged[0])


class _Reader:
    def __init__(self, index: ShardIndex) -> None:
        self.damaged: list[str] = []
        self._tars = Tars()
        self._index = index

    def shard(self, shard: IndexedShard) -> _Confidences:
        target = shard.target
        if target is None:
            raise UsageError(f"{shard.path}: states no target")
        values = label_values(target.kind, shard.codec, what="probability")
        label = np.empty(target.shape, np.float32)
        # A view: what is decoded into `label` is seen in it, frames last.
        by_frame = np.moveaxis(label, target.axes.index("time"), -1) if "time" in target.axes else label[..., None]
        highest = np.full(len(shard.clips), np.nan, np.float32)
        for place, row in enumerate(shard.clips):
            if not self._index.length[row]:
                continue
            try:
                where = f"{shard.tar_path}: clip {self._index.key[row].as_py()}"
                decode_label_into(
                    self._member(shard, row), target.shape, target.kind, shard.codec, values, label, where
                )
            except (IntegrityError, FormatError) as error:
                self.damaged.append(str(error))
                continue
            frames = 1
            if "time" in target.axes:
                frames = target.valid_frames(int(self._index.samples[row]), shard.spec.sample_rate)
            highest[place] = by_frame[..., :frames].max()
        return highest

    def _member(self, shard: IndexedShard, row: int) -> memoryview:
        index = self._index
        place = int(index.offset[row]), int(index.length[row]), int(index.crc32c[row])
        return self._tars.read(shard, *place, str(index.key[row].as_py()))


def _store(index: ShardIndex, known: dict[str, _Confidences]) -> None:
    """Keep what is known where the folder can be written. A label that is damaged may be restored: not its shard's."""
    whole = [
        shard
        for shard in index.shards
        if not np.isnan(known[shard.sidecar_sha256][index.length[shard.clips.start : shard.clips.stop] > 0]).any()
    ]
    rows = [{"sidecar_sha256": s.sidecar_sha256, "confidence": known[s.sidecar_sha256]} for s in whole]
    try:
        if not is_remote(index.folder):
            write_sealed(
                index.folder / CONFIDENCE_NAME,
                _SCHEMA,
                [pa.Table.from_pylist(rows, schema=_SCHEMA)],
                row_group_size=1 << 10,
            )
    except OSError as error:  # read-only or full: then it serves this process alone
        _log.info("%s: confidences are not kept (%s)", index.folder, error.strerror)
