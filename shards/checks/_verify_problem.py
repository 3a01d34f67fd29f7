"""What `verify` can find, in the words that its output, `repair` and the tests share."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shards._counted import counted
from shards._store import entry_at

LISTED_PROBLEMS = 100
"""Of one shard: where all of its clips are damaged, one wants to know that, not each of them."""

ProblemKind = Literal[
    "dataset",  # dataset.json is missing or not what this version reads
    "hard",  # hard.parquet is missing or damaged
    "manifest",  # manifest.parquet is missing or damaged, or a shard does not account for exactly the clips it lists
    "index",  # the index is damaged or not of the sidecars that are there
    "incomplete",  # a shard that manifest or numbering ask for is not committed, or stored clips have no label
    "sidecar",  # a sidecar is not what this version reads, or lies where it does not belong
    "foreign",  # a name that looks like one of a dataset's and is none
    "tar_missing",  # no tar, or one that cannot be read
    "tar_size",  # a tar of another size than its sidecar says
    "tar_hash",  # bytes that belong to no clip differ
    "member",  # the header of a member is not that of its clip
    "checksum",  # the bytes of a member differ
    "audio",  # a clip does not decode to its stated length and identity
    "acoustic",  # the acoustic fingerprint stated for a clip is not that of its audio
    "label",  # a label is not of its stated shape, or not finite
    "orphan",  # labels of clips that are not stored
    "stale",  # a label made from other audio than is stored
    "mixed",  # a shard of another codec, or labels of another teacher or target, than the rest of its folder
    "duplicate",  # a clip that is stored or labelled more than once
    "no_hard",  # stored clips without a row in hard.parquet
    "unchecked",  # a shard that no worker could check: nothing is known of it
]


@dataclass(frozen=True)
class Problem:
    """One finding of `verify`: the file it is in, the clip where it concerns one (the first of several), its kind."""

    shard: Path
    key: str | None
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        clip = "" if self.key is None else f"{self.key}: "
        return f"{self.shard}: {clip}{self.kind}: {self.detail}"


def first_of(number: int, what: str) -> str:
    """The subject of a sentence on `number` clips, of which a problem names the first: it ends in is or are."""
    return f"1 {what} is" if number == 1 else f"{counted(number, what)}, this one first, are"


def detail_of(error: Exception, path: Path) -> str:
    """The message of an error about `path`, without that path."""
    return str(error).removeprefix(f"{path}: ")


def bounded(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The first LISTED_PROBLEMS of one shard, and one that counts the others."""
    several = iter(problems)
    listed = list(itertools.islice(several, LISTED_PROBLEMS))
    more = sum(1 for _ in several)
    if more:
        last = listed[-1]
        detail = f"{more} more clips of this shard have problems, which are not listed; write the shard again"
        listed.append(Problem(last.shard, None, last.kind, detail))
    return tuple(listed)


def table_problem(path: Path, kind: ProblemKind) -> Problem | None:
    """Why the table at `path` cannot even be opened: nothing there, or no file of its own."""
    entry = entry_at(path)
    if entry is None:
        return Problem(path, None, kind, "is not there; restore it, or pack the split again")
    if entry.kind != "file":
        return Problem(path, None, kind, entry.needed)
    return None
