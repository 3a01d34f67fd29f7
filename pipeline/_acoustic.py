"""A small acoustic fingerprint of a clip: tells another decode of the same audio from shifted or other audio.

Eight bands between 200 and 3400 Hz, which every codec and sample rate keeps; their levels in decibels above a floor
that hides what codecs do not keep. One bit per 40 ms frame and combination of bands: does the level rise through the
frame? A rise and not a level, so gain and equaliser do not matter; smooth over about 100 ms, so an offset of half a
frame changes few bits and one of a frame many. Silence and steady sounds have no rises: they say nothing, and the
comparison says so. `python -m benchmarks.acoustic` measures how far it can be trusted.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline._errors import UsageError
from pipeline._grid import HOP_MS

ACOUSTIC_BYTES = 64
"""Length of every fingerprint: a byte with the number of frames, then 504 bits."""
MAX_ACOUSTIC_FRAMES = 4 * (ACOUSTIC_BYTES - 1)
"""What the first byte is at most: 10 s have two bits a frame; shorter clips have more."""

AcousticVerdict = Literal["same", "shifted", "different", "unknown"]

_BITS = 8 * (ACOUSTIC_BYTES - 1)
_STEP_MS, _WINDOW_MS = 10, 30
_STEPS = HOP_MS // _STEP_MS  # per frame
_LINES_HZ = np.arange(200, 3400, 100)
_BAND_EDGES_HZ = (200, 300, 450, 650, 900, 1250, 1700, 2400, 3400)
_BANDS = len(_BAND_EDGES_HZ) - 1
_AT_ONCE = 8
# The floor under a band's level: shares of its own mean and of that of all bands, and 25 steps of int16.
_FLOOR_BAND, _FLOOR_ALL, _FLOOR_STEPS = 1e-3, 3e-4, 0.3
_SLOPE_MS = 35
_RISE_DB = 0.25

_MAX_LAG = 55  # frames, 2.2 s
_SAME_FRAMES, _SHIFTED_FRAMES = 0.8, 0.9  # 20 ms is 0.5, 40 ms 1; short clips and codecs blur them
_DRAWN_ANEW = 0.3  # share of bits that a copy has by chance only; half of them agree
# Evidence is in nats. In the benchmark no two recordings without a common sound reach 24 at any lag, and no copy from a
# codec of 32 kbit/s or more has less than 0 at its own.
_LEAST_OF_COPIES = 24.0
_MOST_OF_OTHERS = 0.0
_LEAST_OWN = 40.0  # evidence that a clip has of itself
_LEAST_CHANGES = 12  # bits that tell a clip from itself one frame later
_LEAST_LEAD = 10.0
_SILENT_AGAINST = (-70.0, 160.0)  # evidence, and what the livelier clip has of itself


@dataclass(frozen=True, kw_only=True)
class AcousticMatch:
    """`lag_ms`: how much later the other clip has what the stored one has; negative: earlier. 0 unless shifted."""

    verdict: AcousticVerdict
    lag_ms: int = 0


def acoustic_fingerprint(pcm: npt.NDArray[np.int16], sample_rate: int) -> bytes:
    """Fingerprint of int16 [n] or [channels, n], n >= 0: of the first channel, and at most the first 10.08 s."""
    if pcm.dtype != np.int16 or pcm.ndim not in (1, 2):
        raise UsageError(
            f"an acoustic fingerprint is of int16 [samples] or [channels, samples], not {pcm.dtype} {pcm.shape}"
        )
    mono = (pcm if pcm.ndim == 1 else pcm[0])[: MAX_ACOUSTIC_FRAMES * HOP_MS * sample_rate // 1000]
    frames = -(-len(mono) * 1000 // (HOP_MS * sample_rate))
    streams = _streams(frames)
    bits = np.zeros(_BITS, dtype=np.uint8)
    if frames:
        rises = _rises_db(_levels_db(mono, sample_rate, frames)) > _RISE_DB
        bits[: streams * frames] = rises[:streams].ravel()
    return bytes([frames]) + np.packbits(bits).tobytes()


def compare_acoustic(stored: bytes, other: bytes) -> AcousticMatch:
    """Whether two clips are the same audio, and at which lag: in frames of 40 ms, within 2.2 s either way.

    Copies at most 20 ms apart are "same", at least 40 ms apart "shifted"; in between the verdict is either, or
    "unknown". So it is if the bits could be of one clip or of two, or of one at several lags: silence, steady or
    strictly periodic sound, clips of less than about half a second. Raises UsageError for what is not a fingerprint."""
    one, two = _bits(stored), _bits(other)
    streams = min(len(one), len(two))
    one, two = one[:streams], two[:streams]
    if min(one.shape[1], two.shape[1]) < 2:
        return AcousticMatch(verdict="unknown")
    overlap = min(one.shape[1], two.shape[1]) // 2 + 1
    # One lag more at either end, so that the best one has neighbours.
    lags = np.arange(max(-_MAX_LAG, overlap - one.shape[1]) - 1, min(_MAX_LAG, two.shape[1] - overlap) + 2)
    evidence = _evidence(one, two, lags)
    best = 1 + int(np.argmax(evidence[1:-1]))
    before, peak, after = (float(evidence[best + step]) for step in (-1, 0, 1))
    if peak < _LEAST_OF_COPIES:
        own = sorted(float(_evidence(bits, bits, np.zeros(1, dtype=np.int64))[0]) for bits in (one, two))
        informative = own[0] >= _LEAST_OWN and min(_changes(one), _changes(two)) >= _LEAST_CHANGES
        one_is_silent = peak < _SILENT_AGAINST[0] and own[1] >= _SILENT_AGAINST[1]
        different = (informative and peak < _MOST_OF_OTHERS) or one_is_silent
        return AcousticMatch(verdict="different" if different else "unknown")
    rival = max(evidence[: best - 1].max(initial=-np.inf), evidence[best + 2 :].max(initial=-np.inf))
    sharpness = 2 * peak - before - after
    leads = peak - rival >= max(_LEAST_LEAD, peak / 5) and sharpness >= _LEAST_OF_COPIES
    if not leads or min(_changes(one), _changes(two)) < _LEAST_CHANGES:
        return AcousticMatch(verdict="unknown")
    lag = int(lags[best]) + 0.5 * (after - before) / sharpness  # the top of the parabola through the three
    if abs(lag) <= _SAME_FRAMES:
        return AcousticMatch(verdict="same")
    if abs(lag) < _SHIFTED_FRAMES:
        return AcousticMatch(verdict="unknown")
    return AcousticMatch(verdict="shifted", lag_ms=HOP_MS * (max(1, round(lag)) if lag > 0 else min(-1, round(lag))))


def _streams(frames: int) -> int:
    return min(_BANDS, _BITS // max(1, frames))


def _levels_db(mono: npt.NDArray[np.int16], sample_rate: int, frames: int) -> npt.NDArray[np.float32]:
    """Levels of the bands in every step of 10 ms, float32 [bands, steps]."""
    waves = _waves(sample_rate)
    window = len(waves)
    padded = np.zeros(max(len(mono), window), dtype=np.float32)
    padded[: len(mono)] = mono
    middles = (np.arange(frames * _STEPS) + 0.5) * (_STEP_MS * sample_rate / 1000)
    # Windows that would reach over an edge lie at it: the edge itself is no rise.
    starts = np.clip(np.rint(middles - window / 2), 0, len(padded) - window).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    parts = np.empty((len(starts), waves.shape[1]), dtype=np.float32)
    # A few windows at a time: bigger products wake BLAS's own threads, which fight with those of the caller.
    for first in range(0, len(starts), _AT_ONCE):
        np.matmul(windows[starts[first : first + _AT_ONCE]], waves, out=parts[first : first + _AT_ONCE])
    parts *= parts
    first_lines = np.searchsorted(_LINES_HZ, _BAND_EDGES_HZ[:-1])
    energy = np.add.reduceat((parts[:, : len(_LINES_HZ)] + parts[:, len(_LINES_HZ) :]).T, first_lines, axis=0)
    mean = energy.mean(axis=1, keepdims=True)
    levels: npt.NDArray[np.float32] = 10 * np.log10(
        energy + (_FLOOR_BAND * mean + _FLOOR_ALL * mean.sum() + _FLOOR_STEPS)
    )
    return levels


@lru_cache(maxsize=4)
def _waves(sample_rate: int) -> npt.NDArray[np.float32]:
    """Tapered cosines and sines of the lines over a window, float32 [samples, 2 * lines].

    Few lines by a matrix product cost less than all of them by FFT, and lie at the same frequencies for every rate."""
    samples = -(-_WINDOW_MS * sample_rate // 1000)
    taper = np.sin(np.pi * (np.arange(samples) + 0.5) / samples) / samples
    phases = 2 * np.pi / sample_rate * np.outer(np.arange(samples), _LINES_HZ)
    waves: npt.NDArray[np.float32] = (taper[:, np.newaxis] * np.hstack([np.cos(phases), np.sin(phases)])).astype("f4")
    return waves


def _rises_db(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Level after the middle of every frame less the level before it, float32 [streams, frames]: first of the mean
    of the bands, then of ever finer contrasts between them."""
    steps = np.arange(-7.5, 8)
    kernel = steps * np.exp(-0.5 * (steps * _STEP_MS / _SLOPE_MS) ** 2)
    kernel /= kernel[steps > 0].sum()
    margin = (len(kernel) - _STEPS) // 2
    padded = np.pad(_CONTRASTS @ levels, ((0, 0), (margin, margin)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=1)[:, ::_STEPS]
    rises: npt.NDArray[np.float32] = windows @ kernel.astype(np.float32)
    return rises


def _walsh(size: int) -> npt.NDArray[np.float32]:
    """Walsh functions by number of sign changes, float32 [size, size], each with absolute values that sum to 1."""
    rows: npt.NDArray[np.float64] = np.ones((1, 1))
    while len(rows) < size:
        rows = np.block([[rows, rows], [rows, -rows]])
    changes = (np.diff(rows, axis=1) != 0).sum(axis=1)
    functions: npt.NDArray[np.float32] = (rows[np.argsort(changes)] / size).astype(np.float32)
    return functions


def _changes(bits: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(bits[:, 1:] != bits[:, :-1]))


def _evidence(
    one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_], lags: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """For every lag of the second clip (frames) the log likelihood ratio, in nats, of copies against two clips.

    Of two clips each has its rises where it will; of copies only a share of the bits is drawn so, the others agree."""
    skipped, others_skipped = np.maximum(-lags, 0), np.maximum(lags, 0)
    overlap = np.minimum(one.shape[1] - skipped, two.shape[1] - others_skipped)
    total = len(one) * overlap
    both = _correlation(one, two)[lags + one.shape[1] - 1]
    either = _between(one, skipped, overlap) + _between(two, others_skipped, overlap) - both
    share = np.minimum((either + both + 1) / (2 * total + 2), 0.5)
    evidence: npt.NDArray[np.float64] = (
        both * np.log(_DRAWN_ANEW + (1 - _DRAWN_ANEW) / share)
        + (total - either) * np.log(_DRAWN_ANEW + (1 - _DRAWN_ANEW) / (1 - share))
        + (either - both) * np.log(_DRAWN_ANEW)
    )
    return evidence


def _correlation(one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Common rises of all streams at all lags, the first one at which the last frame of `one` meets the first."""
    pairs = zip(one.astype(np.float64), two.astype(np.float64), strict=True)
    common: npt.NDArray[np.float64] = np.array([np.correlate(others, bits, "full") for bits, others in pairs]).sum(
        axis=0
    )
    return common


def _between(
    bits: npt.NDArray[np.bool_], first: npt.NDArray[np.int64], frames: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rises in `frames` frames from `first` on."""
    sums = np.concatenate([[0], bits.sum(axis=0).cumsum()])
    rises: npt.NDArray[np.int64] = sums[first + frames] - sums[first]
    return rises


def _bits(fingerprint: bytes) -> npt.NDArray[np.bool_]:
    """The rises, [streams, frames]."""
    if len(fingerprint) != ACOUSTIC_BYTES or fingerprint[0] > MAX_ACOUSTIC_FRAMES:
        raise UsageError(
            f"an acoustic fingerprint has {ACOUSTIC_BYTES} bytes, the first of them at most {MAX_ACOUSTIC_FRAMES}"
        )
    frames = fingerprint[0]
    streams = _streams(frames)
    bits = np.unpackbits(np.frombuffer(fingerprint, np.uint8, offset=1), count=streams * frames)
    return bits.reshape(streams, frames).astype(np.bool_)


_CONTRASTS = _walsh(_BANDS)
