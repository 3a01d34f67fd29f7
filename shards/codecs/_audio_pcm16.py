"""PCM as it is, behind the one 44-byte header of a .wav file that says so."""

import struct

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, FormatError
from shards.codecs._audio_out import Buffer, PcmOut, store

SUFFIX = "wav"

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def max_bytes(spec: AudioSpec) -> int:
    return _HEADER.size + 2 * spec.channels * spec.max_samples


def encode(pcm: npt.NDArray[np.int16], spec: AudioSpec) -> bytes:
    """Int16 [n] or [channels, n] -> header and little-endian samples, channels interleaved."""
    return _header(spec, pcm.shape[-1]) + bytes(np.ascontiguousarray(pcm.T, "<i2"))


def decode(content: Buffer, spec: AudioSpec, samples: int, where: object) -> npt.NDArray[np.int16]:
    """The bytes of `encode` -> int16 [samples] or [channels, samples]. Raises FormatError for any other."""
    return _values(content, spec, samples, where).astype(np.int16, order="C")  # a copy, which can be written to


def decode_into(content: Buffer, spec: AudioSpec, samples: int, out: PcmOut, where: object) -> None:
    """`decode` into `out`. NumPy does it as fast as compiled code could."""
    store(_values(content, spec, samples, where), out)


def _values(content: Buffer, spec: AudioSpec, samples: int, where: object) -> npt.NDArray[np.int16]:
    """A view of the content, [samples] or [channels, samples]. Raises FormatError unless it is that clip."""
    header = _header(spec, samples)
    if len(content) != len(header) + 2 * spec.channels * samples or content[: len(header)] != header:
        needed = f"{samples} int16 samples of {spec.channels} channels at {spec.sample_rate} Hz"
        raise FormatError(f"{where}: is not the .wav of {needed} that its sidecar says; write the shard again")
    values = np.frombuffer(content, "<i2", offset=len(header))
    return values if spec.channels == 1 else values.reshape(samples, spec.channels).T


def _header(spec: AudioSpec, samples: int) -> bytes:
    """Spelled here, so that there is one spelling: libraries add chunks of their own."""
    frame_bytes = 2 * spec.channels
    content_bytes = frame_bytes * samples
    return _HEADER.pack(
        b"RIFF", 36 + content_bytes, b"WAVE",
        b"fmt ", 16, 1, spec.channels, spec.sample_rate, frame_bytes * spec.sample_rate, frame_bytes, 16,
        b"data", content_bytes,
    )  # fmt: skip
