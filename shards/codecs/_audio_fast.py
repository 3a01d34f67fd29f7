"""A codec for training: differences of neighbouring samples, their bits transposed, LZ4. Decoding is one call into
Blosc and one running sum.

A member is 14 bytes of its own (magic, version, channels, sample rate, samples) and a Blosc 1 chunk of 16-bit
differences, the channels one after another; each library that reads Blosc reads it.

numcodecs makes and reads the chunks: it brings no other package, lets other threads run meanwhile, and knows how much
room there is. blosc2 packs 5 % tighter, but brings 20 packages, among them an HTTP client, keeps other threads waiting,
and writes as much as a chunk states, whatever room there is.
"""

import struct
import threading
from functools import lru_cache
from types import ModuleType

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, FormatError, UsageError
from shards.codecs import _compiled
from shards.codecs._audio_out import Buffer, PcmOut, store

SUFFIX = "fast"

_HEADER = struct.Struct("<4sBBII")
_MAGIC, _VERSION = b"SEDa", 1
# What Blosc writes before its blocks: format, LZ4 format, flags, bytes of an element, bytes of the content, of a block,
# of the chunk.
_CHUNK = struct.Struct("<BBBBIII")
_BITSHUFFLED_LZ4 = 0x24
_STORED, _UNSPLIT = 0x02, 0x10  # the two flags that may be set as well: nothing to gain; a single stream in a block
_BLOCK_BYTES = 32_768
_LEVEL = 9
_scratch = threading.local()


def max_bytes(spec: AudioSpec) -> int:
    """Where compressing gains nothing, Blosc stores the differences as they are."""
    return _HEADER.size + _CHUNK.size + 2 * spec.channels * spec.max_samples


def encode(pcm: npt.NDArray[np.int16], spec: AudioSpec) -> bytes:
    """Int16 [n] or [channels, n] -> a member. Differences wrap around, and so does their sum."""
    values = np.ascontiguousarray(pcm, "<i2").reshape(-1)
    differences = np.empty_like(values)
    differences[:1] = values[:1]
    np.subtract(values[1:], values[:-1], out=differences[1:])
    blosc = _blosc()
    chunk = blosc.compress(differences, b"lz4", _LEVEL, blosc.BITSHUFFLE, _BLOCK_BYTES)
    return _HEADER.pack(_MAGIC, _VERSION, spec.channels, spec.sample_rate, pcm.shape[-1]) + bytes(chunk)


def decode(content: Buffer, spec: AudioSpec, samples: int, where: object) -> npt.NDArray[np.int16]:
    """The bytes of `encode` -> int16 [samples] or [channels, samples]. Raises FormatError for any other."""
    _check_header(content, spec, samples, where)
    return _values(content, spec.channels, samples, where)


def decode_into(content: Buffer, spec: AudioSpec, samples: int, out: PcmOut, where: object) -> None:
    """`decode` into `out`."""
    _check_header(content, spec, samples, where)
    differences = _thread_memory(spec.channels * samples)
    _decompress(content, differences, where)
    native = _compiled.native
    if native is not None:
        native.running_sum(differences, spec.channels, samples, out)
    else:
        np.cumsum(differences, dtype=differences.dtype, out=differences)
        store(differences.view(np.int16).reshape(out.shape), out)


def decode_fast(content: bytes) -> tuple[npt.NDArray[np.int16], int]:
    """A member of codec `fast` -> int16 [n] or [channels, n], and its sample rate: for readers without a sidecar.

    Raises FormatError for anything else; allocates at most 256 times the size of `content`.
    """
    if len(content) < _HEADER.size:
        raise FormatError(f"has {len(content)} bytes, a clip of codec fast has more; read the member again")
    magic, version, channels, sample_rate, samples = _HEADER.unpack_from(content)
    if (magic, version) != (_MAGIC, _VERSION) or not channels or not samples:
        raise FormatError(f"is not a clip of codec fast, version {_VERSION}; read it with what wrote it")
    if 2 * channels * samples > 256 * len(content):  # LZ4 makes at most 255 bytes of one
        raise FormatError(f"has {len(content)} bytes, which cannot hold {samples} samples; read the member again")
    return _values(content, channels, samples, "clip"), sample_rate


def _check_header(content: Buffer, spec: AudioSpec, samples: int, where: object) -> None:
    if content[: _HEADER.size] != _HEADER.pack(_MAGIC, _VERSION, spec.channels, spec.sample_rate, samples):
        needed = f"{samples} samples of {spec.channels} channels at {spec.sample_rate} Hz"
        raise FormatError(f"{where}: does not start as the clip of {needed} that its sidecar says; write it again")


def _values(content: Buffer, channels: int, samples: int, where: object) -> npt.NDArray[np.int16]:
    sums = np.empty(channels * samples, "<u2")
    _decompress(content, sums, where)
    # Unsigned, because numpy sums int16 four times slower; the bits are the same.
    np.cumsum(sums, dtype=sums.dtype, out=sums)
    pcm = sums.view(np.int16)
    return pcm if channels == 1 else pcm.reshape(channels, samples)


def _thread_memory(values: int) -> npt.NDArray[np.uint16]:
    """Memory of this thread, until it next asks."""
    memory: npt.NDArray[np.uint16] | None = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < values:
        memory = _scratch.memory = np.empty(values, "<u2")
    return memory[:values]


def _decompress(content: Buffer, differences: npt.NDArray[np.uint16], where: object) -> None:
    """Everything that decides what Blosc reads, writes and allocates is checked here before it sees the chunk."""
    chunk = memoryview(content)[_HEADER.size :]
    values = len(differences)
    if len(chunk) < _CHUNK.size:
        raise FormatError(f"{where}: is cut off; write the shard again")
    blosc_format, lz4_format, flags, element_bytes, content_bytes, block_bytes, chunk_bytes = _CHUNK.unpack_from(chunk)
    found = (blosc_format, lz4_format, flags & ~(_STORED | _UNSPLIT), element_bytes, content_bytes, chunk_bytes)
    if found != (2, 1, _BITSHUFFLED_LZ4, 2, 2 * values, len(chunk)) or not 1 <= block_bytes <= content_bytes:
        raise FormatError(f"{where}: its chunk is not {2 * values} bytes as bit-shuffled LZ4; write the shard again")
    try:
        _blosc().decompress(chunk, differences)
    except (RuntimeError, ValueError) as error:
        raise FormatError(f"{where}: does not decompress ({error}); write the shard again") from error


@lru_cache(maxsize=1)
def _blosc() -> ModuleType:
    try:
        from numcodecs import blosc
    except ModuleNotFoundError as error:
        raise UsageError("audio codec fast needs numcodecs: pip install 'sed-distill[fast]'") from error
    # Its thread pool serves the main thread alone and would not outlive a fork; our callers have threads of their own.
    blosc.use_threads = False
    module: ModuleType = blosc
    return module
