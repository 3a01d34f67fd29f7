"""One audio folder against itself, its manifest, the splits before it and the hard labels of its split."""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from pipeline import FormatError
from shards._counted import counted
from shards._manifest import MANIFEST_NAME, ManifestRow, by_shard, read_manifest, rows_sha256
from shards._store import listing
from shards.checks._verify_columns import (
    KEYS,
    Columns,
    Head,
    most_common,
    repeated_rows,
    rows_by_shard,
    rows_of,
    without,
)
from shards.checks._verify_problem import Problem, bounded, detail_of, first_of, table_problem

_TAR_NAME = re.compile(r"[0-9]{6}\.tar")


def audio_problems(columns: Columns) -> tuple[Columns, list[Problem]]:
    """What is wrong with the folder as a whole, and its columns without shards that do not belong there.

    Fills in what the manifest tells of damage: `Columns.lost`, `Columns.strange`.
    """
    problems = list(_foreign_spec(columns))
    names = [head.spec.name for head in columns.heads]
    # A folder that was renamed still has its clips; in one that was not, the others' do not belong.
    spec_name = columns.path.name if columns.path.name in names else most_common(names) or columns.path.name
    columns = without(columns, {head.number for head in columns.heads if head.spec.name != spec_name})
    columns.spec_name = spec_name
    problems += _mixed_codecs(columns)
    problems += _by_manifest(columns)
    problems += repeated(columns, "stored")
    return columns, problems


def repeated(columns: Columns, what: str) -> Iterator[Problem]:
    """Every copy of a clip but the first; `what`: stored or labelled."""
    first = dict(repeated_rows(columns.keys))
    for shard, rows in rows_by_shard(columns, np.array(sorted(first), np.int64)):
        yield from bounded(
            Problem(
                columns.heads[shard].path,
                columns.key(row),
                "duplicate",
                f"is also {what} in {columns.heads[columns.shard[first[row]]].path.name}; keep one",
            )
            for row in rows
        )


def split_problems(
    columns: Columns, split: str, earlier: Mapping[str, pa.Array], hard_keys: pa.Array | None
) -> Iterator[Problem]:
    """Clips that `earlier` splits store too, and those without a row among `hard_keys` (None: cannot be known)."""
    for other, keys in earlier.items():
        detail = f"is also stored in {other}; a clip has one split"
        for shard, rows in rows_by_shard(columns, np.flatnonzero(rows_of(columns.keys, keys) >= 0)):
            path = columns.heads[shard].path
            yield from bounded(Problem(path, columns.key(row), "duplicate", detail) for row in rows)
    if hard_keys is None:
        return
    without_row = np.flatnonzero(rows_of(columns.keys, hard_keys) < 0)
    # A clip that the manifest does not have either is named there.
    without_row = without_row[rows_of(columns.keys.take(pa.array(without_row)), columns.strange) < 0]
    for shard, rows in rows_by_shard(columns, without_row):
        detail = f"{first_of(len(rows), 'clip')} without a row in hard.parquet of {split}; pack the split again"
        yield Problem(columns.heads[shard].path, columns.key(rows[0]), "no_hard", detail)


def missing_shards(columns: Columns, expected: Iterable[int]) -> Iterator[Problem]:
    """Shards that should be there. A tar without a sidecar was not finished, or its sidecar was deleted."""
    tars = {int(name[:6]) for name in columns.entries if _TAR_NAME.fullmatch(name)}
    present = {head.number for head in columns.heads} | columns.broken
    for number in sorted({*expected, *tars} - present):
        has = "has a tar but no sidecar" if number in tars else "is not there"
        detail = f"shard {has}; run the command that writes {columns.path} again"
        columns.broken.add(number)
        yield Problem(columns.path / f"{number:06d}.json", None, "incomplete", detail)


def _foreign_spec(columns: Columns) -> Iterator[Problem]:
    names = {head.spec.name for head in columns.heads}
    # Beside a folder of that name, it is the shards that are misplaced.
    if len(names) == 1 and names.isdisjoint(listing(columns.path.parent)):
        (name,) = names
        detail = f"is named {columns.path.name}, its shards are of {name}; rename the folder to {name}"
        yield Problem(columns.path, None, "sidecar", detail)
        return
    for head in columns.heads:
        if head.spec.name != columns.path.name:
            detail = f"is of {head.spec.name}; move it and its tar where they belong"
            yield Problem(head.path, None, "sidecar", detail)


def _mixed_codecs(columns: Columns) -> Iterator[Problem]:
    codec = most_common(head.codec for head in columns.heads)
    for head in columns.heads:
        if head.codec != codec:
            detail = f"is stored as {head.codec}, most of its folder as {codec}; transcode the dataset into one codec"
            yield Problem(head.path, None, "mixed", detail)


def _by_manifest(columns: Columns) -> Iterator[Problem]:
    path = columns.path / MANIFEST_NAME
    numbers = [head.number for head in columns.heads]
    if MANIFEST_NAME not in columns.entries:
        # Hand-made shards need none; packed ones were made from one, and without it a lost last shard is not missed.
        if any(head.manifest_sha256 is not None for head in columns.heads):
            yield Problem(path, None, "manifest", "is missing; restore it or pack the split again")
        yield from missing_shards(columns, range(max(numbers, default=-1) + 1))
        if not numbers and not columns.broken:
            yield Problem(columns.path, None, "incomplete", "has no shards; pack the split, or remove the folder")
        columns.lost = None if columns.broken else columns.lost
        return
    problem = table_problem(path, "manifest")
    try:
        wanted = {} if problem else by_shard(read_manifest(path))
    except FormatError as error:
        problem = Problem(path, None, "manifest", detail_of(error, path))
    if problem:
        yield problem
        yield from missing_shards(columns, ())
        columns.lost = None if columns.broken else columns.lost
        return
    yield from missing_shards(columns, wanted)
    lost: set[str] = set()
    strange: set[str] = set()
    for number in columns.broken:
        lost.update(row.key for row in wanted.get(number, ()))
    for place, head in enumerate(columns.heads):
        yield from _accounting(head, columns.keys_of(place), wanted.get(head.number, ()), lost, strange)
    columns.lost = pa.array(sorted(lost), KEYS)
    columns.strange = pa.array(sorted(strange), KEYS)


def _accounting(
    head: Head, stored: list[str], rows: tuple[ManifestRow, ...], lost: set[str], strange: set[str]
) -> Iterator[Problem]:
    """Every clip that the manifest wants in this shard is stored or rejected, and no other, from what it names."""
    wanted = {row.key for row in rows}
    accounted = {*stored, *head.rejected}
    absent, more = wanted - accounted, accounted - wanted
    if absent or more:
        lost |= absent
        strange |= more
        counts = ((absent, "neither stored nor rejected"), (more, "not in the manifest"))
        said = " and ".join(f"{counted(len(keys), 'clip')} {what}" for keys, what in counts if keys)
        yield Problem(head.path, min(absent or more), "manifest", f"has {said}, this one first; write the shard again")
    elif head.manifest_sha256 not in (None, rows_sha256(rows)):
        yield Problem(head.path, None, "manifest", "was packed from other rows than the manifest has; restore it")
