"""Which recordings lie in a folder, and where long ones are cut."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline._errors import UsageError
from pipeline._grid import HOP_MS

# What lies beside recordings. All else is taken for a recording: content decides, and a refusal is reported.
_TEXT = ".cfg .csv .htm .html .ini .json .jsonl .log .md .rst .tex .toml .tsv .txt .xml .yaml .yml"
_ANNOTATION = ".cue .jams .lab .m3u .m3u8 .rttm .srt .textgrid .vtt"
_TABLE_OR_ARCHIVE = ".7z .db .gz .h5 .hdf5 .npy .npz .parquet .pkl .sql .tar .xls .xlsx .zip"
_OTHER = ".gif .ipynb .jpeg .jpg .md5 .pdf .png .ps1 .py .sh .sha1 .sha256 .svg .webp"
SIDE_FILE_SUFFIXES = frozenset(" ".join((_TEXT, _ANNOTATION, _TABLE_OR_ARCHIVE, _OTHER)).split())


@dataclass(frozen=True)
class FolderEntry:
    """A recording. `path` is relative to the folder, with `/`; bytes that are not UTF-8 as surrogates."""

    path: str
    size_bytes: int

    @property
    def raw(self) -> bytes:
        """The path as the file system has it."""
        return os.fsencode(self.path)


def scan_folder(folder: Path) -> list[FolderEntry]:
    """Every recording in `folder` and its subfolders, in the order of the bytes of their relative paths.

    Left out are hidden names (leading dot), SIDE_FILE_SUFFIXES, and what is neither file nor link (pipes, sockets).
    Links to folders are not followed; links to files are, wherever they lead, and a broken one is listed with size 0,
    so that it is accounted for as missing. Raises UsageError if the folder cannot be listed or holds no recording."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name the folder that holds the recordings")
    entries: list[FolderEntry] = []
    ignored = links = 0
    for parent, directories, names in os.walk(folder, onerror=_cannot_list):
        directories[:] = [name for name in directories if not name.startswith(".")]
        links += sum(os.path.islink(os.path.join(parent, name)) for name in directories)
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() in SIDE_FILE_SUFFIXES:
                ignored += 1
                continue
            path = os.path.join(parent, name)
            size_bytes = _size_bytes(path)
            if size_bytes is not None:
                entries.append(FolderEntry(Path(os.path.relpath(path, folder)).as_posix(), size_bytes))
    if not entries:
        raise UsageError(
            f"{folder} holds no recordings ({ignored} hidden and side files ignored, {links} links to folders not "
            "followed); name the folder that holds them"
        )
    return sorted(entries, key=lambda entry: entry.raw)


def clip_starts(duration_ms: int, clip_ms: int) -> list[int]:
    """Starts in ms of the consecutive clips of a recording; the last is shorter, left out if less than one frame.

    A recording always has a first clip, so that one that is too short is accounted for."""
    if duration_ms < 0 or clip_ms < HOP_MS:
        raise UsageError(
            f"cannot cut {duration_ms} ms into clips of {clip_ms} ms; a clip is at least one frame of {HOP_MS} ms"
        )
    return [0, *range(clip_ms, duration_ms - HOP_MS + 1, clip_ms)]


def _size_bytes(path: str) -> int | None:
    """None for what is no file; 0 for what cannot be reached, as a broken link: decoding it says why."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _cannot_list(error: OSError) -> None:
    raise UsageError(f"cannot list {error.filename}: {error.strerror}; make the folder readable") from error
