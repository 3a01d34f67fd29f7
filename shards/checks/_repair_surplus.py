"""Bad shards without which nothing is missing: copies of others, and labels of clips that are not stored."""

from collections import defaultdict
from collections.abc import Set
from pathlib import Path

from pipeline import FormatError
from shards._commands import read_commands
from shards._manifest import MANIFEST_NAME, by_shard, read_manifest
from shards._store import listing
from shards.checks._repair_shards import Shard, keys_of, labelled_audio, shards_in


def surplus(bad: Set[Shard], *, missed: Set[Shard], orphans: Set[Shard], no_manifest: Set[Path]) -> set[Shard]:
    """Those of `bad` that nobody has to write again. One that a command was asked to write never is.

    missed: shards that some stored clips have no label without. orphans: shards with labels of clips that are not
    stored, in splits where all audio is known. no_manifest: folders whose manifest is gone.
    """
    found: set[Shard] = set()
    of_folder: dict[Path, list[Shard]] = defaultdict(list)
    for shard in bad - missed:
        of_folder[shard.folder].append(shard)
    for folder, gone in of_folder.items():
        written = {number for command in read_commands(folder) for number in command.shards}
        keys = {shard: set(keys_of(shard)) for shard in gone if shard.number not in written}
        numbers = _numbers(folder) if keys and folder not in no_manifest else None
        if numbers is not None:
            found |= {shard for shard in keys if shard.number not in numbers}
            continue
        if not any(keys.values()):
            continue
        kept = {key for shard in shards_in(folder, bad) for key in keys_of(shard)}
        for shard, own in keys.items():
            if own and not (own - kept - (_not_stored(shard, own - kept) if shard in orphans else set())):
                found.add(shard)
    return found


def _numbers(folder: Path) -> set[int] | None:
    """Of the shards that the manifest of an audio folder wants; None if there is none."""
    if MANIFEST_NAME not in listing(folder):
        return None
    try:
        return set(by_shard(read_manifest(folder / MANIFEST_NAME)))
    except FormatError:
        return None


def _not_stored(shard: Shard, keys: set[str]) -> set[str]:
    audio = labelled_audio(shard)
    stored = {key for other in shards_in(audio) for key in keys_of(other)} if audio else keys
    return keys - stored
