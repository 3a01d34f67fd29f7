"""From a place in a tar to numbers in the caller's memory: read and check, decode, convert, all without the GIL where
the compiled kernels are built, with the same results where they are not.

Contents are memoryviews or bytes; `out` is the caller's NumPy array, written and never kept; `where` names a clip in
errors and may be any object whose str() does. Nothing larger than a clip is allocated, and nothing is read or written
out of bounds whatever a content holds.
"""

import os

import google_crc32c

from shards.codecs import _compiled
from shards.codecs._audio import decode_audio_into
from shards.codecs._label_into import LabelValues, decode_label_into, label_values, table_of

__all__ = [
    "NATIVE",
    "ShortRead",
    "WrongChecksum",
    "LabelValues",
    "decode_audio_into",
    "decode_label_into",
    "label_values",
    "read_checked",
    "table_of",
]

NATIVE = _compiled.native is not None


class ShortRead(Exception):
    """The file ends before the range that was asked for does."""


class WrongChecksum(Exception):
    """The bytes that were read have another CRC32C."""


def read_checked(fd: int, offset: int, length: int, crc32c: int, scratch: bytearray) -> memoryview:
    """`length` bytes at `offset` of an open file, in `scratch` where it is long enough, else in new memory.

    The view is valid until `scratch` is written again. Raises ShortRead, WrongChecksum, or OSError of the machine.
    """
    memory = scratch if len(scratch) >= length else bytearray(length)
    content = memoryview(memory)[:length]
    if _compiled.native is not None:
        found, checksum = _compiled.native.read_crc32c(fd, offset, content)
    else:
        found = _read_into(fd, offset, content)
        checksum = google_crc32c.value(bytes(content)) if found == length else 0
    if found != length:
        raise ShortRead(f"{found} of {length} bytes at {offset}")
    if checksum != crc32c:
        raise WrongChecksum(f"CRC32C is {checksum}, not {crc32c}")
    return content


def _read_into(fd: int, offset: int, content: memoryview) -> int:
    """Bytes read: fewer than there is room for only at the end of the file."""
    done = 0
    while done < len(content):
        part = os.pread(fd, len(content) - done, offset + done)  # preadv would save a copy, but is not everywhere
        if not part:
            break
        content[done : done + len(part)] = part
        done += len(part)
    return done
