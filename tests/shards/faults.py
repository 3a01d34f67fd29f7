"""Single faults, each a pure function of a seed: what becomes of which file, and how `verify` should name it.

Not injected, because nothing in a dataset can tell it from the real thing:
- what people may write as they like, edited and signed again: origin, flags, cut and clipped counts, software, details
  and reasons of refusals, provenance of audio other than the hash of its manifest rows;
- a whole that is consistent in itself: every file of a split or label set replaced, removed or renamed together, two
  label sets that change names, labels of a clip replaced by others and signed again, hard labels other than which clips
  have them written anew, dataset.json of AudioSet keys written anew for paths;
- the order of clips in a shard, or the numbers of label shards, all else following: labels are bound by key;
- up to four bits of a clip's acoustic fingerprint, signed again: another machine may round so;
- an index that is gone, or of other sidecars than there are: it is a cache, and made again;
- files that no reader takes: report.json, leftovers of killed writers, names that are no shard's;
- a link to a file with the very bytes that belong there.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from shards import AudioSidecar, Dataset, LabelSidecar, ProblemKind, read_audio_sidecar, read_label_sidecar
from shards._sidecar import sealed_json


@dataclass(frozen=True)
class Link:
    target: str


# What lies under a name: bytes, something else than a file, or nothing.
Content = bytes | Link | Literal["folder", "pipe"] | None


@dataclass(frozen=True)
class Fault:
    """`changes`: path below the root -> what lies there from now on.

    It is rightly named by a problem of a kind in `named` whose file lies `within` a folder, by default that of a
    changed file.
    """

    what: str
    changes: Mapping[str, Content]
    named: frozenset[ProblemKind]
    within: str | None = None

    def is_named_by(self, kind: str, path: str) -> bool:
        folders = {name.rpartition("/")[0] for name in self.changes} if self.within is None else {self.within}
        return kind in self.named and any(path.startswith(folder) for folder in folders)


class Whole:
    """A whole dataset with all its bytes in memory, so that a fault can be put in and taken out again."""

    def __init__(self, dataset: Dataset) -> None:
        self.root = dataset.root
        self.files: dict[str, bytes] = {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name != "report.json"
        }
        # An index is of sidecars of a certain time.
        self._times_ns = {name: (self.root / name).stat().st_mtime_ns for name in self.files}
        self.audio: dict[str, AudioSidecar] = {}
        self.labels: dict[str, LabelSidecar] = {}
        for name in self.files:
            if "/audio/" in name and name.endswith(".json"):
                self.audio[name.removesuffix(".json")] = read_audio_sidecar(self.root / name)
            elif "/labels/" in name and name.endswith(".json"):
                self.labels[name.removesuffix(".json")] = read_label_sidecar(self.root / name)

    def sidecar(self, shard: str) -> AudioSidecar | LabelSidecar:
        return self.audio[shard] if shard in self.audio else self.labels[shard]

    @property
    def shards(self) -> tuple[str, ...]:
        """Paths of all shards below the root, without suffix."""
        return (*self.audio, *self.labels)

    def beside(self, path: str) -> list[str]:
        """The other files of its folder that have the same suffix."""
        folder, suffix = path.rpartition("/")[0], Path(path).suffix
        others = (other for other in self.files if other.rpartition("/")[0] == folder)
        return [other for other in others if other != path and other.endswith(suffix)]

    def apply(self, fault: Fault) -> None:
        for name, content in fault.changes.items():
            _put(self.root / name, content)

    def restore(self, fault: Fault) -> None:
        for name in fault.changes:
            path = self.root / name
            _put(path, self.files.get(name))
            if name in self.files:
                os.utime(path, ns=(self._times_ns[name], self._times_ns[name]))

    def changed_by(self, changes: Mapping[str, Content]) -> bool:
        return any(self.files.get(name) != content for name, content in changes.items())


def _put(path: Path, content: Content) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif isinstance(content, bytes) and path.is_file() and not path.is_symlink():
        path.write_bytes(content)
        return
    else:
        path.unlink(missing_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Link):
        path.symlink_to(content.target)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)


def signed(value: Mapping[str, Any]) -> bytes:
    """A sidecar in the canonical spelling with the checksum that belongs to it, as a careful forger would write it."""
    body = {name: entry for name, entry in value.items() if name != "sha256"}
    return sealed_json(body)


def kinds(names: str) -> frozenset[ProblemKind]:
    """Kinds of problem by their names, with blanks between."""
    chosen = frozenset(kind for kind in get_args(ProblemKind) if kind in names.split())
    assert len(chosen) == len(names.split()), names
    return chosen


def named_by_file(path: str) -> frozenset[ProblemKind]:
    """How damage to one file is named."""
    if path == "dataset.json":
        return kinds("dataset")
    for name in ("hard.parquet", "manifest.parquet", "index.arrow"):
        if path.endswith(name):
            return kinds(name.partition(".")[0])
    return kinds("sidecar") if path.endswith(".json") else kinds("member checksum tar_hash")


Make = Callable[[random.Random, Whole], Fault]


_FILES = (".tar", ".json", ".parquet")


def _any_file(rng: random.Random, whole: Whole, suffixes: Sequence[str] = (*_FILES, ".arrow")) -> str:
    """Tars and sidecars are many: the single files have to have their turn too."""
    of_kind = rng.choice(suffixes)
    return rng.choice([name for name in whole.files if name.endswith(of_kind)])


def flip(rng: random.Random, whole: Whole, path: str, low: int = 0, high: int | None = None) -> Fault:
    content = bytearray(whole.files[path])
    position = rng.randrange(low, len(content) if high is None else high)
    content[position] ^= 1 << rng.randrange(8)
    return Fault(f"{path} at {position}", {path: bytes(content)}, named_by_file(path))


def flip_in_member(rng: random.Random, whole: Whole) -> Fault:
    shard, row = _stored(rng, whole, whole.shards)
    clips = whole.sidecar(shard).clips
    return flip(rng, whole, f"{shard}.tar", clips.offset[row], clips.offset[row] + clips.length[row])


def flip_in_header(rng: random.Random, whole: Whole) -> Fault:
    shard, row = _stored(rng, whole, whole.shards)
    start = whole.sidecar(shard).clips.offset[row]
    return flip(rng, whole, f"{shard}.tar", start - 512, start)


def flip_between_members(rng: random.Random, whole: Whole) -> Fault:
    """In padding, in the record of a long name, or in the end marker."""
    shard, row = _stored(rng, whole, whole.shards)
    clips = whole.sidecar(shard).clips
    end = clips.offset[row] + clips.length[row]
    after = [offset for offset in clips.offset if offset > end]
    limit = min(after) - 512 if after else len(whole.files[f"{shard}.tar"])
    return flip(rng, whole, f"{shard}.tar", min(end, limit - 1), limit)


def flip_in(suffix: str) -> Make:
    def make(rng: random.Random, whole: Whole) -> Fault:
        return flip(rng, whole, rng.choice([name for name in whole.files if name.endswith(suffix)]))

    return make


def overwritten(rng: random.Random, whole: Whole) -> Fault:
    """A run of zeros, of noise, or of other bytes of the same file, as lost blocks leave it."""
    path = _any_file(rng, whole)
    content = whole.files[path]
    start = rng.randrange(len(content))
    length = min(rng.choice((1, 8, 64, 512, 4096)), len(content) - start)
    elsewhere = rng.randrange(len(content) - length + 1)
    run = rng.choice((bytes(length), rng.randbytes(length), content[elsewhere : elsewhere + length]))
    changed = content[:start] + run + content[start + length :]
    return Fault(f"{path} from {start}, {length} bytes", {path: changed}, named_by_file(path))


def cut(rng: random.Random, whole: Whole) -> Fault:
    path = _any_file(rng, whole)
    content = whole.files[path]
    length = rng.choice((0, 1, len(content) - 1, rng.randrange(len(content)), rng.randrange(len(content))))
    return Fault(f"{path} to {length} bytes", {path: content[:length]}, _named_by_size(path))


def grown(rng: random.Random, whole: Whole) -> Fault:
    path = _any_file(rng, whole)
    length = rng.choice((1, 512, rng.randrange(1, 4096)))
    more = rng.choice((bytes(length), rng.randbytes(length), whole.files[path], b"\n", b" "))
    return Fault(f"{path} by {len(more)} bytes", {path: whole.files[path] + more}, _named_by_size(path))


def moved_bytes(rng: random.Random, whole: Whole) -> Fault:
    """A byte too few or too many in the middle; the size may be made up for at the end."""
    path = _any_file(rng, whole)
    content = whole.files[path]
    at = rng.randrange(len(content))
    changed = rng.choice(
        (
            content[:at] + content[at + 1 :],
            content[:at] + content[at + 1 :] + b"\0",
            content[:at] + rng.randbytes(1) + content[at:],
            content[:at] + rng.randbytes(1) + content[at:-1],
        )
    )
    return Fault(f"{path} from {at}", {path: changed}, named_by_file(path) | _named_by_size(path))


def deleted(rng: random.Random, whole: Whole) -> Fault:
    path = _any_file(rng, whole, _FILES)
    return Fault(path, {path: None}, _named_by_absence(path))


def shard_deleted(rng: random.Random, whole: Whole) -> Fault:
    shard = rng.choice(whole.shards)
    return Fault(shard, {f"{shard}.tar": None, f"{shard}.json": None}, kinds("incomplete"))


def renamed(rng: random.Random, whole: Whole) -> Fault:
    path = _any_file(rng, whole, _FILES)
    name = Path(path)
    new = rng.choice((f"{name.name}.bak", f".partial-x{name.suffix}", name.stem, f"000009{name.suffix}", "x.json"))
    changes = {path: None, name.with_name(new).as_posix(): whole.files[path]}
    return Fault(f"{path} to {new}", changes, _named_by_absence(path))


def shard_renumbered(rng: random.Random, whole: Whole) -> Fault:
    """Tar and sidecar under another number, which no other has, or as a copy."""
    shard = rng.choice(whole.shards)
    new = f"{shard.rpartition('/')[0]}/00000{rng.randrange(5, 10)}"
    changes: dict[str, Content] = {f"{new}{suffix}": whole.files[f"{shard}{suffix}"] for suffix in (".tar", ".json")}
    if rng.random() < 0.5:
        changes |= {f"{shard}.tar": None, f"{shard}.json": None}
    return Fault(f"{shard} to {new}", changes, kinds("sidecar incomplete duplicate"))


def swapped_files(suffix: str) -> Make:
    """Two tars, or two sidecars, of one folder or of two."""

    def make(rng: random.Random, whole: Whole) -> Fault:
        one = rng.choice([f"{shard}{suffix}" for shard in whole.shards])
        other = rng.choice(whole.beside(one) if rng.random() < 0.7 else [f"{shard}{suffix}" for shard in whole.shards])
        # Sidecars of two folders can have the same number: then they are right where they are but for their tar.
        named = kinds("sidecar mixed tar_size member checksum tar_hash" if suffix == ".json" else _TAR)
        return Fault(f"{one} and {other}", {one: whole.files[other], other: whole.files[one]}, named)

    return make


def swapped_shards(rng: random.Random, whole: Whole) -> Fault:
    """Both files of two shards; their numbers may be put right and signed, then only what they hold is out of place."""
    one, other = rng.sample(whole.shards, 2)
    changes = {**_as_shard(rng, whole, one, other), **_as_shard(rng, whole, other, one)}
    if one in whole.labels and one[:-6] == other[:-6]:
        # Two label shards that say their new numbers would be whole: labels are bound by key.
        changes[f"{one}.json"] = whole.files[f"{other}.json"]
    return Fault(f"{one} and {other}", changes, _MISPLACED)


def shard_of_elsewhere(rng: random.Random, whole: Whole) -> Fault:
    """The shard of another split, spec, label set or number takes the place of one."""
    shard, other = rng.sample(whole.shards, 2)
    return Fault(f"{shard} by {other}", _as_shard(rng, whole, other, shard), _MISPLACED)


def not_a_file(rng: random.Random, whole: Whole) -> Fault:
    path = _any_file(rng, whole)
    others = [Path(other).name for other in whole.beside(path)]
    links = ("nowhere", Path(path).name, "/dev/null", "/dev/zero", ".", *others)
    content = rng.choice(("folder", "pipe", *(Link(target) for target in links)))
    named = named_by_file(path) | _named_by_absence(path) | _named_by_size(path)
    if path.endswith(".json"):
        named |= kinds("mixed duplicate incomplete")
    return Fault(f"{path} is {content}", {path: content}, named)


_TAR = "tar_size member checksum tar_hash"
_MISPLACED = kinds("sidecar manifest duplicate mixed orphan stale incomplete")


def _named_by_size(path: str) -> frozenset[ProblemKind]:
    return kinds("tar_size") if path.endswith(".tar") else named_by_file(path)


def _named_by_absence(path: str) -> frozenset[ProblemKind]:
    if path.endswith(".tar"):
        return kinds("tar_missing")
    in_shard_folder = path.endswith(".json") and path != "dataset.json"
    return kinds("incomplete") if in_shard_folder else named_by_file(path)


def _as_shard(rng: random.Random, whole: Whole, shard: str, place: str) -> dict[str, Content]:
    """The files of `shard` in the place of `place`."""
    sidecar = whole.files[f"{shard}.json"]
    if rng.random() < 0.5:
        sidecar = signed({**json.loads(sidecar), "shard": int(place[-6:])})
    return {f"{place}.tar": whole.files[f"{shard}.tar"], f"{place}.json": sidecar}


def _stored(rng: random.Random, whole: Whole, shards: Iterable[str]) -> tuple[str, int]:
    """A shard, and a row of it that has a member."""
    shard = rng.choice(list(shards))
    clips = whole.sidecar(shard).clips
    return shard, rng.choice([row for row in range(len(clips)) if clips.length[row]])
