"""Labels as float16: in a .npy file that anything reads, or without its redundancy, both exact to the bit."""

from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import FormatError

FLOAT16_MAX = 65504.0
Buffer = bytes | memoryview
_ZSTD = pa.Codec("zstd", compression_level=1)


def encode_npy(values: npt.NDArray[np.float32]) -> bytes:
    """.npy version 1.0, C order, little-endian float16, of values within +-FLOAT16_MAX."""
    stored = values.astype("<f2")
    return npy_header(stored.shape) + stored.tobytes()


def decode_npy(content: Buffer, shape: tuple[int, ...], where: object) -> npt.NDArray[np.float32]:
    """What `encode_npy` writes -> float32 of `shape`. Raises FormatError for any other header or length."""
    return npy_bits(content, shape, where).view("<f2").astype(np.float32)


def npy_bits(content: Buffer, shape: tuple[int, ...], where: object) -> npt.NDArray[np.uint16]:
    """The float16 bit patterns of a .npy of `encode_npy`, of `shape`, a view. Raises FormatError for any other."""
    header = npy_header(shape)
    if len(content) != npy_bytes(shape) or content[: len(header)] != header:
        raise FormatError(f"{where}: is not a float16 array of shape {shape}; label the shard again")
    return np.frombuffer(content, "<u2", offset=len(header)).reshape(shape)


def npy_bytes(shape: tuple[int, ...]) -> int:
    """Size of the .npy of one label."""
    return len(npy_header(shape)) + 2 * prod(shape)


@lru_cache(maxsize=16)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """Spelled here, not by numpy, whose padding differs between versions: labels keep their bytes."""
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape!r}, }}"
    padded = text.ljust(-(-(10 + len(text) + 1) // 64) * 64 - 10 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")


def encode_packed(values: npt.NDArray[np.float32]) -> bytes:
    """Values within +-FLOAT16_MAX: their bit patterns as integers in the order of the numbers, the differences of those
    along the last axis, zigzag, high bytes apart from low ones, zstd over each: the length of the first, then both."""
    bits = values.astype("<f2").view("<u2")
    ordered = np.where(bits >> 15, ~bits, bits | 0x8000).astype(np.uint16)
    steps = np.diff(ordered, axis=-1, prepend=np.uint16(0x8000)).view(np.int16)
    planes = (steps << 1 ^ steps >> 15).astype("<u2").view(np.uint8).reshape(-1, 2)
    high, low = (_ZSTD.compress(planes[:, plane].tobytes(), asbytes=True) for plane in (1, 0))
    packed: bytes = len(high).to_bytes(4, "little") + high + low
    return packed


def decode_packed(content: memoryview, shape: tuple[int, ...], where: object) -> npt.NDArray[np.float32]:
    """What `encode_packed` writes -> float32 of `shape`. Raises FormatError for anything else."""
    return packed_bits(*packed_planes(content, prod(shape), where), shape).view("<f2").astype(np.float32)


def packed_planes(content: memoryview, cells: int, where: object) -> tuple[Buffer, Buffer]:
    """The high and the low bytes of a packed label, `cells` each. Raises FormatError unless they are that many."""
    split = 4 + int.from_bytes(content[:4], "little")
    try:
        high = _ZSTD.decompress(content[4:split], decompressed_size=cells)
        low = _ZSTD.decompress(content[split:], decompressed_size=cells)
    except OSError as error:
        raise FormatError(f"{where}: label does not decompress ({error}); label the shard again") from error
    return high, low


def packed_bits(high: Buffer, low: Buffer, shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """The float16 bit patterns that were packed, of `shape`."""
    planes = np.empty((prod(shape), 2), np.uint8)
    planes[:, 1], planes[:, 0] = np.frombuffer(high, np.uint8), np.frombuffer(low, np.uint8)
    zigzag = planes.view("<u2").reshape(shape)
    steps = zigzag >> 1 ^ -(zigzag & 1)
    steps[..., :1] += np.uint16(0x8000)
    ordered = np.add.accumulate(steps, axis=-1, dtype=np.uint16)
    return np.where(ordered >> 15, ordered ^ 0x8000, ~ordered).astype("<u2")


def max_packed_bytes(cells: int) -> int:
    """No packed label of that many cells is longer: zstd stores what it cannot compress, in blocks of 128 KiB."""
    return 4 + 2 * (cells + cells // 128 + 64)
