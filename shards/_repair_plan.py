"""What to move away and what is then to be written again, from what verify found. Looks at files, changes none."""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline import FormatError
from shards._dataset import DATASET_VERSION, SPLITS, sidecar_paths
from shards._index_file import INDEX_NAME
from shards._manifest import MANIFEST_NAME
from shards._sidecar import AudioSidecar, LabelSidecar, sealed_json
from shards._sidecar_parse import MAX_SIDECAR_BYTES, is_sidecar_name, read_audio_sidecar, read_label_sidecar
from shards._store import entry_at
from shards._verify_problem import Problem, ProblemKind

# Where two files do not fit each other, of which either may be the bad one. All other kinds blame the file they name.
_RELATIONS: frozenset[ProblemKind] = frozenset({"duplicate", "mixed", "no_hard", "orphan", "stale"})


class Shard(NamedTuple):
    folder: Path
    number: int

    @property
    def sidecar(self) -> Path:
        return self.folder / f"{self.number:06d}.json"

    @property
    def is_audio(self) -> bool:
        return self.folder.parent.name == "audio"

    @property
    def split(self) -> str:
        return self.folder.parents[1].name


@dataclass
class Plan:
    """moves: groups of files that go together. The rest says what has to be written again.

    shards: those that are or will be gone. folders: those of which something is gone that no shard's number tells.
    hard: splits without hard.parquet. description: whether dataset.json is gone.
    """

    moves: dict[tuple[Path, ...], None] = field(default_factory=dict)
    shards: set[Shard] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)
    hard: set[str] = field(default_factory=set)
    description: bool = False
    hints: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)


def plan_repair(root: Path, problems: Iterable[Problem]) -> Plan:
    """Raises FormatError if dataset.json is of a later version: there is nothing to repair, but a program to update."""
    plan = Plan()
    relations: dict[ProblemKind, list[tuple[Shard, Problem]]] = defaultdict(list)
    bad: dict[Shard, None] = {}
    for problem in problems:
        path = problem.shard.absolute()
        shard = _shard(root, path)
        if path == root / "dataset.json":
            if _is_later(path):
                raise FormatError(f"{path}: is of a later version; update sed-distill, nothing was moved")
            plan.description = True
            _move(plan, path)
        elif problem.kind == "foreign" or path.name == INDEX_NAME:
            _move(plan, path)  # belongs to nothing, or is made again when it is needed
        elif path.name == "hard.parquet" and path.parent.name in SPLITS and path.parent.parent == root:
            plan.hard.add(path.parent.name)
            _move(plan, path)
        elif path.name == MANIFEST_NAME and _is_shard_folder(root, path.parent):
            plan.folders.add(path.parent)
            _move(plan, path)
        elif _is_shard_folder(root, path):
            plan.folders.add(path)
        elif shard is None or problem.kind == "unchecked" or (problem.kind == "sidecar" and _is_later(path)):
            plan.unresolved.append(str(problem))
        elif problem.kind in _RELATIONS or (problem.kind == "incomplete" and shard.sidecar.exists()):
            relations[problem.kind].append((shard, problem))
        else:
            bad[shard] = None
    _blame_audio(plan, root, bad, relations)
    _blame_labels(plan, bad, relations)
    for shard in bad:
        plan.shards.add(shard)
        _move(plan, shard.sidecar, shard.sidecar.with_suffix(".tar"))
    return plan


def _blame_audio(
    plan: Plan, root: Path, bad: dict[Shard, None], relations: Mapping[ProblemKind, Sequence[tuple[Shard, Problem]]]
) -> None:
    """Add to `bad` the shards that have to go because others stay, but for labels without their audio."""
    for folder in dict.fromkeys(shard.folder for shard, _ in relations["mixed"]):
        bad.update(dict.fromkeys(_minority(folder, bad)))
    for folder in dict.fromkeys(shard.folder for shard, _ in relations["duplicate"]):
        bad.update(dict.fromkeys(_copies(folder, bad)))
    for shard, problem in relations["duplicate"]:
        if shard not in bad and _is_in_another_split(root, shard, problem, bad):
            plan.unresolved.append(f"{problem}; pack one of the two splits without it into another dataset")
    for shard, _ in relations["no_hard"]:
        if shard not in bad and shard.split not in plan.hard:
            plan.hard.add(shard.split)
            _move(plan, root / shard.split / "hard.parquet")


def _blame_labels(
    plan: Plan, bad: dict[Shard, None], relations: Mapping[ProblemKind, Sequence[tuple[Shard, Problem]]]
) -> None:
    """Labels of audio that is to be written again are kept: they fit it when it comes from the same recordings."""
    gone = {key for shard in bad if shard.is_audio for key in _keys(shard)} if relations["stale"] else set()
    unknown = {folder.parents[1].name for folder in plan.folders} | {shard.split for shard in bad if shard.is_audio}
    # Of many problems in one shard, the last one counts others and has no key.
    waiting = {shard for shard, problem in relations["stale"] if problem.key in gone}
    waiting |= {shard for shard, _ in relations["orphan"] if shard.split in unknown}
    of_audio = (*relations["stale"], *relations["orphan"])
    bad.update(dict.fromkeys(shard for shard, _ in of_audio if shard not in waiting))
    for shard, problem in relations["incomplete"]:
        if shard not in bad and not _is_aligned(shard):
            plan.unresolved.append(f"{problem}: its labels are of other clips; label the split into another set")
        else:
            bad[shard] = None
    for folder in sorted({shard.folder for shard in waiting - bad.keys()}):
        plan.hints.append(f"{folder}: labels of audio that is to be written again stay; repair once more after that")


def _is_in_another_split(root: Path, shard: Shard, problem: Problem, bad: Mapping[Shard, None]) -> bool:
    """Whether the clip stays stored there after the shards `bad` are gone."""
    folders = [folder for split in SPLITS if split != shard.split for folder in (root / split / "audio").glob("*")]
    return any(problem.key in _keys(other) for folder in folders for other in _shards(folder, bad))


def _minority(folder: Path, bad: Mapping[Shard, None]) -> list[Shard]:
    """All shards of a folder but those of the way of making that more than half of them share."""
    groups: dict[Hashable, list[Shard]] = defaultdict(list)
    for shard in _shards(folder, bad):
        sidecar = _read(shard)
        if sidecar is not None:
            groups[_way(sidecar)].append(shard)
    half = sum(map(len, groups.values())) / 2
    return [shard for group in groups.values() if len(group) <= half for shard in group]


def _way(sidecar: AudioSidecar | LabelSidecar) -> Hashable:
    if isinstance(sidecar, AudioSidecar):
        return sidecar.codec
    return sidecar.fingerprint, sidecar.codec, sidecar.spec, sidecar.target


def _copies(folder: Path, bad: Mapping[Shard, None]) -> list[Shard]:
    """Shards of clips that others have too, which stay: those where the clips belong, else the first."""
    kept: set[str] = set()
    copies = []
    for shard in sorted(_shards(folder, bad), key=lambda shard: (not _is_aligned(shard), shard)):
        keys = _keys(shard)
        if kept.isdisjoint(keys):
            kept.update(keys)
        else:
            copies.append(shard)
    return copies


def _is_aligned(shard: Shard) -> bool:
    """Whether labels are of no clips but those of the audio shard of their number, where they can be made anew."""
    sidecar = _read(shard)
    if sidecar is None or shard.is_audio:
        return True
    audio = Shard(shard.folder.parents[1] / "audio" / sidecar.spec.name, shard.number)
    return set(sidecar.clips.key) <= set(_keys(audio))


def _shards(folder: Path, bad: Mapping[Shard, None]) -> list[Shard]:
    """The committed shards of a folder that stay."""
    found = (Shard(folder, int(path.stem)) for path in sidecar_paths(folder))
    return [shard for shard in found if shard not in bad]


def _keys(shard: Shard) -> tuple[str, ...]:
    """Its clips; none if nobody can tell."""
    sidecar = _read(shard)
    return () if sidecar is None else sidecar.clips.key


def _read(shard: Shard) -> AudioSidecar | LabelSidecar | None:
    try:
        return read_audio_sidecar(shard.sidecar) if shard.is_audio else read_label_sidecar(shard.sidecar)
    except FormatError:
        return None


def _shard(root: Path, path: Path) -> Shard | None:
    """The shard that the file is the sidecar or the tar of."""
    if path.suffix not in (".json", ".tar") or not is_sidecar_name(f"{path.stem}.json"):
        return None
    return Shard(path.parent, int(path.stem)) if _is_shard_folder(root, path.parent) else None


def _is_shard_folder(root: Path, folder: Path) -> bool:
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    return len(parts) == 3 and parts[0] in SPLITS and parts[1] in ("audio", "labels")


def _move(plan: Plan, *files: Path) -> None:
    plan.moves[files] = None


def _is_later(path: Path) -> bool:
    """Whether a JSON file is whole, but of a version to come."""
    entry = entry_at(path)
    if entry is None or entry.kind != "file" or entry.bytes > MAX_SIDECAR_BYTES:
        return False
    try:
        content = path.read_bytes()
        value = json.loads(content)
        value.pop("sha256")
        version = value["version"]
        return type(version) is int and version > DATASET_VERSION and sealed_json(value) == content
    except (OSError, ValueError, RecursionError, AttributeError, LookupError, TypeError):
        return False
