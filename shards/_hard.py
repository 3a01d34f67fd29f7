"""Labels from people for the clips of one split, in flat columns: millions of rows stay some hundred MB."""

from collections.abc import Sequence
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


def join_hard(dataset: Dataset, split: str, keys: Sequence[str]) -> HardRows:
    """The hard labels of `keys`, in their order; clips without a row are not annotated.

    What people could choose from: AudioSet's own lists (527 weak, 456 strong) for a dataset of AudioSet keys; of other
    corpora nobody says, so there it is the classes that occur in the split.
    """
    table = read_hard(dataset.hard_path(split))
    key = one_chunk(table.column("key"))
    rows = table.take(pc.index_in(pa.array(keys, pa.string()), value_set=key))
    weak = one_chunk(rows.column("weak_mids"))
    events = one_chunk(rows.column("events"))
    each = events.values
    annotated = pc.fill_null(one_chunk(rows.column("strong_annotated")), False)
    audioset = dataset.keys == "audioset"
    return HardRows(
        weak=_ragged(weak, weak.values, weak.is_valid()),
        strong=_ragged(events, each.field("mid"), annotated),
        onset_ms=each.field("onset_ms").to_numpy(),
        offset_ms=each.field("offset_ms").to_numpy(),
        weak_classes=_occurring(table, "weak_mids") | frozenset(audioset_weak_527().mids if audioset else ()),
        strong_classes=_occurring(table, "events") | frozenset(audioset_strong_456().mids if audioset else ()),
    )


def _ragged(lists: pa.ListArray, mids: pa.StringArray, known: pa.BooleanArray) -> Ragged:
    coded = mids.dictionary_encode()
    return Ragged(
        known=known.to_numpy(zero_copy_only=False),
        bounds=lists.offsets.to_numpy(),
        mid_code=coded.indices.to_numpy(),
        mids=tuple(coded.dictionary.to_pylist()),
    )


def _occurring(table: pa.Table, column: str) -> frozenset[str]:
    each = pc.list_flatten(table.column(column))
    return frozenset(pc.unique(pc.struct_field(each, "mid") if column == "events" else each).to_pylist())
