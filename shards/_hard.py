"""Labels from people for the clips of one split, in flat columns: millions of rows stay some hundred MB."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import Event, audioset_strong_456, audioset_weak_527, one_chunk, read_hard
from shards._dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Rows of varying length in flat columns: row i is cells [bounds[i], bounds[i + 1]); absent where not known[i]."""

    known: npt.NDArray[np.bool_]
    bounds: npt.NDArray[np.int32]
    mid_code: npt.NDArray[np.int32]
    mids: tuple[str, ...]

    def cells(self, row: int) -> slice:
        return slice(int(self.bounds[row]), int(self.bounds[row + 1]))

    @property
    def all_cells(self) -> slice:
        return slice(int(self.bounds[0]), int(self.bounds[-1]))


@dataclass(frozen=True, kw_only=True)
class HardRows:
    """Weak MIDs and events of clips 0..n-1.

    weak_classes and strong_classes are those that people could choose from; any other class is absent, not negative.
    """

    weak: Ragged
    strong: Ragged
    onset_ms: npt.NDArray[np.int32]
    offset_ms: npt.NDArray[np.int32]
    weak_classes: frozenset[str]
    strong_classes: frozenset[str]

    def weak_mids(self, clip: int) -> list[str] | None:
        """The MIDs of a clip, None where nobody labelled it."""
        if not self.weak.known[clip]:
            return None
        return [self.weak.mids[code] for code in self.weak.mid_code[self.weak.cells(clip)]]

    def events(self, clip: int) -> list[Event] | None:
        """The events of a clip, None where nobody listened for them."""
        if not self.strong.known[clip]:
            return None
        cells = self.strong.cells(clip)
        mids = [self.strong.mids[code] for code in self.strong.mid_code[cells]]
        return list(map(Event, self.onset_ms[cells].tolist(), self.offset_ms[cells].tolist(), mids))

    def content(self) -> Iterator[bytes]:
        """Bytes to be hashed: the same exactly for the same labels of the same rows out of the same classes."""
        for rows, classes in ((self.weak, self.weak_classes), (self.strong, self.strong_classes)):
            yield " ".join([*rows.mids, "of", *sorted(classes)]).encode()
            columns = (np.packbits(rows.known), np.diff(rows.bounds), rows.mid_code[rows.all_cells])
            yield from (column.tobytes() for column in columns)
        yield self.onset_ms[self.strong.all_cells].tobytes()
        yield self.offset_ms[self.strong.all_cells].tobytes()


def join_hard(dataset: Dataset, split: str, keys: Sequence[str]) -> HardRows:
    """The hard labels of `keys` in a split, in their order; clips without a row are not annotated.

    What people could choose from: AudioSet's own lists (527 weak, 456 strong) for a dataset of AudioSet keys; of other
    corpora nobody says, so there it is the classes that occur in the split.
    """
    part = HardPart(table=read_hard(dataset.hard_path(split)), keys=pa.array(keys, pa.string()))
    return hard_rows(dataset, [part])


@dataclass(frozen=True, kw_only=True)
class HardPart:
    """A table of HARD_SCHEMA, and the keys of which it is to give the labels."""

    table: pa.Table
    keys: pa.Array

    def rows(self) -> pa.Table:
        """A row for each of `keys`, of nulls where the table has none."""
        key, asked = one_chunk(self.table.column("key")), self.keys.cast(pa.string())
        if asked.equals(key):
            return self.table
        return self.table.take(pc.index_in(asked, value_set=key))


def hard_rows(dataset: Dataset, parts: Sequence[HardPart], order: npt.NDArray[np.int64] | None = None) -> HardRows:
    """The hard labels of the keys of all parts, one part after the other, or of these in `order`.

    People could choose from what they could in any of the parts.
    """
    rows = pa.concat_tables(part.rows() for part in parts)
    if order is not None and len(parts) > 1:
        rows = rows.take(pa.array(order))
    rows = rows.combine_chunks()
    weak, events = one_chunk(rows.column("weak_mids")), one_chunk(rows.column("events"))
    each = events.values
    annotated = pc.fill_null(one_chunk(rows.column("strong_annotated")), False)
    tables = [part.table for part in parts]
    audioset = dataset.keys == "audioset"
    return HardRows(
        weak=_ragged(weak, weak.values, weak.is_valid()),
        strong=_ragged(events, each.field("mid"), annotated),
        onset_ms=each.field("onset_ms").to_numpy(),
        offset_ms=each.field("offset_ms").to_numpy(),
        weak_classes=occurring(tables, "weak_mids") | frozenset(audioset_weak_527().mids if audioset else ()),
        strong_classes=occurring(tables, "events") | frozenset(audioset_strong_456().mids if audioset else ()),
    )


def occurring(tables: Sequence[pa.Table], column: str) -> frozenset[str]:
    """The MIDs in `weak_mids` or `events` of tables of HARD_SCHEMA."""
    return frozenset(mid for table in tables for mid in pc.unique(_mids(table, column)).to_pylist())


def keys_with_classes(table: pa.Table, classes: Collection[str]) -> pa.Array:
    """The keys of a table of HARD_SCHEMA whose labels, weak or strong, have one of these MIDs; some perhaps twice."""
    wanted = pa.array(sorted(classes), pa.string())
    found = []
    for column in ("weak_mids", "events"):
        clip = pc.list_parent_indices(table.column(column))
        found += clip.filter(pc.is_in(_mids(table, column), value_set=wanted)).chunks
    clips = pa.concat_arrays([pa.array([], pa.int64()), *(chunk.cast(pa.int64()) for chunk in found)])
    return one_chunk(table.column("key").take(clips))


def _mids(table: pa.Table, column: str) -> pa.ChunkedArray:
    each = pc.list_flatten(table.column(column))
    return pc.struct_field(each, "mid") if column == "events" else each


def _ragged(lists: pa.ListArray, mids: pa.StringArray, known: pa.BooleanArray) -> Ragged:
    coded = mids.dictionary_encode()
    return Ragged(
        known=known.to_numpy(zero_copy_only=False),
        bounds=lists.offsets.to_numpy(),
        mid_code=coded.indices.to_numpy(),
        mids=tuple(coded.dictionary.to_pylist()),
    )
