"""What to move away and what is then to be written again, from what verify found. Looks at files, changes none."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import FormatError
from shards._counted import counted
from shards._dataset import SPLITS
from shards._index_file import INDEX_NAME
from shards._manifest import MANIFEST_NAME
from shards._sidecar import AudioSidecar, LabelSidecar
from shards.checks._repair_folders import leftovers, was_filled
from shards.checks._repair_shards import (
    Shard,
    is_later,
    is_shard_folder,
    keys_of,
    labelled_audio,
    read_shard,
    shard_of,
    shards_in,
)
from shards.checks._repair_surplus import surplus
from shards.checks._verify_problem import Problem, ProblemKind

# Where two files do not fit each other, of which either may be the bad one. All other kinds blame the file they name.
_RELATIONS: frozenset[ProblemKind] = frozenset({"duplicate", "mixed", "no_hard", "orphan", "stale"})
_Relations = Mapping[ProblemKind, Sequence[tuple[Shard, Problem]]]


@dataclass
class Plan:
    """moves: groups of files that go together. The rest says what has to be written again.

    shards: those that are or will be gone and are missed. folders: those of which something is gone that no shard's
    number tells. hard: splits without hard.parquet. description: whether dataset.json is gone.
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
    found = list(problems)
    description = root / "dataset.json"
    if any(problem.shard.absolute() == description for problem in found) and is_later(description):
        raise FormatError(f"{description}: is of a later version; update sed-distill, nothing was moved")
    plan = Plan()
    renamed = [
        problem for problem in found if problem.kind == "sidecar" and is_shard_folder(root, problem.shard.absolute())
    ]
    if renamed:
        # All commands would write into the folder of the right name.
        plan.unresolved += map(str, renamed)
        if len(found) > len(renamed):
            others = counted(len(found) - len(renamed), "other problem")
            plan.unresolved.append(f"{root}: {others}: repair again after that; nothing is moved before")
        return plan
    empty = _plan_folders(plan, root, found)
    relations: dict[ProblemKind, list[tuple[Shard, Problem]]] = defaultdict(list)
    bad: dict[Shard, None] = {}
    for problem in found:
        path = problem.shard.absolute()
        if path in empty or path.parent in empty:
            continue
        shard = shard_of(root, path)
        if path == description:
            plan.description = True
            _move(plan, path)
        elif problem.kind == "foreign" or path.name == INDEX_NAME:
            _move(plan, path)  # belongs to nothing, or is made again when it is needed
        elif path.name == "hard.parquet" and path.parent.name in SPLITS and path.parent.parent == root:
            plan.hard.add(path.parent.name)
            _move(plan, path)
        elif path.name == MANIFEST_NAME and is_shard_folder(root, path.parent):
            plan.folders.add(path.parent)
            _move(plan, path)
        elif is_shard_folder(root, path):
            plan.folders.add(path)
        elif shard is None or problem.kind == "unchecked" or (problem.kind == "sidecar" and is_later(path)):
            plan.unresolved.append(str(problem))
        elif problem.kind in _RELATIONS or (problem.kind == "incomplete" and shard.sidecar.exists()):
            relations[problem.kind].append((shard, problem))
        else:
            bad[shard] = None
    _blame_audio(plan, root, bad, relations)
    _blame_labels(plan, empty, bad, relations)
    for shard in bad:
        _move(plan, shard.sidecar, shard.sidecar.with_suffix(".tar"))
    missed = {shard for shard, _ in relations["incomplete"]}
    orphans = {shard for shard, _ in relations["orphan"] if shard.split not in _unknown(plan, bad)}
    plan.shards = set(bad) - surplus(set(bad), missed=missed, orphans=orphans, no_manifest=plan.folders)
    return plan


def _plan_folders(plan: Plan, root: Path, problems: Iterable[Problem]) -> set[Path]:
    """Plan for folders without any shard; returns those of which nothing more is to be planned."""
    found = leftovers(root, (problem.shard.absolute() for problem in problems))
    for folder in found.move:
        _move(plan, folder)
    for folder in found.keep:
        what = "has no shards, and no command is recorded that writes them"
        plan.unresolved.append(f"{folder}: {what}; restore it or pack the split again, or remove the folder")
    for folder in found.fill:
        if not was_filled(root, folder):
            what = "has no shards, as if the command that writes them had never come to its end"
            plan.hints.append(f"{folder}: {what}; if it fails again, remove the folder")
    return {*found.move, *found.keep}


def _blame_audio(plan: Plan, root: Path, bad: dict[Shard, None], relations: _Relations) -> None:
    """Add to `bad` the shards that have to go because others stay, but for labels without their audio."""
    for folder in dict.fromkeys(shard.folder for shard, _ in relations["mixed"]):
        ways = _ways(folder, bad)
        usual = max(ways, key=len, default=[])
        if 2 * len(usual) > sum(map(len, ways)):
            bad.update((shard, None) for way in ways if way is not usual for shard in way)
        else:
            plan.unresolved.append(f"{folder}: mixed: {_tie(ways)}")
    for folder in dict.fromkeys(shard.folder for shard, _ in relations["duplicate"]):
        bad.update(dict.fromkeys(_copies(folder, bad)))
    plan.unresolved += _in_two_splits(root, bad, relations["duplicate"])
    for shard, _ in relations["no_hard"]:
        if shard not in bad and shard.split not in plan.hard:
            plan.hard.add(shard.split)
            _move(plan, root / shard.split / "hard.parquet")


def _blame_labels(plan: Plan, empty: Set[Path], bad: dict[Shard, None], relations: _Relations) -> None:
    """Labels of audio that is to be written again are kept: they fit it when it comes from the same recordings.

    empty: audio folders, among others, that are as good as not there.
    """
    gone = {key for shard in bad if shard.is_audio for key in keys_of(shard)} if relations["stale"] else set()
    unknown = _unknown(plan, bad)
    # Of many problems in one shard, the last one counts others and has no key.
    waiting = {shard for shard, problem in relations["stale"] if problem.key in gone}
    waiting |= {shard for shard, _ in relations["orphan"] if shard.split in unknown}
    lost: dict[tuple[Path, Path], None] = {}
    for shard, _ in relations["orphan"]:
        audio = None if shard in bad else labelled_audio(shard)
        if audio is not None and (audio in empty or not audio.is_dir()):
            lost[shard.folder, audio] = None
            waiting.add(shard)
    for folder, audio in lost:
        what = f"its labels are of {audio}, which {'has no shards' if audio in empty else 'is not there'}"
        other = f"attach them to other audio of the same clips (sed-distill attach --from {folder})"
        plan.unresolved.append(f"{folder}: orphan: {what}; restore that folder, or {other}")
    of_audio = (*relations["stale"], *relations["orphan"])
    bad.update(dict.fromkeys(shard for shard, _ in of_audio if shard not in waiting))
    for shard, problem in relations["incomplete"]:
        if shard not in bad and not _is_aligned(shard):
            plan.unresolved.append(f"{problem}: its labels are of other clips; label the split into another set")
        else:
            bad[shard] = None
    for folder in sorted({shard.folder for shard in waiting - bad.keys()} - {folder for folder, _ in lost}):
        plan.hints.append(f"{folder}: labels of audio that is to be written again stay; repair once more after that")


def _unknown(plan: Plan, bad: Iterable[Shard]) -> set[str]:
    """Splits of which nobody knows all clips that are stored once the commands are given."""
    return {folder.parents[1].name for folder in plan.folders} | {shard.split for shard in bad if shard.is_audio}


def _in_two_splits(root: Path, bad: Mapping[Shard, None], duplicates: Iterable[tuple[Shard, Problem]]) -> Iterable[str]:
    """A line for every audio shard with clips that another split stores too after the shards `bad` are gone."""
    asked = [(shard, problem) for shard, problem in duplicates if shard.is_audio and shard not in bad]
    wanted = {problem.key for _, problem in asked if problem.key is not None}
    splits_of: dict[str | None, set[str]] = defaultdict(set)
    folders = [folder for split in SPLITS for folder in (root / split / "audio").glob("*")] if wanted else []
    for other in (shard for folder in folders for shard in shards_in(folder, bad)):
        for key in wanted.intersection(keys_of(other)):
            splits_of[key].add(other.split)
    lines: dict[Shard, list[Problem]] = defaultdict(list)
    for shard, problem in asked:
        if splits_of[problem.key] - {shard.split}:
            lines[shard].append(problem)
    for first, *more in lines.values():
        also = f" (and {counted(len(more), 'clip')} more of this shard)" if more else ""
        yield f"{first}{also}; pack one of the two splits without it into another dataset"


def _ways(folder: Path, bad: Mapping[Shard, None]) -> list[list[Shard]]:
    """The shards of a folder by the way they were made."""
    ways: dict[Hashable, list[Shard]] = defaultdict(list)
    for shard in shards_in(folder, bad):
        sidecar = read_shard(shard)
        if sidecar is not None:
            ways[_way(sidecar)].append(shard)
    return list(ways.values())


def _way(sidecar: AudioSidecar | LabelSidecar) -> Hashable:
    if isinstance(sidecar, AudioSidecar):
        return sidecar.codec
    return sidecar.fingerprint, sidecar.codec, sidecar.spec, sidecar.target


def _tie(ways: Iterable[Sequence[Shard]]) -> str:
    groups = " and ".join(f"{counted(len(way), 'shard')} like {way[0].sidecar.name}" for way in ways)
    what = f"has {groups}, so nobody can say which is right"
    return f"{what}; move those that are not out of the dataset, then repair again"


def _copies(folder: Path, bad: Mapping[Shard, None]) -> list[Shard]:
    """Shards of clips that others have too, which stay: those where the clips belong, else the first."""
    kept: set[str] = set()
    copies = []
    for shard in sorted(shards_in(folder, bad), key=lambda shard: (not _is_aligned(shard), shard)):
        keys = keys_of(shard)
        if kept.isdisjoint(keys):
            kept.update(keys)
        else:
            copies.append(shard)
    return copies


def _is_aligned(shard: Shard) -> bool:
    """Whether labels are of no clips but those of the audio shard of their number, where they can be made anew."""
    sidecar = None if shard.is_audio else read_shard(shard)
    if sidecar is None:
        return True
    audio = Shard(shard.folder.parents[1] / "audio" / sidecar.spec.name, shard.number)
    return set(sidecar.clips.key) <= set(keys_of(audio))


def _move(plan: Plan, *files: Path) -> None:
    plan.moves[files] = None
