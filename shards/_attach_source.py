"""A label set from elsewhere: a folder of tars and sidecars of which nothing is believed before it is checked."""

import itertools
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import google_crc32c

from pipeline import FormatError, IntegrityError, UsageError
from shards._fetch import read_range
from shards._reader import check_tar_size
from shards._sidecar import LabelSidecar
from shards._sidecar_parse import is_sidecar_name, read_audio_sidecar, read_label_sidecar
from shards._store import entry_at, is_remote, listing

_OPEN_TARS = 64


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the label of `key` lies: in tar number `tar` of the set, at `offset`, `length` bytes."""

    key: str
    tar: int
    offset: int
    length: int
    crc32c: int


class PublishedLabels:
    """The label set in `folder`, local or on a store. `first` is a sidecar: its spec, target, codec and provenance are
    those of all. lacks: ranges of shard numbers, first and last, below the highest one that have no sidecar there.
    Raises UsageError if there is no label set, FormatError for what is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        entries = listing(folder)
        self.paths = [folder / name for name in entries if is_sidecar_name(name)]
        if not self.paths:
            raise UsageError(f"{folder}: {_nothing_there(folder)}")
        self.lacks = _gaps(entries)
        for path in self.paths:
            for name in (path.name, path.with_suffix(".tar").name):
                entry = entries.get(name)
                # A missing tar is reported by its size; a link could lead anywhere, a pipe would be waited on.
                if entry is not None and entry.kind != "file":
                    raise FormatError(f"{folder / name}: {entry.needed}")
        self.first = _read_first(self.paths[0])
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def __enter__(self) -> "PublishedLabels":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def sidecars(self) -> Iterator[LabelSidecar]:
        """Every sidecar, in order of number. Raises FormatError, and IntegrityError for a tar of another size."""
        for path in self.paths:
            side = read_label_sidecar(path)
            for what, has, first in (
                ("provenance", side.fingerprint, self.first.fingerprint),
                ("target", side.target, self.first.target),
                ("codec", side.codec, self.first.codec),
                ("audio spec", side.spec, self.first.spec),
            ):
                if has != first:
                    raise FormatError(
                        f"{path}: has another {what} than {self.first.path.name}, a label set has one; "
                        "download the set again"
                    )
            check_tar_size(side)
            yield side

    def read(self, member: Member) -> bytes:
        """Its bytes as published. Raises IntegrityError unless they have their checksum."""
        path = self.paths[member.tar].with_suffix(".tar")
        content = self._read_at(member.tar, path, member.offset, member.length)
        if len(content) != member.length or google_crc32c.value(content) != member.crc32c:
            raise IntegrityError(
                f"{self.where(member)}: is not what was published; download the tar again, then attach again"
            )
        return content

    def where(self, member: Member) -> str:
        """How errors name it."""
        return f"{self.paths[member.tar].with_suffix('.tar')}: clip {member.key}"

    def provenance(self) -> dict[str, Any]:
        """That of the labels attached: what made them, and from where they came, oldest first."""
        made = dict(self.first.provenance)
        before = made.get("attached", [])
        origin = {"stage_version": 1, "audio": self.first.spec.to_json(), "fingerprint": self.first.fingerprint}
        return {**made, "attached": [*(before if isinstance(before, list) else [before]), origin]}

    def _read_at(self, tar: int, path: Path, offset: int, length: int) -> bytes:
        if is_remote(path):
            return read_range(path, offset, length)
        file = self._open.get(tar)
        if file is None:
            if len(self._open) >= _OPEN_TARS:
                self._open.popitem(last=False)[1].close()
            file = self._open[tar] = path.open("rb")
        self._open.move_to_end(tar)
        return os.pread(file.fileno(), length, offset)


def _nothing_there(folder: Path) -> str:
    if not is_remote(folder) and entry_at(folder) is None:
        return "is not there; check --from"
    return "holds no label shard (000000.json); give the folder of the label set itself"


def _gaps(names: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """A set that is downloaded in part lacks shards in between, or has tars whose sidecars did not come yet."""
    whole = {int(name[:6]) for name in names if is_sidecar_name(name)}
    seen = whole | {int(name[:6]) for name in names if name.endswith(".tar") and is_sidecar_name(f"{name[:-4]}.json")}
    # From one shard that is there to the next: numbers are not to be believed, a million of them may be missing.
    ends = [-1, *sorted(whole), *([max(seen) + 1] if max(seen) not in whole else [])]
    return tuple((before + 1, after - 1) for before, after in itertools.pairwise(ends) if after - before > 1)


def _read_first(path: Path) -> LabelSidecar:
    try:
        return read_label_sidecar(path)
    except FormatError as error:
        try:
            read_audio_sidecar(path)
        except FormatError:
            raise error from None
        raise UsageError(
            f"{path}: is an audio shard, not labels; give the folder of a label set (DATASET/SPLIT/labels/SET)"
        ) from None
