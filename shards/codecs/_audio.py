"""The audio codecs: int16 PCM as the bytes of one tar member and back. All are lossless.

A codec is a module with SUFFIX, encode, decode, decode_into and max_bytes, and a line here.
"""

from types import ModuleType

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, FormatError, IntegrityError, UsageError
from shards.codecs import _audio_fast, _audio_flac, _audio_pcm16
from shards.codecs._audio_out import Buffer, PcmOut

_CODECS: dict[str, ModuleType] = {
    "flac": _audio_flac,  # the smallest: for keeping
    "pcm16": _audio_pcm16,  # readable by anything, no decoding at all
    "fast": _audio_fast,  # a third of FLAC's decode time, a ninth without kernels: for training
}
AUDIO_CODECS = tuple(_CODECS)
_OUT = (np.dtype(np.float32), np.dtype(np.int16))


def audio_suffix(codec: str) -> str:
    """What follows the clip key in the name of a member, without the dot."""
    return str(_module(codec).SUFFIX)


def max_audio_bytes(spec: AudioSpec, codec: str) -> int:
    """No clip of `spec` is longer than this in `codec`: a length beyond it is refused before anything is read."""
    return int(_module(codec).max_bytes(spec))


def check_audio_codec(codec: str, spec: AudioSpec) -> None:
    """Whether clips of `spec` can be made and read here in `codec`, asked before a job begins.

    Raises UsageError for a codec that is none, needs a library that is not installed, or cannot hold `spec`.
    """
    shape = (1,) if spec.channels == 1 else (spec.channels, 1)
    encode_audio(np.zeros(shape, np.int16), spec, codec)


def encode_audio(pcm: npt.NDArray[np.int16], spec: AudioSpec, codec: str) -> bytes:
    """Int16 [n], or [channels, n] if there are several, n >= 1 -> the member, decoded again and compared.

    One version of a codec's library gives the same bytes again. Raises UsageError where `codec` cannot hold `spec` or
    needs a library that is not installed, IntegrityError if what was encoded is not what comes back.
    """
    content = bytes(_module(codec).encode(pcm, spec))
    samples = pcm.shape[-1]
    try:
        same = np.array_equal(decode_audio(content, spec, samples, codec, "it"), pcm)
    except FormatError as error:
        raise IntegrityError(
            f"a clip of {samples} samples was encoded wrongly ({error}); give it another try"
        ) from error
    if not same:
        raise IntegrityError(f"a clip of {samples} samples was encoded as another by {codec}; give it another try")
    return content


def decode_audio(content: bytes, spec: AudioSpec, samples: int, codec: str, where: str) -> npt.NDArray[np.int16]:
    """The member -> int16 [samples] or [channels, samples], writable.

    Raises FormatError, which starts with `where`, unless it is exactly that; nothing larger is ever allocated or
    decoded. Raises UsageError for a library that is not installed.
    """
    pcm: npt.NDArray[np.int16] = _module(codec).decode(content, spec, samples, where)
    return pcm


def decode_audio_into(
    content: Buffer,
    spec: AudioSpec,
    samples: int,
    codec: str,
    out: PcmOut,
    where: object,
) -> None:
    """`decode_audio` into int16, or float32 as value / 32768, [>= samples] or [channels, >= samples].

    The last axis of `out` is contiguous; what follows `samples` in it is left alone. After an error `out` holds
    anything. Raises as `decode_audio`, ValueError for an `out` that is not so.
    """
    room = (*out.shape[:-1], samples)
    if room != out.shape:
        out = out[..., :samples]
    if out.shape != room or room != ((samples,) if spec.channels == 1 else (spec.channels, samples)):
        raise ValueError(f"out has shape {out.shape}, a clip of {samples} samples of {spec.name} needs another")
    if out.dtype not in _OUT or out.strides[-1] != out.itemsize:
        raise ValueError(f"out is {out.dtype} with strides {out.strides}, needs int16 or float32, samples side by side")
    _module(codec).decode_into(content, spec, samples, out, where)


def _module(codec: str) -> ModuleType:
    if codec not in _CODECS:
        raise UsageError(f"audio codec is {codec!r}, needs one of {', '.join(AUDIO_CODECS)}")
    return _CODECS[codec]
