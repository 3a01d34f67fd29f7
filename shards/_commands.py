"""`commands.json` beside shards: the command that wrote each of them, so that a lost one can be written again."""

import itertools
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import FormatError, write_atomic
from pipeline._json import fields, integers, texts
from shards._sidecar import sealed_json
from shards._store import entry_at

COMMANDS_NAME = "commands.json"
_FORMAT, _VERSION = "sed-distill/commands", 1
_MAX_BYTES = 16 * 2**20
# Stands for the dataset itself, which may be moved or copied: no path is spelled so, nor anything else in a command.
_DATASET = "DATASET"


@dataclass(frozen=True, kw_only=True)
class RecordedCommand:
    """arguments: of `sed-distill`, paths absolute. shards: those that it was the last to write, sorted."""

    arguments: tuple[str, ...]
    shards: tuple[int, ...]

    @property
    def line(self) -> str:
        """As a shell takes it."""
        return shlex.join(("sed-distill", *self.arguments))

    def values(self, option: str) -> tuple[str, ...]:
        """Those given to `option`, spelled `--name`; none if it is not."""
        if option not in self.arguments:
            return ()
        after = self.arguments[self.arguments.index(option) + 1 :]
        return tuple(itertools.takewhile(lambda argument: not argument.startswith("--"), after))


def command_arguments(name: str, **options: str | int | Path | None) -> tuple[str, ...]:
    """The arguments of `sed-distill NAME`, with every option but those that are None; paths become absolute."""
    arguments = [name]
    for option, value in options.items():
        if value is not None:
            spelled = value.absolute() if isinstance(value, Path) else value
            arguments += [f"--{option.replace('_', '-')}", str(spelled)]
    return tuple(arguments)


def record_command(folder: Path, arguments: Sequence[str], shards: Iterable[int]) -> None:
    """Note in shard folder `folder` of a dataset that `arguments` write `shards`. To be called before they do.

    The same command given again is noted once, as the latest. One that a line cannot hold is not noted.
    """
    spelled = tuple(_DATASET if argument == str(_root(folder)) else argument for argument in arguments)
    if not all(map(_is_plain, spelled)):
        return
    written = set(shards)
    commands: list[RecordedCommand] = []
    before = _read(folder)
    for earlier in before:
        if earlier.arguments == spelled:
            written.update(earlier.shards)
        else:
            commands.append(earlier)
    commands = [
        RecordedCommand(arguments=old.arguments, shards=tuple(sorted(set(old.shards) - written))) for old in commands
    ]
    commands.append(RecordedCommand(arguments=spelled, shards=tuple(sorted(written))))
    if tuple(commands) != before:
        write_atomic(folder / COMMANDS_NAME, _spell(commands))


def read_commands(folder: Path) -> tuple[RecordedCommand, ...]:
    """The commands that wrote shard folder `folder`, the latest last; none if their record is missing or damaged."""
    root = str(_root(folder))
    return tuple(
        RecordedCommand(
            arguments=tuple(root if argument == _DATASET else argument for argument in command.arguments),
            shards=command.shards,
        )
        for command in _read(folder)
    )


def _root(folder: Path) -> Path:
    """The dataset of DATASET/<split>/<audio or labels>/<name>."""
    return folder.absolute().parents[2]


def _is_plain(argument: str) -> bool:
    """A record may come from anywhere: nothing in it reaches a terminal that is not one line of print."""
    return argument.isprintable()


def _spell(commands: Sequence[RecordedCommand]) -> bytes:
    listed = [{"arguments": list(command.arguments), "shards": list(command.shards)} for command in commands]
    return sealed_json({"format": _FORMAT, "version": _VERSION, "commands": listed})


def _read(folder: Path) -> tuple[RecordedCommand, ...]:
    path = folder / COMMANDS_NAME
    entry = entry_at(path)
    if entry is None or entry.kind != "file" or entry.bytes > _MAX_BYTES:
        return ()
    try:
        content = path.read_bytes()
        got = fields(json.loads(content.decode()), COMMANDS_NAME, ("format", "version", "commands", "sha256"))
        if not isinstance(got["commands"], list):
            return ()
        commands = tuple(_command(entry) for entry in got["commands"])
        return commands if _spell(commands) == content else ()
    except (FormatError, OSError, ValueError, RecursionError):
        return ()


def _command(value: Any) -> RecordedCommand:
    got = fields(value, COMMANDS_NAME, ("arguments", "shards"))
    arguments = texts(got["arguments"], COMMANDS_NAME)
    if not all(map(_is_plain, arguments)):
        raise FormatError(f"{COMMANDS_NAME}: holds what is not one line of text")
    return RecordedCommand(arguments=arguments, shards=integers(got["shards"], COMMANDS_NAME, high=999_999))
