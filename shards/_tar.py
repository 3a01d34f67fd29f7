"""Tars whose bytes follow from their members' names and contents, so that a shard written twice is the same shard."""

import hashlib
import tarfile
from collections.abc import Sequence
from typing import BinaryIO

BLOCK = 512
END_BYTES = 2 * BLOCK
MAX_MEMBER_BYTES = 2**33 - 1  # what eleven octal digits hold


def tar_header(name: str, length: int) -> bytes:
    """Header of a regular file: USTAR, time 0, owner 0, mode 0644; PAX before it for a name over 100 bytes."""
    member = tarfile.TarInfo(name)
    member.size = length
    return member.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def padding(length: int) -> bytes:
    """Zeros that fill a member of `length` bytes up to whole blocks."""
    return bytes(-length % BLOCK)


def tar_layout(names: Sequence[str], lengths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Where the content of every member starts, and how long the tar is: both follow from names and lengths."""
    offsets = []
    end = 0
    for name, length in zip(names, lengths, strict=True):
        # Only a long name needs the header itself to know its size.
        start = end + (BLOCK if len(name) <= tarfile.LENGTH_NAME else len(tar_header(name, length)))
        offsets.append(start)
        end = start + length + len(padding(length))
    return tuple(offsets), end + END_BYTES


class TarWriter:
    """Write members one after another into `file`; its sha256 is known at the end without reading it again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def add(self, name: str, content: bytes) -> int:
        """Append a member; returns the offset of its content."""
        if len(content) > MAX_MEMBER_BYTES:
            raise ValueError(f"{name} has {len(content)} bytes, a member holds at most {MAX_MEMBER_BYTES}")
        self._write(tar_header(name, len(content)))
        offset = self.bytes
        self._write(content)
        self._write(padding(len(content)))
        return offset

    def finish(self) -> str:
        """Write the end marker; returns the sha256 of the whole tar."""
        self._write(bytes(END_BYTES))
        return self._hash.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.bytes += len(content)
