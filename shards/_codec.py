"""Clips and labels as the bytes of one tar member: PCM as FLAC, logits as float16 in a .npy file."""

import io
from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt
import soundfile

from pipeline import AudioSpec, FormatError, IntegrityError, UsageError
from shards._failures import LabelRefused

FLOAT16_MAX = 65504.0


def encode_flac(pcm: npt.NDArray[np.int16], spec: AudioSpec) -> bytes:
    """Int16 [n], or [channels, n] if there are several, -> FLAC. One libFLAC version gives the same bytes again."""
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, pcm.T, spec.sample_rate, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise UsageError(f"FLAC cannot hold {spec.name} ({error.error_string}); choose another sample rate") from error
    content = buffer.getvalue()
    # libsndfile writes through callbacks, which lose exceptions: what is in memory has to be looked at.
    if int.from_bytes(content[21:26], "big") & (1 << 36) - 1 != pcm.shape[-1]:
        raise IntegrityError(f"a clip of {pcm.shape[-1]} samples was encoded to FLAC that states another length; retry")
    return content


def decode_flac(content: bytes, spec: AudioSpec, samples: int, where: str) -> npt.NDArray[np.int16]:
    """FLAC -> int16 [samples] or [channels, samples]. Raises FormatError unless it is that; never decodes more."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            found = (file.format, file.subtype, file.samplerate, file.channels, file.frames)
            expected = ("FLAC", "PCM_16", spec.sample_rate, spec.channels, samples)
            if found != expected:
                raise FormatError(f"{where}: holds {found}, its sidecar says {expected}; write the shard again")
            pcm: npt.NDArray[np.int16] = file.read(samples, dtype="int16")
    except soundfile.LibsndfileError as error:
        raise FormatError(f"{where}: does not decode ({error.error_string}); write the shard again") from error
    if len(pcm) != samples:
        raise FormatError(f"{where}: decodes to {len(pcm)} samples, its sidecar says {samples}; write the shard again")
    return np.ascontiguousarray(pcm.T)


def encode_float16(logits: npt.NDArray[np.float32], shape: tuple[int, ...]) -> bytes:
    """Float32 logits -> .npy (version 1.0, C order, little-endian float16, round to nearest even).

    Raises LabelRefused for another shape and for NaN, infinity and values beyond +-65504.
    """
    if logits.shape != shape:
        raise LabelRefused("wrong_shape", f"logits have shape {logits.shape}, the target needs {shape}")
    if not np.all(np.abs(logits) <= FLOAT16_MAX):
        raise LabelRefused("not_finite", f"logits hold NaN, infinity or values beyond +-{FLOAT16_MAX:.0f}")
    return npy_header(shape) + logits.astype("<f2").tobytes()


def decode_float16(content: bytes, shape: tuple[int, ...], where: str) -> npt.NDArray[np.float32]:
    """The .npy of `encode_float16` -> float32 of `shape`. Raises FormatError for any other header or length."""
    header = npy_header(shape)
    if len(content) != npy_bytes(shape) or not content.startswith(header):
        raise FormatError(f"{where}: is not a float16 array of shape {shape}; label the shard again")
    return np.frombuffer(content, "<f2", offset=len(header)).reshape(shape).astype(np.float32)


def npy_bytes(shape: tuple[int, ...]) -> int:
    """Size of the .npy of one label."""
    return len(npy_header(shape)) + 2 * prod(shape)


@lru_cache(maxsize=16)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """Spelled here, not by numpy, whose padding differs between versions: labels keep their bytes."""
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape!r}, }}"
    padded = text.ljust(-(-(10 + len(text) + 1) // 64) * 64 - 10 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")
