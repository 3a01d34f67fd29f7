"""Repair: what verify found bad is moved to `quarantine/`, and the commands that write it again are named."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import UsageError
from shards._store import is_remote, to_path
from shards.checks._repair_commands import restoring
from shards.checks._repair_plan import plan_repair
from shards.checks._verify_problem import Problem

QUARANTINE_NAME = "quarantine"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done, or would be.

    moved: from and to, of every file, or folder without a shard. commands: shell lines that restore what is lost, to be
    given in this order. hints: what a second round has to decide, and what to do where a command fails. unresolved:
    what needs a person, as it stays or no command is recorded that writes it again, one line each.
    """

    moved: tuple[tuple[Path, Path], ...]
    commands: tuple[str, ...]
    hints: tuple[str, ...]
    unresolved: tuple[str, ...]


def repair(root: str | Path, problems: Iterable[Problem], *, dry_run: bool = False) -> Repair:
    """Move every bad file below `root` to `root/quarantine`, keeping its relative path; delete nothing.

    problems: all that `verify` finds. Nobody may write to the dataset meanwhile. Stopped at any point, the next call
    finishes. dry_run: move nothing, only say.
    Raises UsageError for a store, or if quarantine/ is or holds a link where a folder has to be; FormatError if the
    dataset is of a later version. Nothing is moved then.
    """
    path = to_path(root)
    if is_remote(path):
        raise UsageError(
            f"{root}: is on a store, repair moves files of a local folder; copy it to a disk and repair it there"
        )
    plan = plan_repair(path.absolute(), problems)
    again = restoring(path.absolute(), plan)
    places = [_places(path.absolute(), group) for group in plan.moves]
    moved: list[tuple[Path, Path]] = []
    unresolved = [*plan.unresolved, *again.missing]
    for group in places:
        try:
            for source, destination in group:
                if not dry_run:
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    source.rename(destination)
                moved.append((source, destination))
        except OSError as error:
            unresolved.append(f"{error.filename}: cannot be moved to {QUARANTINE_NAME}/ ({error.strerror})")
    return Repair(moved=tuple(moved), commands=again.commands, hints=tuple(plan.hints), unresolved=tuple(unresolved))


def quarantined_files(root: str | Path) -> int:
    """How many files `repair` has moved away so far, in a local dataset. Nothing else looks at them."""
    path = to_path(root)
    return 0 if is_remote(path) else sum(len(files) for _, _, files in os.walk(path / QUARANTINE_NAME))


def _places(root: Path, group: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Where the files of one shard go, in order, all with the same number behind their names if one is there already.

    The sidecar goes first: a shard half moved away is one that was never committed.
    """
    sources = [path for path in group if os.path.lexists(path)]
    number = 0
    while True:
        ending = f".{number}" if number else ""
        places = [_place(root, source).with_name(f"{source.name}{ending}") for source in sources]
        if not any(map(os.path.lexists, places)):
            return list(zip(sources, places, strict=True))
        number += 1


def _place(root: Path, source: Path) -> Path:
    """Its path below quarantine/. Folders there are made here, so a link among them leads somewhere it should not."""
    below = root
    for part in (QUARANTINE_NAME, *source.relative_to(root).parts[:-1]):
        below /= part
        if below.is_symlink() or (below.exists() and not below.is_dir()):
            raise UsageError(f"{below}: is not a folder of this dataset; remove it, then repair")
    return below / source.name
