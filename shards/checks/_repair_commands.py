"""Which commands write again what is lost: those that wrote it, in the order in which they need each other's work."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline import FormatError, canonical_json
from shards._commands import RecordedCommand, read_commands
from shards._dataset import SPLITS, sidecar_paths
from shards._sidecar_parse import read_audio_sidecar, read_label_sidecar
from shards.checks._repair_plan import Plan

_LISTED = 5


class Restoring(NamedTuple):
    """commands: shell lines, each once. missing: what has to be written by a command that is not recorded."""

    commands: tuple[str, ...]
    missing: tuple[str, ...]


def restoring(root: Path, plan: Plan) -> Restoring:
    """What is to be given once `plan` is carried out. Audio comes first: labels are made from it, or from others."""
    folders = [folder for split in SPLITS for kind in ("audio", "labels") for folder in _folders(root / split / kind)]
    audio = [folder for folder in folders if folder.parent.name == "audio"]
    lines: dict[str, None] = {}
    missing: list[str] = []
    for folder in audio:
        _restore_folder(folder, plan, lines, missing)
    for split in sorted(plan.hard):
        packs = [command for folder in audio if folder.parents[1].name == split for command in read_commands(folder)]
        lines.update(dict.fromkeys(command.line for command in packs))
        if not packs:
            missing.append(f"{root / split}: no command is recorded that writes hard.parquet; pack the split again")
    if plan.description and not lines:
        lines.update(dict.fromkeys(_latest(audio)))
        if not lines:
            missing.append(f"{root}: no command is recorded that writes dataset.json; pack a split again")
    for folder in _sources_first([folder for folder in folders if folder not in audio]):
        _restore_folder(folder, plan, lines, missing)
    return Restoring(tuple(lines), tuple(missing))


def _sources_first(folders: Sequence[Path]) -> list[Path]:
    """Label sets, each behind those that it is merged from."""
    ordered: list[Path] = []
    seen: set[Path] = set()

    def add(folder: Path) -> None:
        if folder in folders and folder not in seen:
            seen.add(folder)
            for command in read_commands(folder):
                for name in command.values("--from"):
                    add(folder.parent / name)
            ordered.append(folder)

    for folder in folders:
        add(folder)
    return ordered


def _restore_folder(folder: Path, plan: Plan, lines: dict[str, None], missing: list[str]) -> None:
    recorded = read_commands(folder)
    numbers = {shard.number for shard in plan.shards if shard.folder == folder}
    known = {number for command in recorded for number in command.shards}
    # A manifest, or a shard that none has written so far, can be the work of any: each does what is missing of its own.
    every = folder in plan.folders or not numbers <= known
    due = [command for command in recorded if every or not numbers.isdisjoint(command.shards)]
    lines.update(dict.fromkeys(command.line for command in due))
    if every and not due:
        missing.append(_missing(folder, numbers))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _latest(folders: Iterable[Path]) -> list[str]:
    """A command that writes audio: any makes the dataset again."""
    recorded: Sequence[RecordedCommand] = next(filter(None, map(read_commands, folders)), ())
    return [command.line for command in recorded[-1:]]


def _missing(folder: Path, numbers: set[int]) -> str:
    listed = ", ".join(f"{number:06d}" for number in sorted(numbers)[:_LISTED])
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    what = f" writes shard{'' if len(numbers) == 1 else 's'} {listed}{more}" if numbers else " wrote it"
    return f"{folder}: no command is recorded that{what}; give again the one that did{_known(folder)}"


def _known(folder: Path) -> str:
    """How the shards were made, from any of them."""
    read = read_audio_sidecar if folder.parent.name == "audio" else read_label_sidecar
    for path in sidecar_paths(folder):
        try:
            provenance = read(path).provenance
        except FormatError:
            continue
        made = {name: value for name, value in provenance.items() if name != "manifest_sha256"}
        return f" ({canonical_json(made)[:400]})"
    return ""
