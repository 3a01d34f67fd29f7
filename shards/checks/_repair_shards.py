"""What lies in a dataset that may be damaged: shards, their clips and their folders. Looks at files, changes none."""

import json
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from pipeline import FormatError
from shards._dataset import DATASET_VERSION, SPLITS, sidecar_paths
from shards._sidecar import AudioSidecar, LabelSidecar, sealed_json
from shards._sidecar_parse import MAX_SIDECAR_BYTES, is_sidecar_name, read_audio_sidecar, read_label_sidecar
from shards._store import entry_at


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


def shard_of(root: Path, path: Path) -> Shard | None:
    """The shard that the file is the sidecar or the tar of."""
    if not is_shard_name(path.name) or not is_shard_folder(root, path.parent):
        return None
    return Shard(path.parent, int(path.stem))


def is_shard_name(name: str) -> bool:
    stem, _, suffix = name.partition(".")
    return suffix in ("json", "tar") and is_sidecar_name(f"{stem}.json")


def is_shard_folder(root: Path, folder: Path) -> bool:
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    return len(parts) == 3 and parts[0] in SPLITS and parts[1] in ("audio", "labels")


def shards_in(folder: Path, bad: Container[Shard] = ()) -> list[Shard]:
    """The committed shards of a folder, but for those in `bad`."""
    found = (Shard(folder, int(path.stem)) for path in sidecar_paths(folder))
    return [shard for shard in found if shard not in bad]


def keys_of(shard: Shard) -> tuple[str, ...]:
    """Its clips; none if nobody can tell."""
    sidecar = read_shard(shard)
    return () if sidecar is None else sidecar.clips.key


def read_shard(shard: Shard) -> AudioSidecar | LabelSidecar | None:
    try:
        return read_audio_sidecar(shard.sidecar) if shard.is_audio else read_label_sidecar(shard.sidecar)
    except FormatError:
        return None


def labelled_audio(shard: Shard) -> Path | None:
    """The folder of the audio that a shard has labels of; None of audio itself, and where nobody can tell."""
    sidecar = None if shard.is_audio else read_shard(shard)
    return None if sidecar is None else shard.folder.parents[1] / "audio" / sidecar.spec.name


def is_later(path: Path) -> bool:
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
