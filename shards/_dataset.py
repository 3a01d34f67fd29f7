"""Where everything of a dataset lies."""

import errno
import json
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from pipeline import FormatError, UsageError, Vocabulary, write_atomic
from pipeline._json import fields, one_of
from shards._sidecar import AudioSidecar, LabelSidecar, sealed_json
from shards._sidecar_parse import check_format, is_sidecar_name, read_audio_sidecar, read_label_sidecar
from shards._store import is_remote, listing, read_start, to_path

DATASET_FORMAT = "sed-distill"
DATASET_VERSION = 1
SPLITS = ("weak", "strong", "dev", "eval")
RESERVED_TARGETS = ("hard_weak", "hard_strong")
KeyMode = Literal["audioset", "path"]

FOLDER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_MAX_DATASET_BYTES = 65_536
_AnySidecar = TypeVar("_AnySidecar", AudioSidecar, LabelSidecar)


@dataclass(frozen=True)
class Dataset:
    """Paths of a dataset below `root`: a local folder or, for reading, a prefix on a store (s3://bucket/prefix).

    Only `open` and `create` look whether it is there.
    """

    root: Path

    def __init__(self, root: str | Path) -> None:
        object.__setattr__(self, "root", to_path(root))

    @staticmethod
    def create(root: str | Path, *, keys: KeyMode) -> "Dataset":
        """Make `root` a dataset, or find that it already is the same one. Raises UsageError if it is another."""
        if keys not in get_args(KeyMode):
            raise UsageError(f"keys are {keys!r}, need one of {', '.join(get_args(KeyMode))}")
        dataset = Dataset(root)
        if is_remote(dataset.root):
            raise UsageError(f"{dataset.root}: stores are only read; write to a local folder and copy it there")
        if not dataset._description.exists():
            write_atomic(dataset._description, _spell_description(keys))
        elif dataset.keys != keys:
            raise UsageError(f"{dataset.root}: holds clips keyed by {dataset.keys}, not by {keys}; use another folder")
        return dataset

    @staticmethod
    def open(root: str | Path) -> "Dataset":
        """A dataset that exists.

        Raises UsageError if there is none, FormatError if this version cannot read it, OSError if a store cannot be
        reached.
        """
        dataset = Dataset(root)
        content = _read_description(dataset._description)
        if content is None:
            raise UsageError(f"{dataset.root}: is not a dataset (no dataset.json); give the folder that pack wrote to")
        _parse_description(content, dataset._description)
        if is_remote(dataset.root) and not _is_listed(dataset._description):
            raise UsageError(
                f"{dataset.root}: has a dataset.json, but its folders cannot be listed; a web server needs its "
                "directory listing switched on (autoindex), a bucket the permission to list it"
            )
        return dataset

    @property
    def keys(self) -> KeyMode:
        """How clip keys were made, as dataset.json says."""
        content = _read_description(self._description)
        if content is None:
            raise FormatError(f"{self._description}: is not there; restore it")
        return _parse_description(content, self._description)

    def splits(self) -> tuple[str, ...]:
        """The splits that have a folder. Raises OSError if nobody can tell: one overlooked would count as whole."""
        folders = folder_names(self.root)
        return tuple(split for split in SPLITS if split in folders)

    def hard_path(self, split: str) -> Path:
        return self._split(split) / "hard.parquet"

    def audio_folder(self, split: str, spec_name: str) -> Path:
        return self._split(split) / "audio" / _name(spec_name, "audio spec")

    def labels_folder(self, split: str, label_set: str) -> Path:
        if label_set in RESERVED_TARGETS:
            raise UsageError(
                f"label set is named {label_set!r}, which means the labels of hard.parquet; choose another name"
            )
        return self._split(split) / "labels" / _name(label_set, "label set")

    def audio_specs(self, split: str) -> tuple[str, ...]:
        """Names of the audio specs that `split` has a folder for, sorted."""
        return folder_names(self._split(split) / "audio")

    def only_audio(self, split: str) -> str:
        """The name of the one audio spec of `split`. Raises UsageError if it has none, or several."""
        specs = self.audio_specs(split)
        if len(specs) != 1:
            has = f"audio {', '.join(specs)}; name one with --audio" if specs else "no audio; run pack for it first"
            raise UsageError(f"{self.root}: split {split} has {has}")
        return specs[0]

    def label_sets(self, split: str) -> tuple[str, ...]:
        """Names of the label sets that `split` has a folder for, sorted."""
        return folder_names(self._split(split) / "labels")

    def audio_shards(self, split: str, spec_name: str) -> tuple[AudioSidecar, ...]:
        """The committed audio shards in order of number; none if the folder is empty or missing. Raises FormatError."""
        return _read_all(self.audio_folder(split, spec_name), read_audio_sidecar)

    def label_shards(self, split: str, label_set: str) -> tuple[LabelSidecar, ...]:
        """The committed label shards in order of number; none if the folder is empty or missing. Raises FormatError."""
        return _read_all(self.labels_folder(split, label_set), read_label_sidecar)

    def vocabulary(self, split: str, label_set: str) -> Vocabulary:
        """The classes of a label set, for a loader that should have exactly these. Raises UsageError if it is empty."""
        paths = sidecar_paths(self.labels_folder(split, label_set))
        if not paths:
            raise UsageError(
                f"{self.root}: split {split} has no label set {label_set}; "
                f"it has {', '.join(self.label_sets(split)) or 'none'}"
            )
        return read_label_sidecar(paths[0]).target.classes

    @property
    def _description(self) -> Path:
        return self.root / "dataset.json"

    def _split(self, split: str) -> Path:
        if split not in SPLITS:
            raise UsageError(f"split is {split!r}, needs one of {', '.join(SPLITS)}")
        return self.root / split


def sidecar_paths(folder: Path) -> tuple[Path, ...]:
    """The sidecars in a shard folder, in order of number. Other names are ignored."""
    return tuple(folder / name for name in listing(folder) if is_sidecar_name(name))


def folder_names(folder: Path) -> tuple[str, ...]:
    """Folders below `folder` that can be a split's, an audio spec's or a label set's, sorted by name."""
    return tuple(
        name
        for name, entry in listing(folder).items()
        if FOLDER_NAME.fullmatch(name)
        and (entry.kind == "folder" or (entry.kind == "link" and _leads_to_folder(folder / name)))
    )


def _is_listed(path: Path) -> bool:
    try:
        return path.name in listing(path.parent)
    except PermissionError:
        return False


def _leads_to_folder(link: Path) -> bool:
    """As `is_dir`, which by version of Python also answers a failed look with False."""
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def _read_description(path: Path) -> bytes | None:
    return read_start(path, _MAX_DATASET_BYTES, "restore it")


def _parse_description(content: bytes, path: Path) -> KeyMode:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not JSON ({error}), so it was edited or damaged; restore it") from None
    check_format(value, path, DATASET_FORMAT, DATASET_VERSION)
    got = fields(value, str(path), ("format", "version", "keys", "sha256"))
    keys = cast(KeyMode, one_of(got["keys"], f"{path}: keys", get_args(KeyMode)))
    if content != _spell_description(keys):
        raise FormatError(f"{path}: does not match its own checksum, it was edited or damaged; restore it")
    return keys


def _spell_description(keys: KeyMode) -> bytes:
    return sealed_json({"format": DATASET_FORMAT, "version": DATASET_VERSION, "keys": keys})


def _name(name: str, what: str) -> str:
    if FOLDER_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{what} is named {name!r}; names are made of a-z, 0-9, '.', '_' and '-', a letter or digit first"
        )
    return name


def _read_all(folder: Path, read: Callable[[Path], _AnySidecar]) -> tuple[_AnySidecar, ...]:
    return tuple(read(path) for path in sidecar_paths(folder))
