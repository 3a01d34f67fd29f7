"""From decoded audio to what is stored: downmix, resample, cut, saturating int16, and what to know about the result."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline._decode import decode
from pipeline._decoded import Decoded
from pipeline._errors import ClipRejected, UsageError
from pipeline._specs import AudioSpec

PcmFlag = Literal[
    "silent",  # stored audio below SILENT_RMS
    "antiphase",  # the channels cancel each other: the downmix keeps less than ANTIPHASE_ENERGY of their mean energy
    "clipped",  # samples beyond full scale, saturated (lossy decoders overshoot); `clipped_samples` counts them
    "cut",  # longer than the spec's clip; `cut_samples` counts what was left out
]
PCM_FLAGS: tuple[str, ...] = get_args(PcmFlag)
_SAMPLE_VALUE = np.float32(1 / 32768)

SILENT_RMS = 1e-4  # of full scale: -80 dB, about 3 steps of int16
ANTIPHASE_ENERGY = 0.01  # -20 dB; unrelated channels lose 3 dB

# How much of a long recording the resampler hears past the cut: far more than its filter reaches, so the clip is the
# same as if the whole recording had been resampled and then cut (test_cut_equals_resampling_the_whole).
_MARGIN_S = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class PcmClip:
    """One clip as stored: int16 [samples] for mono, [channels, samples] for foa, at its true length, never padded.

    `peak` and `rms` are of full scale, before saturation; `source_*`, `codec`, `decoder` say what it was made of."""

    pcm: npt.NDArray[np.int16]
    sample_rate: int
    peak: float
    rms: float
    clipped_samples: int
    cut_samples: int
    flags: tuple[PcmFlag, ...]
    codec: str
    decoder: str
    source_sample_rate: int
    source_channels: int

    @property
    def samples(self) -> int:
        """Samples per channel."""
        return int(self.pcm.shape[-1])

    @property
    def identity(self) -> str:
        return pcm_identity(self.pcm)


def clip_from_file(
    path: Path, *, spec: AudioSpec, start_ms: int = 0, duration_ms: int | None = None, expected_ms: int | None = None
) -> PcmClip:
    """Decode, downmix, resample and check one clip of a recording.

    Without `duration_ms` the whole recording is decoded, so that damage anywhere in it is found, and cut at the spec's
    length. With it, exactly that window is cut at the source's rate (`decode`) and resampled alone: neighbouring clips
    share no samples, and each begins and ends as a recording of its own would.
    `expected_ms` is the length that the clip's segment promises; a clip shorter by more than a frame is truncated.
    Raises ClipRejected."""
    if duration_ms is None and start_ms:
        raise UsageError("a clip that does not start at 0 needs its duration; pass duration_ms")
    if duration_ms is not None and duration_ms > spec.clip_ms:
        raise UsageError(
            f"a window of {duration_ms} ms is longer than a clip of {spec.clip_ms} ms; cut it with clip_starts"
        )
    clip = to_pcm16(decode(path, start_ms=start_ms, duration_ms=duration_ms), spec)
    if (
        expected_ms is not None
        and clip.samples + spec.hop_samples < min(expected_ms, spec.clip_ms) * spec.sample_rate // 1000
    ):
        raise ClipRejected(
            "truncated", f"{clip.samples * 1000 // spec.sample_rate} ms of the {expected_ms} ms that its segment states"
        )
    return clip


def to_pcm16(decoded: Decoded, spec: AudioSpec) -> PcmClip:
    """Downmix to the spec's layout, resample (soxr HQ, as librosa does by default), cut, round to int16.

    Length is ceil(n * spec.sample_rate / source rate), at most `spec.max_samples`. int16 mono at the spec's rate comes
    out bit-identical. Raises ClipRejected: "unsupported" for foa from anything but 4 channels, "not_finite" for samples
    so large that the result is not."""
    channels, total = decoded.samples.shape
    kept = decoded.samples[:, : (spec.clip_ms + 1000 * _MARGIN_S) * decoded.sample_rate // 1000]
    if spec.layout == "mono":
        mixed = downmix(kept)[np.newaxis]
    elif channels == spec.channels:
        mixed = np.ascontiguousarray(kept)
    else:
        raise ClipRejected("unsupported", f"{channels} channels; layout {spec.layout} is stored from {spec.channels}")
    antiphase = spec.layout == "mono" and _energy(mixed) < ANTIPHASE_ENERGY * _energy(kept)
    audio = np.stack([resample(channel, decoded.sample_rate, spec.sample_rate) for channel in mixed])[
        :, : spec.max_samples
    ]
    scaled = np.rint(audio * np.float32(32768))
    low, high = float(scaled.min(initial=0)), float(scaled.max(initial=0))
    if not np.isfinite([low, high]).all():  # finite in the recording, beyond float32 once mixed, filtered and scaled
        raise ClipRejected("not_finite", "samples are too large to resample: float PCM that is damaged or no audio")
    clipped_samples = int(np.count_nonzero((scaled < -32768) | (scaled > 32767))) if low < -32768 or high > 32767 else 0
    cut_samples = _resampled_length(total, decoded.sample_rate, spec.sample_rate) - audio.shape[1]
    rms = _energy(audio) ** 0.5
    found: dict[PcmFlag, bool] = {
        "silent": rms < SILENT_RMS,
        "antiphase": antiphase,
        "clipped": clipped_samples > 0,
        "cut": cut_samples > 0,
    }
    pcm = np.clip(scaled, -32768, 32767).astype(np.int16)
    return PcmClip(
        pcm=pcm[0] if spec.layout == "mono" else pcm,
        sample_rate=spec.sample_rate,
        peak=max(abs(low), high) / 32768,
        rms=rms,
        clipped_samples=clipped_samples,
        cut_samples=cut_samples,
        flags=tuple(flag for flag, is_so in found.items() if is_so),
        codec=decoded.codec,
        decoder=decoded.decoder,
        source_sample_rate=decoded.sample_rate,
        source_channels=channels,
    )


def pcm_identity(pcm: npt.NDArray[np.int16]) -> str:
    """First 32 hex digits of the sha256 of a clip's little-endian int16 samples, channels interleaved.

    `pcm` is [samples] or [channels, samples]. Independent of container, codec, shard and key."""
    if pcm.dtype != np.int16 or pcm.ndim not in (1, 2):
        raise UsageError(f"audio identity is of int16 [samples] or [channels, samples], not {pcm.dtype} {pcm.shape}")
    return hashlib.sha256(np.ascontiguousarray(pcm.T, dtype="<i2").tobytes()).hexdigest()[:32]


def waveform_into(out: npt.NDArray[np.float32], pcm: npt.NDArray[np.int16]) -> None:
    """Write mono int16 [n] as float32 in [-1, 1) (sample / 32768) to the start of `out` [>= n], zeros behind it."""
    np.multiply(pcm, _SAMPLE_VALUE, out=out[: len(pcm)], dtype=np.float32)
    out[len(pcm) :] = 0


def downmix(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Float32 [channels, n] -> [n], the mean of the channels, row by row: far faster than `mean` when interleaved."""
    if len(samples) == 1:
        return np.ascontiguousarray(samples[0])
    total: npt.NDArray[np.float32] = samples[0] + samples[1]
    for channel in samples[2:]:
        total += channel
    total *= np.float32(1 / len(samples))
    return total


def resample(samples: npt.NDArray[np.float32], source_rate: int, target_rate: int) -> npt.NDArray[np.float32]:
    """Float32 [n] -> [ceil(n * target_rate / source_rate)]; equal rates change nothing."""
    if source_rate == target_rate:
        return samples
    import soxr  # part of the extra for making shards; reading them resamples nothing

    length = _resampled_length(len(samples), source_rate, target_rate)
    resampled = soxr.resample(samples, source_rate, target_rate, quality="HQ")[:length]
    fitted: npt.NDArray[np.float32] = np.pad(resampled, (0, length - len(resampled)))
    return fitted


def _resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    return -(-samples * target_rate // source_rate)


def _energy(samples: npt.NDArray[np.float32]) -> float:
    """Mean square over all channels."""
    flat = samples.ravel(order="K")
    return float(np.dot(flat, flat)) / max(1, flat.size)
