"""Published top-k labels of chunks: CED's HDF5 with its parquet index, and SAT's parquet.

Both name the k classes that a teacher finds likeliest in each chunk of a clip and say nothing of the rest. What is not
said is not zero, so whoever imports says how the rest is filled, and the label set's provenance keeps it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import FormatError, TargetSpec, UsageError, audioset_weak_527
from shards._failures import LabelRefused
from shards.foreign._hdf5 import ForeignHdf5
from shards.foreign._names import NameMatcher
from shards.foreign._parquet import chunk_batches, numbers

TAIL_RULES = ("zero", "last-mean", "last-half", "constant=P")

_CLASSES = 527
_MAX_K = 128


@dataclass(frozen=True)
class Tail:
    """What the classes outside of the top k are taken to be, from the smallest probability among the k.

    zero: 0. last-mean: smallest / (527 - k), as if the classes left shared it. last-half: smallest / 2, the middle of
    what is possible. constant=P: P, at most the smallest. The true value lies between 0 and the smallest in any case.
    """

    rule: str

    def __post_init__(self) -> None:
        if self.rule == "absent":
            raise UsageError(
                "--tail absent: a label has a value for every class, so classes the file is silent about cannot be "
                "left out; say what they are taken to be: --tail last-half is at most half the smallest one off"
            )
        if self.rule not in TAIL_RULES[:-1] and self._constant is None:
            raise UsageError(f"--tail is {self.rule!r}, needs one of {', '.join(TAIL_RULES)} with P from 0 to 1")

    def fill(self, smallest: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.float32]:
        """Float32 [n] smallest probabilities of n top-k lists -> what the other classes get, float32 [n]."""
        filled: npt.NDArray[np.float32]
        if self.rule == "zero":
            filled = np.zeros_like(smallest)
        elif self.rule == "last-mean":
            filled = smallest / np.float32(_CLASSES - k)
        elif self.rule == "last-half":
            filled = smallest / np.float32(2)
        else:
            filled = np.minimum(smallest, np.float32(self._constant))
        return filled

    @property
    def _constant(self) -> float | None:
        name, _, text = self.rule.partition("=")
        try:
            value = float(text)
        except ValueError:
            return None
        return value if name == "constant" and 0 <= value <= 1 else None


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of a file, as far as they belong to a clip. `code`: of the clip's key; `chunk`: number of the chunk."""

    code: npt.NDArray[np.int32]
    chunk: npt.NDArray[np.int32]
    values: npt.NDArray[np.floating[Any]]
    classes: npt.NDArray[np.int16]


class TopKLabels:
    """The label of a clip out of the top-k lists of its chunks.

    A chunk as long as a clip, or longer, makes axes ("class",); a shorter one ("class", "time") with hop and context of
    a chunk and ceil(clip / chunk) frames.
    """

    def __init__(self, rows: Sequence[_Rows], keys: Sequence[str], *, chunk_ms: int, clip_ms: int, tail: Tail) -> None:
        frames = -(-clip_ms // chunk_ms)
        has_time = frames > 1
        self.target = TargetSpec(
            axes=("class", "time") if has_time else ("class",),
            kind="probability",
            vocabulary=audioset_weak_527(),
            context_ms=chunk_ms,
            hop_ms=chunk_ms if has_time else None,
            frames=frames if has_time else None,
        )
        self._frames, self._tail, self._chunk_ms = frames, tail, chunk_ms
        code, chunk = (np.concatenate([getattr(part, name) for part in rows]) for name in ("code", "chunk"))
        order = np.lexsort((chunk, code))
        self._chunk = chunk[order]
        self._values = np.concatenate([part.values for part in rows])[order]
        self._classes = np.concatenate([part.classes for part in rows])[order]
        bounds = np.searchsorted(code[order], np.arange(len(keys) + 1))
        self._rows_of = {key: slice(int(bounds[i]), int(bounds[i + 1])) for i, key in enumerate(keys)}
        self.order = {key: i for i, key in enumerate(keys)}
        self._check_repeated(code[order], keys)

    @property
    def k(self) -> int:
        return int(self._values.shape[1])

    def read(self, key: str, samples: int, sample_rate: int) -> npt.NDArray[np.float32]:
        """Float32 of target.shape. Raises LabelRefused where a chunk that stands on audio has no row, or for NaN."""
        rows = self._rows_of[key]
        values = self._values[rows].astype(np.float32)
        chunks = self._chunk[rows]
        needed = min(self._frames, -(-samples * 1000 // (sample_rate * self._chunk_ms)))
        missing = sorted(set(range(needed)) - set(chunks.tolist()))
        if missing:
            raise LabelRefused(
                "absent", f"the file has no row for chunk {missing[0]} of {needed} ({self._chunk_ms} ms each)"
            )
        if not np.isfinite(values).all():
            raise LabelRefused("not_finite", "the file has NaN or infinity among the probabilities")
        label = np.zeros((_CLASSES, self._frames), np.float32)  # chunks behind the audio stay zero; nothing reads them
        filled = self._tail.fill(values.min(axis=1), self.k)
        for row, chunk in enumerate(chunks.tolist()):
            if chunk < self._frames:
                label[:, chunk] = filled[row]
                label[self._classes[rows][row], chunk] = values[row]
        return label.reshape(self.target.shape)

    def close(self) -> None:
        """Nothing is open: what belongs to the clips is in memory, at most 4 k bytes a chunk and list."""

    def _check_repeated(self, code: npt.NDArray[np.int32], keys: Sequence[str]) -> None:
        twice = np.flatnonzero((code[1:] == code[:-1]) & (self._chunk[1:] == self._chunk[:-1]))
        if len(twice):
            raise FormatError(
                f"clip {keys[code[twice[0]]]} has two rows for chunk {self._chunk[twice[0]]}, needs one; "
                "give the files of one epoch only, without repeated clips"
            )


def open_ced(
    files: Sequence[Path],
    indexes: Sequence[Path],
    matcher: NameMatcher,
    *,
    chunk_ms: int,
    clip_ms: int,
    tail: Tail,
    augmented: bool,
) -> TopKLabels:
    """CED: `topk_values` float16 [N, k], `topk_indexes` int16 [N, k], and a parquet of the N file names and times.

    One HDF5 and one parquet for each process that wrote; all of one epoch. `seeds` int32 [N] beside them says that
    every row was made on a view of the clip, shifted and masked at random: refused unless `augmented`.
    """
    if len(files) != len(indexes):
        raise UsageError(
            f"--format ced has {len(files)} files and {len(indexes)} indexes; "
            "needs --index logits_epE_R.parquet for every --file logits_epE_R.h5, in the same order"
        )
    keys: dict[str, int] = {}
    seen: dict[str, int] = {}
    parts = []
    for path, index in zip(files, indexes, strict=True):
        with ForeignHdf5(path) as file:
            values = file.column("topk_values", dtypes=("float16", "float32"), shape=(None,))
            classes = file.column("topk_indexes", dtypes=("int16",), shape=(None,))
            if file.has("seeds") and not augmented:
                raise UsageError(
                    f"{path}: has a seed for every row: its labels are of views shifted and masked at random, which "
                    "cannot be made again from stored audio; --augmented takes them as labels of the clips all the same"
                )
            start = 0
            for names, chunks in chunk_batches(index, (), chunk_ms):
                stop = start + len(names)
                if stop > len(values) or len(values) != len(classes):
                    start = -1  # which no file has: else the end of a batch could be taken for the end of the index
                    break
                rows = _rows_of(names, chunks, matcher, keys, seen, where=str(index))
                got = rows.kept
                parts.append(rows.take(values.read(start, stop)[got], classes.read(start, stop)[got], where=str(path)))
                start = stop
        if start != len(values) or len(values) != len(classes):
            raise FormatError(
                f"{path}: has {len(values)} rows of values and {len(classes)} of classes, {index} does not have as "
                "many; give the files that were written together"
            )
    return TopKLabels(_same_k(parts), tuple(keys), chunk_ms=chunk_ms, clip_ms=clip_ms, tail=tail)


def open_sat(path: Path, matcher: NameMatcher, *, chunk_ms: int, clip_ms: int, tail: Tail) -> TopKLabels:
    """SAT and PSL: a row for each chunk with `filename`, `start` and `end` in seconds, and `prob` and `idxs` of the top
    k, either lists or texts of numbers joined by ';'."""
    keys: dict[str, int] = {}
    seen: dict[str, int] = {}
    parts = []
    for names, chunks, prob, idxs in chunk_batches(path, ("prob", "idxs"), chunk_ms):
        rows = _rows_of(names, chunks, matcher, keys, seen, where=str(path))
        values = numbers(prob.filter(pa.array(rows.kept)), pa.float32(), f"{path}: prob")
        classes = numbers(idxs.filter(pa.array(rows.kept)), pa.int16(), f"{path}: idxs")
        parts.append(rows.take(values, classes, where=str(path)))
    return TopKLabels(_same_k(parts), tuple(keys), chunk_ms=chunk_ms, clip_ms=clip_ms, tail=tail)


@dataclass(frozen=True)
class _Named:
    """`kept`: which rows of a batch are of a clip; `code` and `chunk` are of these."""

    kept: npt.NDArray[np.bool_]
    code: npt.NDArray[np.int32]
    chunk: npt.NDArray[np.int32]

    def take(self, values: npt.NDArray[Any], classes: npt.NDArray[Any], *, where: str) -> _Rows:
        if values.shape != classes.shape or not 1 <= values.shape[1] <= _MAX_K:
            raise FormatError(
                f"{where}: lists {values.shape} probabilities and {classes.shape} classes, needs as many, "
                f"1 to {_MAX_K} a row"
            )
        ordered = np.sort(classes, axis=1)
        if len(classes) and (ordered[:, 0].min() < 0 or ordered[:, -1].max() >= _CLASSES):
            raise FormatError(f"{where}: has a class outside of 0 to {_CLASSES - 1}; is it a file of --format?")
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise FormatError(f"{where}: names a class twice in one row; download the file again")
        with np.errstate(invalid="ignore"):
            outside = (values < 0) | (values > 1)
        if outside.any():
            raise FormatError(
                f"{where}: has values from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}, needs probabilities "
                "from 0 to 1; logits are not taken"
            )
        return _Rows(code=self.code, chunk=self.chunk, values=values, classes=classes.astype(np.int16))


def _rows_of(
    names: pa.Array,
    chunks: npt.NDArray[np.int32],
    matcher: NameMatcher,
    keys: dict[str, int],
    seen: dict[str, int],
    *,
    where: str,
) -> _Named:
    """Rows of a batch to clips. `seen` has the code of every name met before, -1 for those of no clip."""
    coded = names.dictionary_encode() if not pa.types.is_dictionary(names.type) else names
    codes = np.empty(len(coded.dictionary), np.int32)
    used = np.zeros(len(coded.dictionary), bool)
    used[coded.indices.to_numpy()] = True
    for place, name in enumerate(coded.dictionary.to_pylist()):
        if used[place] and name not in seen:
            key = matcher.match(name, where)
            seen[name] = -1 if key is None else keys.setdefault(key, len(keys))
        codes[place] = seen.get(name, -1)
    code = codes[coded.indices.to_numpy()]
    kept = code >= 0
    return _Named(kept, code[kept], chunks[kept])


def _same_k(parts: Sequence[_Rows]) -> list[_Rows]:
    full = [part for part in parts if len(part.code)]
    if len({part.values.shape[1] for part in full}) > 1:
        raise FormatError("the files list different numbers of classes in a row; give files that belong together")
    return full or list(parts[:1])
