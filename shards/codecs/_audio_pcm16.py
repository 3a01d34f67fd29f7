"""PCM as it is, behind the one 44-byte header of a .wav file that says so."""

import struct

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, FormatError

SUFFIX = "wav"

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def max_bytes(spec: AudioSpec) -> int:
    return _HEADER.size + 2 * spec.channels * spec.max_samples


def encode(pcm: npt.NDArray[np.int16], spec: AudioSpec) -> bytes:
    """Int16 [n] or [channels, n] -> header and little-endian samples, channels interleaved."""
    return _header(spec, pcm.shape[-1]) + bytes(np.ascontiguousarray(pcm.T, "<i2"))


def decode(content: bytes, spec: AudioSpec, samples: int, where: str) -> npt.NDArray[np.int16]:
    """The bytes of `encode` -> int16 [samples] or [channels, samples]. Raises FormatError for any other."""
    header = _header(spec, samples)
    if len(content) != len(header) + 2 * spec.channels * samples or not content.startswith(header):
        needed = f"{samples} int16 samples of {spec.channels} channels at {spec.sample_rate} Hz"
        raise FormatError(f"{where}: is not the .wav of {needed} that its sidecar says; write the shard again")
    values = np.frombuffer(content, "<i2", offset=len(header))
    if spec.channels > 1:
        values = values.reshape(samples, spec.channels).T
    return values.astype(np.int16, order="C")  # a copy: frombuffer gives what cannot be written to


def _header(spec: AudioSpec, samples: int) -> bytes:
    """Spelled here, so that there is one spelling: libraries add chunks of their own."""
    frame_bytes = 2 * spec.channels
    content_bytes = frame_bytes * samples
    return _HEADER.pack(
        b"RIFF", 36 + content_bytes, b"WAVE",
        b"fmt ", 16, 1, spec.channels, spec.sample_rate, frame_bytes * spec.sample_rate, frame_bytes, 16,
        b"data", content_bytes,
    )  # fmt: skip
