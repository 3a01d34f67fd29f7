"""FLAC: encoded by libsndfile, decoded by it or, three to four times faster, by the compiled kernels."""

import io

import numpy as np
import numpy.typing as npt
import soundfile

from pipeline import AudioSpec, FormatError, UsageError
from shards.codecs import _compiled
from shards.codecs._audio_out import Buffer, PcmOut, store

SUFFIX = "flac"


def max_bytes(spec: AudioSpec) -> int:
    """Twice the PCM and some more; the worst that FLAC does is to store it as it is, with headers."""
    return 4 * spec.max_samples * spec.channels + 65_536


def encode(pcm: npt.NDArray[np.int16], spec: AudioSpec) -> bytes:
    """Int16 [n] or [channels, n] -> FLAC. One libFLAC version gives the same bytes again."""
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, pcm.T, spec.sample_rate, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise UsageError(f"FLAC cannot hold {spec.name} ({error.error_string}); choose another sample rate") from error
    # libsndfile writes through callbacks, which lose exceptions: nothing but decoding tells whether all went well.
    return buffer.getvalue()


def decode(content: Buffer, spec: AudioSpec, samples: int, where: object) -> npt.NDArray[np.int16]:
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


def decode_into(content: Buffer, spec: AudioSpec, samples: int, out: PcmOut, where: object) -> None:
    """`decode` into `out`. What the kernels do not know or find wrong, libsndfile decodes or explains."""
    native = _compiled.native
    if native is None or not native.flac(content, spec.sample_rate, spec.channels, samples, out):
        store(decode(content, spec, samples, where), out)
