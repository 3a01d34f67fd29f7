"""Clip keys: `<stem>_<start ms>`, the one name of a clip in every shard, label set and table.

In AudioSet mode the stem is the YouTube id and the segment list decides what a name means. In path mode it is the
percent-encoded relative path. Which mode applies is said by the user, never guessed from looks.
"""

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa

from pipeline._errors import MetadataError, UsageError

YTID = r"[A-Za-z0-9_-]{11}"
MAX_KEY_LENGTH = 240  # leaves room for a member's suffix within the 255 bytes of a file name

KEY_PATTERNS = {
    "audioset": rf"\A{YTID}_(0|[1-9][0-9]*)\z",
    "path": r"\A([A-Za-z0-9_-]|%[0-9A-F]{2})+_(0|[1-9][0-9]*)\z",
}
"""What every key of a mode matches, in the words of RE2 (Arrow), where `\\z` is the end of a text."""

_KEY = re.compile(r"(?P<stem>.+)_(?P<start_ms>0|[1-9][0-9]*)")
_STEM = re.compile(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2})+")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_SPELLING = re.compile(
    rf"(?P<ytid>{YTID})"
    r"(?:_(?P<start>[0-9]{1,9}(?:\.[0-9]{1,3})?)(?:[_-](?P<end>[0-9]{1,9}(?:\.[0-9]{1,3})?))?)?"
)
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$")  # a letter first: `.mp3` is one, the `.000` of a start is not
_PREFIXES = ("", "Y", "id_")


class AudioSetKeys:
    """Finds the clip a name means, whichever of the spellings in use it has.

    `<id>`, `Y<id>` or `id_<id>`; then nothing, `_<start>`, `_<start>_<end>` or `_<start>-<end>`, in milliseconds or
    seconds; any audio extension; any folders before it. Ids are 11 characters wide and may hold `_`, `-` and a leading
    `Y`, so one name can be read in several ways: the reading that the segment lists contain is meant.
    """

    def __init__(self, *segments: pa.Table) -> None:
        """`segments`: tables with columns `ytid` and `start_ms` (weak or strong, rows may repeat).

        Raises UsageError without one: nothing else says where a clip starts.
        """
        if not segments:
            raise UsageError(
                "--keys audioset needs a segment list to look names up in; give a CSV or TSV, or use --keys path"
            )
        # Sorted arrays instead of a dictionary: 40 MB for two million segments, and cheap to send to a worker.
        ytids = np.concatenate([table.column("ytid").to_numpy().astype("S11") for table in segments])
        starts = np.concatenate([table.column("start_ms").to_numpy().astype(np.int64) for table in segments])
        order = np.lexsort((starts, ytids))
        ytids, starts = ytids[order], starts[order]
        new = np.ones(len(starts), dtype=bool)
        new[1:] = (ytids[1:] != ytids[:-1]) | (starts[1:] != starts[:-1])
        self._ytids, self._starts = ytids[new], starts[new]

    def __len__(self) -> int:
        """Segments known."""
        return len(self._starts)

    def key(self, name: str) -> str | None:
        """The clip key that `name` (a file, archive member or HDF5 entry) means; None if no segment list has it.

        Raises MetadataError naming the candidates if it can mean several: an id with several segments and no start
        given, or two readings that both exist.
        """
        stem = _EXTENSION.sub("", name.rpartition("/")[2])
        found = {
            f"{spelling['ytid']}_{start_ms}"
            for prefix in _PREFIXES
            if stem.startswith(prefix)
            if (spelling := _SPELLING.fullmatch(stem.removeprefix(prefix)))
            for start_ms in self._starts_meant(spelling)
        }
        if len(found) > 1:
            candidates = ", ".join(sorted(found))
            raise MetadataError(f"{name}: can be any of {candidates}; rename it to the one it is, or leave it out")
        return found.pop() if found else None

    def _starts_meant(self, spelling: "re.Match[str]") -> set[int]:
        """Segments of the spelled id that its start, as milliseconds or as seconds, agrees with."""
        ytid, start = spelling["ytid"].encode(), spelling["start"]
        low, high = np.searchsorted(self._ytids, ytid, "left"), np.searchsorted(self._ytids, ytid, "right")
        listed = {int(start_ms) for start_ms in self._starts[low:high]}
        return listed if start is None else listed & _start_readings(start)


def path_key(path: str | bytes, start_ms: int = 0) -> str:
    """Key of a clip by its path relative to the audio folder, with `/`: every byte but [A-Za-z0-9_-] becomes %XX.

    One to one, also for names that are not UTF-8. Raises MetadataError if the key is longer than 240 characters.
    """
    if start_ms < 0:
        raise ValueError(f"start_ms is {start_ms}, needs 0 or more")
    key = f"{_UNSAFE.sub(_percent, os.fsencode(path)).decode('ascii')}_{start_ms}"
    if not path or len(key) > MAX_KEY_LENGTH:
        shown = os.fsdecode(path)
        raise MetadataError(
            f"{shown!r}: has a clip key of {len(key)} characters, needs a path and at most {MAX_KEY_LENGTH} "
            "(a character other than A-Z a-z 0-9 _ - counts three or more); shorten the file or folder names"
        )
    return key


def key_path(key: str) -> tuple[bytes, int]:
    """Inverse of `path_key`: the raw bytes of the relative path and start_ms. Raises MetadataError for other keys."""
    stem, start_ms = split_key(key)
    path = unquote_to_bytes(stem)
    if not _STEM.fullmatch(stem) or path_key(path, start_ms) != key:
        raise MetadataError(f"{key!r}: is not a key made of a path; use the --keys mode the dataset was packed with")
    return path, start_ms


def split_key(key: str) -> tuple[str, int]:
    """`<stem>_<start ms>` -> (stem, start_ms), from the right: stems hold `_` too. Raises MetadataError otherwise."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise MetadataError(f"{key!r}: is not a clip key, needs <name>_<start ms>")
    return match["stem"], int(match["start_ms"])


def check_unique(keys: Iterable[tuple[str, str]]) -> dict[str, str]:
    """(key, where it comes from) pairs -> origin by key. Raises MetadataError naming both origins of a repeated key."""
    origins: dict[str, str] = {}
    for key, origin in keys:
        if key in origins:
            raise MetadataError(f"{origins[key]} and {origin} both are clip {key}, needs one of each; leave one out")
        origins[key] = origin
    return origins


def _start_readings(start: str) -> set[int]:
    """Milliseconds that `start` can mean: '30' is 30 ms or 30 s, '30.000' can only be seconds."""
    whole, point, decimals = start.partition(".")
    in_seconds = int(whole) * 1000 + int(decimals.ljust(3, "0"))
    return {in_seconds} if point else {int(whole), in_seconds}


def _percent(match: "re.Match[bytes]") -> bytes:
    return b"%%%02X" % match[0][0]
