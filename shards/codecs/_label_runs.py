"""Rows of levels as runs of equal ones: a byte for a run, rare bytes for what does not fit it, zstd over both streams.

A run is a length and the step to its level from the level before it (from level 0 for the first run of all; the first
run of another row steps from the last of the row before). Its token holds the length in the high four bits: length - 1
up to 13; 14 for the last run of its row, whose length is what is left; 15 for one that the side stream states. The low
four bits hold the step: 0, 1, 2, 3, ... for +1, -1, +2, -2, ...; 15 for one that the side stream states. The side
stream holds those lengths (length - 15, one byte), then the low bytes of those steps in zigzag, then the high ones.
One Huffman code over tokens, which is what zstd makes of them, knows how length and step depend on each other.
"""

import struct
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import FormatError
from shards.codecs import _compiled

_HEAD = struct.Struct("<5I")  # runs; stated lengths; stated steps; bytes of the tokens; bytes of the side stream
_LAST, _STATED = 14, 15
_LONGEST = 15 + 255
Buffer = bytes | memoryview
_Bytes = npt.NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.generic)
_ZSTD = pa.Codec("zstd", compression_level=1)


def encode_runs(levels: npt.NDArray[np.uint16]) -> bytes:
    """Levels [row, time], C-contiguous, within [0, 32767]. The same with the kernels and without."""
    native = _compiled.native
    if native is None:
        runs, lengths, jumps, *streams = _runs_of(levels)
    else:
        tokens, side = np.empty(levels.size, np.uint8), np.empty(3 * levels.size, np.uint8)
        runs, lengths, jumps = native.encode_runs(levels, *levels.shape, tokens, side)
        streams = [tokens[:runs], side[: lengths + 2 * jumps]]
    compressed = [_ZSTD.compress(stream, asbytes=True) for stream in streams]
    return _HEAD.pack(runs, lengths, jumps, *map(len, compressed)) + b"".join(compressed)


def _runs_of(levels: npt.NDArray[np.uint16]) -> tuple[int, int, int, _Bytes, _Bytes]:
    """Runs, stated lengths and stated steps; tokens and side stream."""
    frames = levels.shape[1]
    line = levels.astype(np.int32).ravel()
    starts = np.empty(levels.shape, bool)
    starts[:, 0] = True
    np.not_equal(levels[:, 1:], levels[:, :-1], out=starts[:, 1:])
    start = np.flatnonzero(starts)
    length = np.diff(start, append=line.size)
    step = np.diff(line[start], prepend=0)
    is_last = np.append(start[1:] % frames == 0, True)
    if frames > _LONGEST:
        # A run too long to be stated goes on with a step of 0.
        pieces = np.where(is_last, 1, -(-length // _LONGEST))
        first = np.cumsum(pieces) - pieces
        end = first + pieces - 1
        whole = np.full(pieces.sum(), _LONGEST)
        whole[end] = length - (pieces - 1) * _LONGEST
        steps = np.zeros(len(whole), np.int32)
        steps[first] = step
        lasts = np.zeros(len(whole), bool)
        lasts[end] = is_last
        length, step, is_last = whole, steps, lasts
    is_stated = ~is_last & (length >= _STATED)
    zigzag = np.where(step < 0, -2 * step - 1, 2 * step - 2)
    is_jump = (step == 0) | (zigzag >= _STATED)
    high = np.where(is_last, _LAST, np.where(is_stated, _STATED, length - 1))
    tokens = high << 4 | np.where(is_jump, _STATED, zigzag)
    lengths = length[is_stated] - _STATED
    jumps = step[is_jump] << 1 ^ step[is_jump] >> 31
    side = np.concatenate((lengths, jumps & 255, jumps >> 8))
    return len(tokens), len(lengths), len(jumps), tokens.astype(np.uint8), side.astype(np.uint8)


def decode_runs(
    content: memoryview, table: npt.NDArray[_Value], shape: tuple[int, int], where: object
) -> npt.NDArray[_Value]:
    """table[level], [row, time] of `shape`. Raises FormatError for anything but what `encode_runs` writes."""
    rows, frames = shape
    streams, stated, jumps = run_streams(content, shape, where)
    tokens, side = (np.frombuffer(stream, np.uint8) for stream in streams)
    high, low = tokens >> 4, tokens & 15
    at_last, at_stated, at_jump = ((half == value).nonzero()[0] for half, value in ((high, 14), (high, 15), (low, 15)))
    if (len(at_last), len(at_stated), len(at_jump)) != (rows, stated, jumps) or at_last[-1] != len(tokens) - 1:
        raise FormatError(other_side_stream(where))
    length = high.astype(np.intp)
    length += 1
    length[at_stated] = side[:stated].astype(np.intp) + _STATED
    first = np.zeros(rows, np.intp)
    first[1:] = at_last[:-1] + 1
    left = frames + _LAST + 1 - np.add.reduceat(length, first)
    length[at_last] = left
    # +1, -1, +2, -2, ...: arithmetic on bytes; np.where would cost five times as much.
    sign = np.negative(low & 1)
    step = ((((low >> 1) + 1) ^ sign) - sign).view(np.int8).astype(np.intp)
    zigzag = side[stated : stated + jumps] | side[stated + jumps :].astype(np.intp) << 8
    step[at_jump] = zigzag >> 1 ^ -(zigzag & 1)
    level = np.add.accumulate(step)
    if left.min() < 1 or level.min() < 0 or level.max() >= len(table):
        raise FormatError(runs_leave(where, len(table)))
    return np.repeat(table[level], length).reshape(shape)


def decode_codes(content: memoryview, levels: int, shape: tuple[int, int], where: object) -> npt.NDArray[np.uint16]:
    """The levels themselves, of a table of that many, [row, time]. Raises FormatError as decode_runs does."""
    native = _compiled.native
    codes = np.arange(levels, dtype=np.uint16)
    if native is None:
        return decode_runs(content, codes, shape, where)
    streams, stated, jumps = run_streams(content, shape, where)
    out = np.empty(shape, np.uint16)
    wrong = native.runs(*streams, stated, jumps, *shape, codes, out, None)
    if wrong:
        raise FormatError(other_side_stream(where) if wrong == 1 else runs_leave(where, levels))
    return out


def run_streams(content: memoryview, shape: tuple[int, int], where: object) -> tuple[tuple[Buffer, Buffer], int, int]:
    """Tokens and side stream; stated lengths and steps in it: as many bytes as they have to be. Raises FormatError."""
    rows, frames = shape
    if len(content) < _HEAD.size:
        raise FormatError(f"{where}: label stops in its header; label the shard again")
    runs, stated, jumps, *sizes = _HEAD.unpack_from(content)
    if not rows <= runs <= rows * frames or stated > runs or jumps > runs or _HEAD.size + sum(sizes) != len(content):
        raise FormatError(f"{where}: label has streams that do not fit its shape {shape}; label the shard again")
    split = _HEAD.size + sizes[0]
    try:
        tokens = _ZSTD.decompress(content[_HEAD.size : split], decompressed_size=runs)
        side = _ZSTD.decompress(content[split:], decompressed_size=stated + 2 * jumps)
    except OSError as error:
        raise FormatError(f"{where}: label does not decompress ({error}); label the shard again") from error
    return (tokens, side), stated, jumps


def other_side_stream(where: object) -> str:
    return f"{where}: label has another side stream than its runs ask for; label the shard again"


def runs_leave(where: object, levels: int) -> str:
    return f"{where}: label's runs leave its rows or the {levels} levels; label the shard again"
