"""Tars whose bytes follow from their members' names and contents, so that a shard written twice is the same shard."""

import hashlib
from collections.abc import Sequence
from typing import BinaryIO

BLOCK = 512
END_BYTES = 2 * BLOCK
_NAME_BYTES = 100
MAX_MEMBER_BYTES = 2**33 - 1  # what eleven octal digits hold


def tar_header(name: str, length: int) -> bytes:
    """Header of a regular file: USTAR, time 0, owner 0, mode 0644; PAX before it for a name over 100 bytes.

    Spelled here, not by a library, whose spelling may differ between versions: shards keep their bytes.
    """
    encoded = name.encode("ascii")
    if len(encoded) <= _NAME_BYTES:
        return _ustar(encoded, length, b"0", mode=0o644)
    # A PAX record states its own length in digits, which are part of that length.
    body = b" path=%s\n" % encoded
    size = next(total for digits in range(1, 5) if len(str(total := digits + len(body))) == digits)
    record = b"%d%s" % (size, body)
    extended = _ustar(b"././@PaxHeader", len(record), b"x", mode=0) + record + padding(len(record))
    return extended + _ustar(encoded[:_NAME_BYTES], length, b"0", mode=0o644)


def padding(length: int) -> bytes:
    """Zeros that fill a member of `length` bytes up to whole blocks."""
    return bytes(-length % BLOCK)


def tar_layout(names: Sequence[str], lengths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Where the content of every member starts, and how long the tar is: both follow from names and lengths."""
    offsets = []
    end = 0
    for name, length in zip(names, lengths, strict=True):
        # Only a long name needs the header itself to know its size.
        start = end + (BLOCK if len(name) <= _NAME_BYTES else len(tar_header(name, length)))
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


def _ustar(name: bytes, length: int, kind: bytes, *, mode: int) -> bytes:
    """One block of POSIX 1003.1-1988: octal numbers end in NUL; the sum of all bytes takes blanks for itself."""
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, 0, 0, length, 0)
    head = name.ljust(_NAME_BYTES, b"\0") + numbers
    tail = kind + bytes(_NAME_BYTES) + b"ustar\x0000" + bytes(247)
    return head + b"%06o\0 " % sum(head + b" " * 8 + tail) + tail
