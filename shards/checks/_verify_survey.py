"""The quick pass of `verify`: every sidecar and table of a dataset, against each other; no tar is read.

A file that is damaged or gone is one problem: what follows from it (labels whose audio cannot be known, clips whose
labels cannot be) is left out, and is found once the file is back.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import FormatError, read_hard
from pipeline._keys import KEY_PATTERNS
from shards._dataset import FOLDER_NAME, RESERVED_TARGETS, Dataset, KeyMode
from shards._index import index_problem
from shards._index_file import INDEX_NAME, ShardKind
from shards._sidecar_parse import is_sidecar_name, read_audio_sidecar, read_label_sidecar
from shards._store import Entry, entry_at, file_bytes, listing
from shards.checks._verify_audio import audio_problems, split_problems
from shards.checks._verify_columns import KEYS, Columns, InOrder, read_columns, rows_by_shard
from shards.checks._verify_labels import label_problems
from shards.checks._verify_problem import Problem, detail_of, first_of, table_problem

_LIKE_A_SHARD = re.compile(r"[0-9]+\.(json|tar)")


@dataclass(frozen=True, kw_only=True)
class ShardToCheck:
    """A shard with a readable sidecar and a tar of the right size: what `check_shard` has to look into."""

    kind: ShardKind
    path: Path
    clips: int
    tar_bytes: int


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the quick pass found, and the shards of which the tars can tell more. `clips`: rows of all sidecars."""

    problems: tuple[Problem, ...]
    shards: tuple[ShardToCheck, ...]
    clips: int


def survey(
    root: str | Path, *, in_order: InOrder = map, progress: Callable[[int, int, int], None] | None = None
) -> Survey:
    """Everything that can be told from sidecars, tables and names.

    in_order: applies a function to paths, in their order. progress(done, total, clips) is called after every sidecar.
    Raises UsageError if there is no dataset at `root`, OSError if a store cannot be reached.
    """
    dataset = Dataset(root)
    mode, problems = _key_mode(dataset)
    problems += _shards_in(dataset.root)
    splits = {split: _shard_folders(dataset, split) for split in dataset.splits()}
    total = sum(map(is_sidecar_name, (name for folders in splits.values() for folder in folders for name in folder[2])))
    done = clips = 0

    def count(clips_of_shard: int) -> None:
        nonlocal done, clips
        done += 1
        clips += clips_of_shard
        if progress:
            progress(done, total, clips)

    shards: list[ShardToCheck] = []
    earlier: dict[str, pa.Array] = {}
    strangers: list[tuple[Path, str, int]] = []
    for split, folders in splits.items():
        problems += _misplaced(dataset, split)
        hard_keys, hard_problem = _hard_keys(dataset.hard_path(split))
        problems += hard_problem
        if not any(kind == "audio" for kind, _, _ in folders):
            detail = "has no audio; restore its folder, or pack the split"
            problems.append(Problem(dataset.root / split / "audio", None, "incomplete", detail))
        audio_of: dict[str, Columns] = {}
        stored = pa.array([], KEYS)
        for kind, path, entries in folders:
            read = read_audio_sidecar if kind == "audio" else read_label_sidecar
            columns = read_columns(path, entries, read, in_order, count)
            problems += columns.problems
            problems += _index_problems(path, entries, kind)
            problems += _tar_problems(columns, kind, shards)
            strangers += [] if mode is None else _strangers(columns, mode)
            if kind == "audio":
                audio, found = audio_problems(columns)
                problems += found
                problems += split_problems(audio, split, earlier, hard_keys)
                if audio.spec_name == path.name or audio.spec_name not in audio_of:
                    audio_of[audio.spec_name] = audio
                stored = pa.concat_arrays([stored, audio.keys])
            elif audio_of:
                problems += label_problems(columns, audio_of)
        earlier[split] = stored
    problems += _key_problems(dataset, mode, strangers, clips)
    return Survey(problems=tuple(problems), shards=tuple(shards), clips=clips)


def _key_mode(dataset: Dataset) -> tuple[KeyMode | None, list[Problem]]:
    """How keys are made, as far as dataset.json tells, and what is wrong with it."""
    description = dataset.root / "dataset.json"
    if not dataset.splits():
        return Dataset.open(dataset.root).keys, []
    entry = entry_at(description)
    if entry is None or entry.kind != "file":
        detail = "is missing; restore it" if entry is None else entry.needed
        return None, [Problem(description, None, "dataset", detail)]
    try:
        return dataset.keys, []
    except FormatError as error:
        return None, [Problem(description, None, "dataset", detail_of(error, description))]


def _strangers(columns: Columns, mode: KeyMode) -> Iterator[tuple[Path, str, int]]:
    """Sidecars with keys that cannot have been made in `mode`: the first of them, and how many."""
    fits = pc.match_substring_regex(columns.keys, KEY_PATTERNS[mode])
    for shard, rows in rows_by_shard(columns, np.flatnonzero(~fits.to_numpy(zero_copy_only=False))):
        yield columns.heads[shard].path, columns.key(rows[0]), len(rows)


def _key_problems(
    dataset: Dataset, mode: KeyMode | None, strangers: list[tuple[Path, str, int]], clips: int
) -> Iterator[Problem]:
    """Where most keys are not of the mode, dataset.json is that of another dataset; else single shards are."""
    count = sum(keys for _, _, keys in strangers)
    if 2 * count > clips:
        detail = f"says {mode}, {first_of(count, 'clip key')} not of that mode; restore the one of these clips"
        yield Problem(dataset.root / "dataset.json", strangers[0][1], "dataset", detail)
        return
    for path, key, keys in strangers:
        detail = f"{first_of(keys, 'clip key')} not of mode {mode}, which dataset.json says; move it where it belongs"
        yield Problem(path, key, "sidecar", detail)


def _shard_folders(dataset: Dataset, split: str) -> list[tuple[ShardKind, Path, dict[str, Entry]]]:
    """Audio folders first: labels are held against them."""
    audio = [dataset.audio_folder(split, name) for name in dataset.audio_specs(split)]
    sets = [name for name in dataset.label_sets(split) if name not in RESERVED_TARGETS]
    labels = [dataset.labels_folder(split, name) for name in sets]
    found: list[tuple[ShardKind, Path, dict[str, Entry]]] = [("audio", path, listing(path)) for path in audio]
    return [*found, *(("labels", path, listing(path)) for path in labels)]


def _misplaced(dataset: Dataset, split: str) -> Iterator[Problem]:
    """Names in the folders above the shards that look like shards or like label sets and are none."""
    root = dataset.root / split
    yield from _shards_in(root)
    for folder in (root / "audio", root / "labels"):
        yield from _shards_in(folder)
        for name, entry in listing(folder).items():
            wrong = FOLDER_NAME.fullmatch(name) is None or name in RESERVED_TARGETS
            if wrong and entry.kind != "file" and not name.startswith("."):
                detail = "is no name of an audio spec or a label set; rename it, or move it out of the dataset"
                yield Problem(folder / name, None, "foreign", detail)


def _shards_in(folder: Path) -> Iterator[Problem]:
    for name in listing(folder):
        if _LIKE_A_SHARD.fullmatch(name):
            yield Problem(folder / name, None, "foreign", "lies where no shard does; move it where it belongs")


def _hard_keys(path: Path) -> tuple[pa.Array | None, list[Problem]]:
    problem = table_problem(path, "hard")
    if problem:
        return None, [problem]
    try:
        column = read_hard(path).column("key")
    except FormatError as error:
        return None, [Problem(path, None, "hard", detail_of(error, path))]
    return pa.concat_arrays([pa.array([], KEYS), *column.cast(KEYS).chunks]), []


def _index_problems(folder: Path, entries: Mapping[str, Entry], kind: ShardKind) -> Iterator[Problem]:
    if INDEX_NAME in entries:
        path, entry = folder / INDEX_NAME, entries[INDEX_NAME]
        detail = index_problem(folder, kind) if entry.kind == "file" else entry.needed
        if detail:
            yield Problem(path, None, "index", detail.removeprefix(f"{path}: "))


def _tar_problems(columns: Columns, kind: ShardKind, shards: list[ShardToCheck]) -> Iterator[Problem]:
    """Tars that are not there, no files or of another size; the shards of all others are added to `shards`."""
    for head in columns.heads:
        path = head.path.with_suffix(".tar")
        entry = columns.entries.get(path.name)
        if entry is None:
            yield Problem(path, None, "tar_missing", "is not there; restore it or write the shard again")
        elif entry.kind != "file":
            yield Problem(path, None, "tar_missing", entry.needed)
        elif (size := file_bytes(path, entry)) != head.tar_bytes:
            detail = f"has {size} bytes, its sidecar says {head.tar_bytes}; restore it or write the shard again"
            yield Problem(path, None, "tar_size", detail)
        else:
            shards.append(ShardToCheck(kind=kind, path=head.path, clips=head.clips, tar_bytes=head.tar_bytes))
    for name in columns.entries:
        if _LIKE_A_SHARD.fullmatch(name) and len(name.partition(".")[0]) != 6:
            detail = "looks like a shard, whose number has 6 digits; give it its name back, or remove it"
            yield Problem(columns.path / name, None, "foreign", detail)
