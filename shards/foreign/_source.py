"""Foreign label files: which formats there are, what each needs to be read, and what is recorded of its files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline import CLIP_MS, FormatError, UsageError
from shards.foreign._arrays import open_efficientat, open_pretrained_sed
from shards.foreign._checks import Labels
from shards.foreign._chunks import Tail, open_ced, open_sat
from shards.foreign._names import NameMatcher

ImportFormat = Literal["pretrained-sed", "efficientat", "ced", "sat"]
IMPORT_FORMATS: tuple[str, ...] = get_args(ImportFormat)
Progress = Callable[[str, int, int], None]  # what is being done, how much of it, of how much

_STAGE_VERSION = 1  # raised when the same files would give other labels
_HASH_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ForeignFiles:
    """What is imported.

    pretrained-sed: one HDF5. efficientat: one .npy, and in `index` a JSON or CSV of names. ced: HDF5 files of one
    epoch, and in `index` the parquet of each. sat: one parquet.
    tail: for ced and sat, how the classes outside of the top k are filled (see `Tail`); it has to be chosen.
    chunk_ms: for sat, the length of its chunks; for ced 10,000 if not given.
    augmented: for ced, take labels of randomly augmented views as labels of the clips.
    """

    format: ImportFormat
    files: tuple[Path, ...]
    index: tuple[Path, ...] = ()
    tail: str | None = None
    chunk_ms: int | None = None
    augmented: bool = False

    def __post_init__(self) -> None:
        if self.format not in IMPORT_FORMATS:
            raise UsageError(f"format is {self.format!r}, needs one of {', '.join(IMPORT_FORMATS)}")
        top_k = self.format in ("ced", "sat")
        many = self.format == "ced"
        indexes = {"efficientat": 1, "ced": len(self.files)}.get(self.format, 0)
        if not self.files or (len(self.files) > 1 and not many) or len(self.index) != indexes:
            needs = f"{'as many --file as --index' if many else 'one --file'}{'' if indexes else ' and no --index'}"
            needs += " and one --index" if self.format == "efficientat" else ""
            raise UsageError(
                f"--format {self.format} has {len(self.files)} --file and {len(self.index)} --index, needs {needs}"
            )
        if top_k != (self.tail is not None):
            raise UsageError(
                f"--format {self.format} names the likeliest classes only; say with --tail what the others are: "
                "zero, last-mean, last-half or constant=P"
                if top_k
                else f"--format {self.format} has all classes, --tail says nothing there; leave it out"
            )
        if self.format == "sat" and self.chunk_ms is None:
            raise UsageError("--format sat needs --chunk-s: how many seconds the chunks of the file are long")
        if self.chunk_ms is not None and not top_k:
            raise UsageError(f"--chunk-s is for --format ced and sat; --format is {self.format}, leave it out")
        if self.chunk_ms is not None and not 40 <= self.chunk_ms <= 3_600_000:
            raise UsageError(f"--chunk-s is {self.chunk_ms / 1000:g}, needs 0.04 to 3600")
        if self.augmented and not many:
            raise UsageError(f"--augmented is for --format ced; --format is {self.format}")
        if self.tail is not None:
            Tail(self.tail)

    def arguments(self) -> tuple[str, ...]:
        """As `sed-distill import-labels` takes it, with absolute paths."""
        spelled = ["--format", self.format, "--file", *(str(path.absolute()) for path in self.files)]
        if self.index:
            spelled += ["--index", *(str(path.absolute()) for path in self.index)]
        if self.tail is not None:
            spelled += ["--tail", self.tail]
        if self.chunk_ms is not None:
            spelled += ["--chunk-s", f"{self.chunk_ms / 1000:.7g}"]
        return (*spelled, *(("--augmented",) if self.augmented else ()))


def open_foreign(source: ForeignFiles, matcher: NameMatcher, clip_ms: int) -> Labels:
    """The labels of the clips that `matcher` knows, in a dataset of clips of `clip_ms`."""
    if source.tail is None and clip_ms != CLIP_MS:
        raise UsageError(f"--format {source.format} labels clips of {CLIP_MS} ms, the audio is of {clip_ms} ms")
    if source.format == "pretrained-sed":
        return open_pretrained_sed(source.files[0], matcher)
    if source.format == "efficientat":
        return open_efficientat(source.files[0], source.index[0], matcher)
    tail = Tail(source.tail or "")
    if source.format == "ced":
        chunk_ms = source.chunk_ms or 10_000
        return open_ced(
            source.files, source.index, matcher,
            chunk_ms=chunk_ms, clip_ms=clip_ms, tail=tail, augmented=source.augmented,
        )  # fmt: skip
    return open_sat(source.files[0], matcher, chunk_ms=source.chunk_ms or 0, clip_ms=clip_ms, tail=tail)


def foreign_provenance(source: ForeignFiles, audio: str, progress: Progress) -> dict[str, Any]:
    """What decides the content of every label; an import with another one is another label set."""
    about: dict[str, Any] = {
        "stage": "import",
        "stage_version": _STAGE_VERSION,
        "audio_identity": "imported: the labels state none, that of the audio stored here is taken",
        "audio": audio,
        "format": source.format,
        "files": [_file(path, progress) for path in source.files],
    }
    if source.index:
        about["index"] = [_file(path, progress) for path in source.index]
    if source.tail is not None:
        about["tail"] = source.tail
        about["chunk_ms"] = source.chunk_ms or 10_000
    if source.augmented:
        about["views"] = "augmented at random, one of each clip"
    return about


def _file(path: Path, progress: Progress) -> dict[str, Any]:
    digest, done = hashlib.sha256(), 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while block := file.read(_HASH_BYTES):
                digest.update(block)
                done += len(block)
                progress(f"hashing {path.name}, MB", done >> 20, size >> 20)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return {"name": path.name, "bytes": done, "sha256": digest.hexdigest()}
