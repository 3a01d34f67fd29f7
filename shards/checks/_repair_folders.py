"""Folders without a shard, of which no single shard is to blame: what is left of a run that failed, or of a repair."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from shards._commands import read_commands
from shards._store import listing
from shards.checks._repair_shards import is_shard_folder, is_shard_name, labelled_audio, shards_in

# As AudioSpec spells them: no command writes audio into a folder of another name.
_SPEC_NAME = re.compile(r"[a-z]+-[1-9][0-9]*hz-[1-9][0-9]*ms")
_LOOKED_AT = 5  # shards of a label set, all of one audio: one of them will be readable


class Leftovers(NamedTuple):
    """move: nothing in them is of any use. keep: audio that is missed, which no recorded command writes again.

    fill: those that a recorded command writes.
    """

    move: tuple[Path, ...]
    keep: tuple[Path, ...]
    fill: tuple[Path, ...]


def leftovers(root: Path, paths: Iterable[Path]) -> Leftovers:
    """Of the shard folders that `paths` are or lie in, those in which no file is of a shard."""
    folders = dict.fromkeys(folder for path in paths for folder in (path, path.parent) if is_shard_folder(root, folder))
    empty = [folder for folder in sorted(folders) if folder.is_dir() and not any(map(is_shard_name, listing(folder)))]
    fill = tuple(folder for folder in empty if _can_be_filled(folder))
    others = [folder for folder in empty if folder not in fill]
    missed = tuple(folder for folder in others if folder.parent.name == "audio" and _is_missed(folder, empty))
    return Leftovers(move=tuple(folder for folder in others if folder not in missed), keep=missed, fill=fill)


def was_filled(root: Path, folder: Path) -> bool:
    """Whether a repair has moved shards out of it."""
    return any(map(is_shard_name, listing(root / "quarantine" / folder.relative_to(root))))


def _can_be_filled(folder: Path) -> bool:
    named = folder.parent.name == "labels" or _SPEC_NAME.fullmatch(folder.name) is not None
    return named and bool(read_commands(folder))


def _is_missed(folder: Path, empty: Iterable[Path]) -> bool:
    """Whether there are labels of this audio, or no other audio in its split."""
    if not {path for path in folder.parent.iterdir() if path.is_dir()} - set(empty):
        return True
    sets = (path for path in (folder.parents[1] / "labels").glob("*") if path.is_dir())
    return any(folder in filter(None, map(labelled_audio, shards_in(path)[:_LOOKED_AT])) for path in sets)
