"""Rows of a metadata file: whole-column parsing of line formats, and errors that name file and row."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline._errors import MetadataError
from pipeline._specs import Vocabulary
from pipeline._vocabulary import audioset_mids

# Clip keys are in milliseconds, so finer times could not be kept: refused, not rounded. Official ones have 3 decimals.
SECONDS = r"[0-9]{1,6}(?:\.[0-9]{1,3})?"


class Rows:
    """The lines of a text file as one Arrow column, read without a Python object per line."""

    def __init__(self, path: Path) -> None:
        """Raises MetadataError if the file cannot be read, is not UTF-8 (naming the row) or is empty."""
        self.path = path
        content = read_text_bytes(path).rstrip(b"\r\n")
        if not content:
            raise MetadataError(f"{path}: is empty, needs at least one row; give the complete file")
        ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n"))
        bounds = np.concatenate([[0], ends + 1, [len(content)]]).astype(np.int64)
        self.lines = pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(content))
        self._first_row = 1

    def line(self, index: int) -> str:
        """Line `index` of those not skipped, without its line end."""
        return str(self.lines[index].as_py()).rstrip("\r\n")

    def skip(self, count: int) -> None:
        """Leave out the next `count` lines; row numbers in errors still count them."""
        self.lines = self.lines.slice(count)
        self._first_row += count
        if not len(self.lines):
            raise MetadataError(f"{self.path}: has no rows below its header; give the complete file")

    def match(self, pattern: str, explain: Callable[[str], str]) -> pa.StructArray:
        """The named groups of `pattern` (RE2) for every line; the first line that does not match is explained."""
        groups = pc.extract_regex(self.lines, pattern=rf"^{pattern}\r?\n?$")
        if groups.null_count:
            index = first(pc.is_null(groups))
            self.fail(index, explain(self.line(index)))
        return groups

    def check_mids(self, mids: pa.Array, vocabulary: Vocabulary | None, row_of: Callable[[int], int]) -> None:
        """Every MID is in `vocabulary`, or without one in either AudioSet list; `row_of` maps an entry to its line."""
        known = pa.array(sorted(audioset_mids() if vocabulary is None else vocabulary.mids), pa.large_string())
        unknown = pc.invert(pc.is_in(mids.cast(pa.large_string()), value_set=known))
        if pc.any(unknown).as_py():
            entry = first(unknown)
            self.fail(row_of(entry), unknown_class(mids[entry].as_py(), vocabulary))

    def check_unique(self, keys: pa.Array) -> None:
        # Official lists are sorted by video, and rising keys cost far less to see than a hash of each.
        rising = pc.all(pc.less(keys.slice(0, len(keys) - 1), keys.slice(1))).as_py()
        if rising or pc.count_distinct(keys).as_py() == len(keys):
            return
        row_of: dict[str, int] = {}
        for index, key in enumerate(keys.to_pylist()):
            if key in row_of:
                has = f"has clip {key}, which row {row_of[key] + self._first_row} already has"
                self.fail(index, f"{has}; needs every clip once: remove one")
            row_of[key] = index

    def fail(self, index: int, problem: str) -> NoReturn:
        raise MetadataError(f"{self.path}:{index + self._first_row}: {problem}")


def read_text_bytes(path: Path) -> bytes:
    """UTF-8 content of `path` without a byte order mark."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise MetadataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError as error:
            row = content.count(b"\n", 0, error.start) + 1
            problem = f"has byte 0x{content[error.start]:02x}, which is not UTF-8; save the file as UTF-8"
            raise MetadataError(f"{path}:{row}: {problem}") from error
    return content


def unknown_class(mid: str, vocabulary: Vocabulary | None) -> str:
    """What to say of a MID outside the vocabulary."""
    if not mid:
        return "has an empty class, needs a MID such as /m/09x0r; remove the stray comma or the row"
    where = "AudioSet's 527 weak and 456 strong ones" if vocabulary is None else f"the vocabulary's {len(vocabulary)}"
    return f"has class {mid!r}, needs one of {where}; correct the MID or give the vocabulary it is from"


def milliseconds(seconds: pa.Array) -> pa.Array:
    """Text that matches SECONDS -> int64 milliseconds. Exact: with 9 digits at most, float64 cannot round wrongly."""
    return pc.cast(pc.round(pc.multiply(pc.cast(seconds, pa.float64()), 1000.0)), pa.int64())


def first(mask: pa.BooleanArray) -> int:
    """Position of the first true value."""
    return int(pc.index(mask, True).as_py())
