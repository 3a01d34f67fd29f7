"""The sidecars of one folder as columns: a million clips in 200 MB, joined by key without a Python object a clip."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import ACOUSTIC_BYTES, AudioSpec, FormatError, TargetSpec
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._sidecar_parse import is_sidecar_name
from shards._store import Entry
from shards.checks._verify_problem import Problem, detail_of

KEYS = pa.large_string()
Rows = npt.NDArray[np.int64]
_BOUND_BYTES = 16 + 4  # identity and samples
# The fingerprint is made of float32 levels, which another machine may round otherwise: that flips a bit of 504 in one
# clip out of a hundred at most.
_ACOUSTIC_TOLERANCE_BITS = 4

ReadSidecar = Callable[[Path], AudioSidecar] | Callable[[Path], LabelSidecar]
# Applies a function to items, in their order; how many at once is the caller's choice.
InOrder = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a sidecar says of its shard as a whole; `target` is None for audio."""

    path: Path
    number: int
    spec: AudioSpec
    codec: str
    target: TargetSpec | None
    fingerprint: str
    manifest_sha256: str | None
    rejected: tuple[str, ...]
    tar_bytes: int
    clips: int


@dataclass(kw_only=True)
class Columns:
    """One folder of shards. `keys` [rows], `shard` int32 [rows] (place in `heads`) and `bound` uint8 [rows, bytes].

    bound: what ties a label to audio, being identity, samples and acoustic fingerprint. broken: numbers of shards that
    are damaged or missing. lost: keys that those held, None if nobody knows. strange: keys that the manifest has not.
    """

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)
    spec_name: str = ""
    heads: list[Head] = field(default_factory=list)
    keys: pa.Array = field(default_factory=lambda: pa.array([], KEYS))
    shard: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    bound: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, _BOUND_BYTES + ACOUSTIC_BYTES), np.uint8))
    broken: set[int] = field(default_factory=set)
    lost: pa.Array | None = field(default_factory=lambda: pa.array([], KEYS))
    strange: pa.Array = field(default_factory=lambda: pa.array([], KEYS))
    problems: list[Problem] = field(default_factory=list)

    def key(self, row: int) -> str:
        return str(self.keys[row].as_py())

    def keys_of(self, shard: int) -> list[str]:
        """Keys of the shard at place `shard` of `heads`, in order."""
        low, high = np.searchsorted(self.shard, [shard, shard + 1]).tolist()
        return [str(key) for key in self.keys.slice(low, high - low).to_pylist()]


def read_columns(
    folder: Path, entries: Mapping[str, Entry], read: ReadSidecar, in_order: InOrder, done: Callable[[int], None]
) -> Columns:
    """Read all sidecars of `folder`, calling done(clips) after each; what cannot be read is among the problems."""
    columns = Columns(path=folder, entries=entries)
    names = [name for name in columns.entries if is_sidecar_name(name)]
    paths = []
    for name in names:
        if columns.entries[name].kind == "file":
            paths.append(folder / name)
        else:
            columns.broken.add(int(name[:6]))
            columns.problems.append(Problem(folder / name, None, "sidecar", columns.entries[name].needed))

    def reduced(path: Path) -> "_Part | Problem":
        try:
            return _part(read(path))
        except FormatError as error:
            return Problem(path, None, "sidecar", detail_of(error, path))

    parts: list[_Part] = []
    targets: dict[TargetSpec, TargetSpec] = {}
    for path, part in zip(paths, in_order(reduced, paths), strict=True):
        if isinstance(part, Problem):
            columns.broken.add(int(path.stem))
            columns.problems.append(part)
            done(0)
            continue
        if part.target is not None:  # a vocabulary a shard would be most of the memory
            part.target = targets.setdefault(part.target, part.target)
        parts.append(part)
        done(len(part.keys))
    return _with_rows(columns, parts)


def most_common(values: Iterable[Any]) -> Any:
    """The value most of them have, the first of equals; None of none."""
    return next((value for value, _ in Counter(values).most_common(1)), None)


def repeated_rows(keys: pa.Array) -> list[tuple[int, int]]:
    """(row, first row of the same key) for every row whose key stands in an earlier one."""
    encoded = keys.dictionary_encode()
    code = encoded.indices.to_numpy(zero_copy_only=False)
    if len(encoded.dictionary) == len(keys):
        return []
    first = np.full(len(encoded.dictionary), len(keys), np.int64)
    np.minimum.at(first, code, np.arange(len(keys)))
    rows = np.flatnonzero(first[code] != np.arange(len(keys)))
    return [(int(row), int(first[code[row]])) for row in rows]


def rows_by_shard(columns: Columns, rows: Rows) -> Iterator[tuple[int, list[int]]]:
    """Rows, given in order, grouped by the place of their shard."""
    places, starts = np.unique(columns.shard[rows], return_index=True)
    for place, group in zip(places.tolist(), np.split(rows, starts[1:]), strict=False):
        yield place, group.tolist()


def rows_of(keys: pa.Array, among: pa.Array) -> Rows:
    """For each key its first row in `among`, -1 without one."""
    found = pc.fill_null(pc.index_in(keys, value_set=among), -1)
    rows: Rows = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return rows


def bound_elsewhere(stated: npt.NDArray[np.uint8], stored: npt.NDArray[np.uint8]) -> Rows:
    """Rows whose identity, samples or acoustic fingerprint differ; arrays are `Columns.bound` of the same keys."""
    rows = np.flatnonzero((stated != stored).any(axis=1))
    a, b = stated[rows], stored[rows]
    exact = _BOUND_BYTES + 1  # the fingerprint begins with a number of frames
    other = (a[:, :exact] != b[:, :exact]).any(axis=1)
    flipped = np.unpackbits(a[:, exact:] ^ b[:, exact:], axis=1).sum(axis=1)
    differ: Rows = rows[other | (flipped > _ACOUSTIC_TOLERANCE_BITS)]
    return differ


def acoustic_agrees(stated: bytes, made: bytes) -> bool:
    """Whether two acoustic fingerprints of one PCM can differ by rounding alone."""
    flipped = int.from_bytes(stated, "big") ^ int.from_bytes(made, "big")
    return stated[0] == made[0] and flipped.bit_count() <= _ACOUSTIC_TOLERANCE_BITS


@dataclass(kw_only=True)
class _Part:
    """One sidecar, reduced."""

    keys: pa.Array
    bound: npt.NDArray[np.uint8]
    target: TargetSpec | None
    head: dict[str, Any]


def _part(sidecar: AudioSidecar | LabelSidecar) -> _Part:
    clips = sidecar.clips
    identity = np.frombuffer(bytes.fromhex("".join(clips.identity)), np.uint8).reshape(-1, 16)
    samples = np.array(clips.samples, "<u4").view(np.uint8).reshape(-1, 4)
    acoustic = np.frombuffer(bytes.fromhex("".join(clips.acoustic)), np.uint8).reshape(-1, ACOUSTIC_BYTES)
    manifest = sidecar.provenance.get("manifest_sha256")
    head = {
        "path": sidecar.path,
        "number": sidecar.shard,
        "spec": sidecar.spec,
        "codec": sidecar.codec,
        "fingerprint": sidecar.fingerprint,
        "manifest_sha256": None if manifest is None else str(manifest),
        "rejected": sidecar.rejected.key if isinstance(sidecar, AudioSidecar) else (),
        "tar_bytes": sidecar.tar_bytes,
        "clips": len(clips),
    }
    return _Part(
        keys=pa.array(clips.key, KEYS),
        bound=np.hstack([identity, samples, acoustic]),
        target=sidecar.target if isinstance(sidecar, LabelSidecar) else None,
        head=head,
    )


def _with_rows(columns: Columns, parts: Sequence[_Part]) -> Columns:
    columns.heads = [Head(**part.head, target=part.target) for part in parts]
    if parts:
        columns.keys = pa.concat_arrays([part.keys for part in parts])
        columns.bound = np.concatenate([part.bound for part in parts])
        columns.shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.keys) for part in parts])
    return columns


def without(columns: Columns, numbers: set[int]) -> Columns:
    """The same folder, without the rows and heads of the shards `numbers`, which count as broken."""
    if not numbers:
        return columns
    keep = [place for place, head in enumerate(columns.heads) if head.number not in numbers]
    rows = np.isin(columns.shard, keep)
    place_of = np.full(len(columns.heads), -1, np.int32)
    place_of[keep] = np.arange(len(keep), dtype=np.int32)
    return Columns(
        path=columns.path,
        entries=columns.entries,
        heads=[columns.heads[place] for place in keep],
        keys=columns.keys.filter(pa.array(rows)),
        shard=place_of[columns.shard[rows]],
        bound=columns.bound[rows],
        broken=columns.broken | numbers,
        problems=columns.problems,
    )
