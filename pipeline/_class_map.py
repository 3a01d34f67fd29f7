"""Many to one between vocabularies: the classes of a student, and for each the classes of the labels that mean it.

`projection` takes one class for one. A student of DESED's 10 classes learns "Dog" from whatever the labels have of
dogs: bark, howl, yip. Which those are is the ontology's to say, or the caller's.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline._errors import UsageError
from pipeline._ontology import descendants, ontology_mids
from pipeline._specs import Vocabulary
from pipeline._vocabulary import audioset_mids, class_name

MapRule = Literal["max", "noisy_or"]


@dataclass(frozen=True)
class ClassMap:
    """The classes of a student; class i is meant by any of the classes members[i] of a label.

    rule: what a probability of class i is made of. "max": the highest of its members', right where they are kinds of
        each other (a bark is a dog). "noisy_or": 1 - prod(1 - p), right where they are independent.
    """

    vocabulary: Vocabulary
    members: tuple[tuple[str, ...], ...]
    rule: MapRule = "max"

    def __post_init__(self) -> None:
        if self.rule not in get_args(MapRule):
            raise UsageError(f"rule of a class map is {self.rule!r}, needs one of {', '.join(get_args(MapRule))}")
        if len(self.members) != len(self.vocabulary):
            raise UsageError(
                f"class map has {len(self.vocabulary)} classes, members of {len(self.members)}; give each class its own"
            )
        for name, mids in zip(self.vocabulary.names, self.members, strict=True):
            if isinstance(mids, str) or not mids or len(set(mids)) != len(mids):
                raise UsageError(f"members of class {name} are {mids!r}; needs a tuple of different MIDs, at least one")

    @staticmethod
    def one_to_one(vocabulary: Vocabulary) -> "ClassMap":
        """Every class means itself: what `projection` does."""
        return ClassMap(vocabulary, tuple((mid,) for mid in vocabulary.mids))

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def sha256(self) -> str:
        """Hash of classes, members and rule: two maps make the same of every label when this is the same."""
        rows = [" ".join([mid, *sorted(mids)]) for mid, mids in zip(self.vocabulary.mids, self.members, strict=True)]
        return hashlib.sha256("\n".join([self.rule, *rows]).encode()).hexdigest()

    def columns(self, source: Vocabulary) -> "ClassColumns":
        """Where a label over `source` has the members of each class."""
        return _columns(self, source)

    def classes_of(self) -> dict[str, tuple[int, ...]]:
        """MID -> the classes that it means, by number, ascending. A MID may mean several classes."""
        found: dict[str, list[int]] = {}
        for number, mids in enumerate(self.members):
            for mid in mids:
                found.setdefault(mid, []).append(number)
        return {mid: tuple(numbers) for mid, numbers in found.items()}

    def known(self, chosen_from: Collection[str]) -> npt.NDArray[np.bool_]:
        """Classes of which people who chose from these MIDs could say something: bool [classes].

        A hard label is positive for a class if one of its members was chosen, negative if none was and the class is
        known, else absent.
        """
        chosen = frozenset(chosen_from)
        return np.array([not chosen.isdisjoint(mids) for mids in self.members], dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class ClassColumns:
    """Class i of a map is made of columns[bounds[i] : bounds[i + 1]] of a label, ascending; of none, it is absent.

    bounds: int64 [classes + 1], columns: int64, both read-only.
    """

    bounds: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    rule: MapRule

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Classes of which the label says something: bool [classes]."""
        return np.diff(self.bounds) > 0

    def single(self) -> npt.NDArray[np.int64] | None:
        """For each class its only column, -1 where it is absent, as `projection` gives it: int64 [classes].

        None if a class has several.
        """
        counts = np.diff(self.bounds)
        if (counts > 1).any():
            return None
        single = np.full(len(counts), -1, dtype=np.int64)
        single[counts == 1] = self.columns
        return single


def class_map(
    classes: Mapping[str, Collection[str]],
    *,
    without: Mapping[str, Collection[str]] | None = None,
    rule: MapRule = "max",
) -> ClassMap:
    """A map over the ontology: each class is meant by its own id, the MIDs given for it, and all kinds of those.

    classes: id of each class, which may be an AudioSet MID, -> MIDs that mean it.
    without: id of a class -> MIDs that, with all their kinds, do not mean it after all.

    Raises UsageError for a MID that is neither in the ontology nor in AudioSet's class lists.
    """
    left_out = without or {}
    strangers = sorted(left_out.keys() - classes.keys())
    if strangers:
        raise UsageError(f"class map leaves MIDs out of {', '.join(strangers)}, which is none of its classes")
    members = []
    for own, roots in classes.items():
        kept = (_closed(own, roots) | descendants(own)) - _closed(own, left_out.get(own, ()))
        members.append(tuple(sorted(kept | {own})))
    return ClassMap(Vocabulary(tuple(classes), tuple(map(class_name, classes))), tuple(members), rule)


def project_many(values: npt.NDArray[np.float32], columns: ClassColumns, out: npt.NDArray[np.float32]) -> None:
    """Probabilities [C, ...] of a label's classes -> those of the map's classes, into `out` [classes, ...]; absent: 0.

    A class of one member takes its value bit for bit. For probabilities only: turn logits into them first. Values
    within [0, 1] stay there.
    """
    bounds = columns.bounds.tolist()
    order = columns.columns.tolist()
    rest = np.empty(out.shape[1:], dtype=np.float32)
    for number in range(len(out)):
        row = out[number, ...]  # a view also where a class has a single value
        mine = order[bounds[number] : bounds[number + 1]]
        if not mine:
            row.fill(0)
            continue
        np.copyto(row, values[mine[0]])
        for column in mine[1:]:
            if columns.rule == "max":
                np.maximum(row, values[column], out=row)
            else:
                # a or p = a + (1 - a) p: unlike 1 - (1 - a)(1 - p) this keeps small probabilities.
                np.subtract(1, row, out=rest)
                np.multiply(rest, values[column], out=rest)
                np.add(row, rest, out=row)


@lru_cache(maxsize=64)
def _columns(classes: ClassMap, source: Vocabulary) -> ClassColumns:
    column_of = source.index()
    found = [sorted(column_of[mid] for mid in mids if mid in column_of) for mids in classes.members]
    bounds = np.concatenate([[0], np.cumsum([len(columns) for columns in found])]).astype(np.int64)
    columns = np.array([column for columns in found for column in columns], dtype=np.int64)
    for array in (bounds, columns):
        array.setflags(write=False)
    return ClassColumns(bounds, columns, classes.rule)


def _closed(own: str, roots: Collection[str]) -> frozenset[str]:
    """`roots` and all that are kinds of them."""
    if isinstance(roots, str):
        raise UsageError(f"MIDs of class {own} are {roots!r}; put the one MID into a tuple")
    unknown = sorted(set(roots) - ontology_mids() - audioset_mids())
    if unknown:
        raise UsageError(f"class {own} is given {', '.join(unknown)}, which AudioSet does not have; see class_name")
    return frozenset().union(*map(descendants, roots))
