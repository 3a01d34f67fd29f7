"""The AudioSet class lists as one table carried along (nothing needs the network), and projection between vocabularies.

Classes are identified and joined by MID, never by name: 12 MIDs carry different names in the weak and the strong list.

Attribution: MIDs, names and order are AudioSet's `class_labels_indices.csv` and `mid_to_display_name.tsv`
(Google, https://research.google.com/audioset/, CC BY 4.0), joined in `tables/audioset_classes.csv`.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from pipeline._errors import MetadataError
from pipeline._specs import Vocabulary

# Strong classes without an event in the strong training list, hence without a column in published models and labels.
_NOT_TRAINED = frozenset(
    {
        "Heart murmur",
        "Outside, rural or natural",
        "Silence",
        "Source-ambiguous sounds",
        "Specific impact sounds",
        "Studio recording",
        "Throbbing",
        "Unmodified field recording",
        "Vibration",
    }
)


@lru_cache(maxsize=1)
def audioset_weak_527() -> Vocabulary:
    """The 527 clip-level classes under their weak names, in the order of `class_labels_indices.csv`."""
    rows = sorted((row for row in _table() if row.weak_index is not None), key=lambda row: row.weak_index or 0)
    return Vocabulary(tuple(row.mid for row in rows), tuple(row.weak_name for row in rows))


@lru_cache(maxsize=1)
def audioset_strong_456() -> Vocabulary:
    """The 456 frame-level classes under their strong names, sorted by MID as `mid_to_display_name.tsv` is."""
    rows = sorted((row for row in _table() if row.strong_name), key=lambda row: row.mid)
    return Vocabulary(tuple(row.mid for row in rows), tuple(row.strong_name for row in rows))


@lru_cache(maxsize=1)
def audioset_strong_447() -> Vocabulary:
    """The 447 classes of published frame-level models and label files: names of the strong list sorted by code point.

    They are the classes that occur in `audioset_train_strong.tsv`; this order is the order of the columns.
    """
    rows = sorted((row for row in _table() if row.strong_name), key=lambda row: row.strong_name)
    trained = [row for row in rows if row.strong_name not in _NOT_TRAINED]
    return Vocabulary(tuple(row.mid for row in trained), tuple(row.strong_name for row in trained))


@lru_cache(maxsize=1)
def audioset_mids() -> frozenset[str]:
    """Every MID of either list: 601 classes."""
    return frozenset(row.mid for row in _table())


def class_name(mid: str) -> str:
    """A name to show: the strong name, else the weak one, else the MID itself. Never a key to join by."""
    return _names().get(mid, mid)


@lru_cache(maxsize=64)
def projection(source: Vocabulary, target: Vocabulary, *, strict: bool = False) -> npt.NDArray[np.int64]:
    """For each class of `target` its column in `source`, -1 where `source` lacks it: int64 [len(target)], read-only.

    Raises MetadataError naming the missing classes if `strict` and any is -1.
    """
    column_of = source.index()
    columns = np.array([column_of.get(mid, -1) for mid in target.mids], dtype=np.int64)
    if strict and (columns < 0).any():
        missing = [f"{target.names[i]} ({target.mids[i]})" for i in np.flatnonzero(columns < 0)]
        shown = "; ".join(missing[:10]) + (f"; and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise MetadataError(
            f"vocabulary of {len(source)} classes lacks {len(missing)} of the {len(target)} needed: {shown}; "
            "use labels that have these classes, or a vocabulary without them"
        )
    columns.setflags(write=False)
    return columns


@dataclass(frozen=True, kw_only=True)
class _Class:
    mid: str
    weak_index: int | None
    weak_name: str
    strong_name: str


@lru_cache(maxsize=1)
def _table() -> tuple[_Class, ...]:
    text = files("pipeline").joinpath("tables/audioset_classes.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        _Class(
            mid=row["mid"],
            weak_index=int(row["weak_index"]) if row["weak_index"] else None,
            weak_name=row["weak_name"],
            strong_name=row["strong_name"],
        )
        for row in rows
    )


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    return {row.mid: row.strong_name or row.weak_name for row in _table()}
