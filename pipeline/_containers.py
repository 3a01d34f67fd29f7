"""What a file's own structure says about its length, so that a copy that was cut off is not taken for a whole one.

Decoders of WAV, AIFF, Ogg, WebM and MP4 return what is left of such a copy and report no error.
"""

import os
import struct
from typing import BinaryIO

# Writers that count a header or a pad byte into the size of their audio chunk are common; a cut this small is no loss.
SLOPPY_HEADER_BYTES = 64

_HEAD_BYTES = 4096
_OGG_TAIL_BYTES = 2 * 65_307  # a page has at most 65,307 bytes, so the last one starts in here
# Far more chunks or boxes than any recording has; a file of zeros would be walked for minutes, 8 bytes at a time.
_MOST_CHUNKS = 100_000
_W64_RIFF, _W64_DATA = b"riff\x2e\x91\xcf\x11", b"data\xf3\xac\xd3\x11"

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def cut_off(file: BinaryIO) -> str | None:
    """What is missing at the end of this file by its own structure, or None if nothing is known to be missing.

    Reads headers (and the last page of an Ogg file), never the whole file. Understands WAV, RF64, AIFF, AU, W64, CAF,
    Ogg, MP4, Matroska/WebM, ASF/WMA, and MP3 with a Xing or VBRI header; other content is None. A size of 0 or all ones
    is taken as unknown, as streaming writers leave it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    stated = _stated_end(file, head, size)
    file.seek(0)
    if isinstance(stated, str):
        return stated
    if stated is not None and stated > size + SLOPPY_HEADER_BYTES:
        return f"its header promises {stated} bytes, the file has {size}"
    return None


def mp3_states_length(file: BinaryIO) -> bool | None:
    """Whether an MP3 carries a Xing, Info or VBRI header; without one every length is a guess from the bit rate.

    None if the file does not begin with MPEG audio, behind an ID3v2 tag or not."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    is_mp3 = _mpeg_frame(file, head) is not None
    states = _mp3_header(file, head) is not None
    file.seek(0)
    return states if is_mp3 else None


def _stated_end(file: BinaryIO, head: bytes, size: int) -> int | str | None:
    """Where the file should end, in bytes; or in words what is missing; or None where it does not say."""
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        header = "<4sI" if head[:4] == b"RIFF" else ">4sI"
        return _chunk_end(file, size, start=12, name=b"data", header=header, align=2, unknown=0xFFFFFFFF)
    if head[:4] == b"RF64" and head[12:16] == b"ds64":  # which has the size of the audio chunk, whose own is all ones
        body = int.from_bytes(head[28:36], "little")
        return _chunk_end(file, size, start=12, name=b"data", header="<4sI", align=2, unknown=0xFFFFFFFF, body=body)
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return _chunk_end(file, size, start=12, name=b"SSND", header=">4sI", align=2, unknown=0xFFFFFFFF)
    if head[:8] == _W64_RIFF:
        return _chunk_end(
            file, size, start=40, name=_W64_DATA, header="<8s8xQ", align=8, unknown=(1 << 64) - 1, inclusive=True
        )
    if head[:4] == b"caff":
        return _chunk_end(file, size, start=8, name=b"data", header=">4sQ", align=1, unknown=(1 << 64) - 1)
    if head[:4] == b".snd" and len(head) >= 12:
        offset, length = struct.unpack(">II", head[4:12])
        return None if length in (0, 0xFFFFFFFF) else offset + length
    if head[:4] == b"OggS":
        return _ogg_end(file, size)
    if head[4:8] in (b"ftyp", b"styp"):
        return _mp4_end(file, size)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_end(head)
    if head[:4] == b"\x30\x26\xb2\x75":
        return _asf_end(head)
    return _mp3_header(file, head)


def _chunk_end(
    file: BinaryIO,
    size: int,
    *,
    start: int,
    name: bytes,
    header: str,
    align: int,
    unknown: int,
    inclusive: bool = False,
    body: int = 0,
) -> int | None:
    """End of the audio chunk in a list of (name, size, body) chunks; `inclusive` when a size counts its own header.

    `body` is the length of the audio chunk's body where its own size is `unknown`, 0 if nothing says."""
    length = struct.calcsize(header)
    for _ in range(_MOST_CHUNKS):
        if start + length > size:
            break
        file.seek(start)
        found, stated = struct.unpack(header, file.read(length))
        if found == name:
            stated = body if stated == unknown else stated
            return None if stated == 0 else start + int(stated if inclusive else length + stated)
        end = start + int(stated if inclusive else length + stated)
        start = max(-(-end // align) * align, start + length)
    return None


def _ogg_end(file: BinaryIO, size: int) -> int | str | None:
    base = max(0, size - _OGG_TAIL_BYTES)
    file.seek(base)
    tail = file.read()
    page = tail.rfind(b"OggS\0")  # with the version after it: the four letters alone also occur by chance in audio
    if page < 0 or page + 27 > len(tail):
        return "its last Ogg page is incomplete"
    segments = tail[page + 26]
    end = page + 27 + segments + sum(tail[page + 27 : page + 27 + segments])
    if page + 27 + segments > len(tail) or end > len(tail):
        return "its last Ogg page is incomplete"
    return None if tail[page + 5] & 4 else "its last Ogg page is not marked as the end of the stream"


def _mp4_end(file: BinaryIO, size: int) -> int | None:
    start = 0
    for _ in range(_MOST_CHUNKS):
        if start + 8 > size:
            return start
        file.seek(start)
        header = file.read(16)
        length, header_bytes = int.from_bytes(header[:4], "big"), 8
        if length == 1:
            length, header_bytes = int.from_bytes(header[8:16], "big"), 16
        if length == 0:  # the last box, to the end of the file
            return None
        start += max(length, header_bytes)
    return None


def _matroska_end(head: bytes) -> int | None:
    """End of the one Segment that follows the EBML header."""
    size, start = _ebml_size(head, 4)
    if size is None or head[start + size : start + size + 4] != b"\x18\x53\x80\x67":
        return None
    segment, body = _ebml_size(head, start + size + 4)
    return None if segment is None else body + segment


def _asf_end(head: bytes) -> int | None:
    """File size out of the file properties object, unless its broadcast flag is set."""
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or at + 92 > len(head) or head[at + 88] & 1:
        return None
    return int.from_bytes(head[at + 40 : at + 48], "little") or None


def _ebml_size(head: bytes, at: int) -> tuple[int | None, int]:
    """EBML variable-length size at `at` (None if unknown) and where the element's body starts."""
    if at >= len(head) or head[at] == 0:
        return None, at
    length = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _id3_bytes(head: bytes) -> int:
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _mp3_header(file: BinaryIO, head: bytes) -> int | None:
    """End of the stream in bytes by its Xing/Info or VBRI header (0 if that leaves it out); None without one."""
    start = _id3_bytes(head)
    frame = _mpeg_frame(file, head)
    if frame is None:
        return None
    if frame[36:40] == b"VBRI":
        return start + int.from_bytes(frame[46:50], "big")
    mpeg1, mono = frame[1] & 0x08, frame[3] >> 6 == 3
    at = 4 + ((17 if mono else 32) if mpeg1 else (9 if mono else 17))
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    if not flags & 1:  # no frame count: as good as no header
        return None
    return start + int.from_bytes(frame[at + 12 : at + 16], "big") if flags & 2 else 0


def _mpeg_frame(file: BinaryIO, head: bytes) -> bytes | None:
    """The first bytes of MPEG audio, layers I to III (layer 0 is AAC in ADTS)."""
    file.seek(_id3_bytes(head))
    frame = file.read(256)
    return frame if len(frame) >= 4 and frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0 and frame[1] & 0x06 else None
