"""Parts of the synthesisers: oscillators, envelopes, on/off patterns, coloured noise. Mono float64, any rate."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Waveform = npt.NDArray[np.float64]

_TABLE_SAMPLES = 4096
_EDGE_S = 0.005


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A draw whose logarithm is uniform: the natural scale of frequencies."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def seconds(samples: int, sample_rate: int) -> Waveform:
    """Time of every sample, starting at 0."""
    return np.arange(samples) / sample_rate


def sine(frequency_hz: float, samples: int, sample_rate: int) -> Waveform:
    return np.asarray(np.sin(2 * np.pi * frequency_hz * seconds(samples, sample_rate)))


def tones(frequencies_hz: Sequence[float], samples: int, sample_rate: int) -> Waveform:
    """Equally loud sines, at most 1 in sum."""
    summed = np.zeros(samples)
    for frequency_hz in frequencies_hz:
        summed += sine(frequency_hz, samples, sample_rate)
    return summed / len(frequencies_hz)


def line_tones(rng: np.random.Generator, frequencies_hz: Sequence[float], samples: int, sample_rate: int) -> Waveform:
    """Sines as a telephone line delivers them: each up to 0.5 % off its frequency and up to 3 dB louder or softer."""
    summed = np.zeros(samples)
    for frequency_hz in frequencies_hz:
        off, gain_db = rng.uniform(-0.005, 0.005), rng.uniform(-3, 3)
        summed += 10 ** (gain_db / 20) * sine(frequency_hz * (1 + off), samples, sample_rate)
    return summed


def harmonic(frequency_hz: float | Waveform, partials: Sequence[float], samples: int, sample_rate: int) -> Waveform:
    """A periodic sound whose k-th harmonic has amplitude partials[k - 1]; `frequency_hz` may move sample by sample.

    Harmonics above 0.45 of the sample rate at the highest frequency reached are left out, so nothing aliases. One
    period is computed and read at the running phase: a rich sound costs as much as a sine.
    """
    frequencies = np.broadcast_to(np.asarray(frequency_hz, dtype=np.float64), (samples,))
    highest = float(frequencies.max())
    cycle = np.arange(_TABLE_SAMPLES) / _TABLE_SAMPLES
    table = np.zeros(_TABLE_SAMPLES)
    for k, amplitude in enumerate(partials, start=1):
        if k * highest < 0.45 * sample_rate:
            table += amplitude * np.sin(2 * np.pi * k * cycle)
    phase = np.cumsum(frequencies) / sample_rate
    return np.asarray(table[(phase * _TABLE_SAMPLES).astype(np.int64) % _TABLE_SAMPLES])


def rolled_off(partials: int, exponent: float, *, odd: bool = False) -> list[float]:
    """Amplitudes k ** -exponent; `odd` keeps the odd harmonics only (a square wave with exponent 1)."""
    return [0.0 if odd and k % 2 == 0 else k**-exponent for k in range(1, partials + 1)]


def faded(waveform: Waveform, sample_rate: int, edge_s: float = _EDGE_S) -> Waveform:
    """Raised-cosine edges on both ends, so that a sound starts and stops without a click."""
    edge = min(round(edge_s * sample_rate), len(waveform) // 2)
    if edge:
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
        waveform = waveform.copy()
        waveform[:edge] *= ramp
        waveform[-edge:] *= ramp[::-1]
    return waveform


def bursts(samples: int, sample_rate: int, pattern_s: Sequence[float]) -> Iterator[slice]:
    """The sounding stretches of a repeated on, off, on, off, ... pattern, from sample 0 on.

    A last one cut to under half its length is left out, unless it is the only one.
    """
    start, step = 0.0, 0
    while True:
        on_s, off_s = pattern_s[step % len(pattern_s)], pattern_s[(step + 1) % len(pattern_s)]
        first, last = round(start * sample_rate), round((start + on_s) * sample_rate)
        if first and samples - first < (last - first) / 2:
            return
        yield slice(first, min(last, samples))
        if last >= samples:
            return
        start, step = start + on_s + off_s, step + 2


def gated(waveform: Waveform, sample_rate: int, pattern_s: Sequence[float]) -> Waveform:
    """`waveform` switched on and off by a repeated pattern, every burst with soft edges."""
    switched = np.zeros_like(waveform)
    for burst in bursts(len(waveform), sample_rate, pattern_s):
        switched[burst] = faded(waveform[burst], sample_rate)
    return switched


def decay(samples: int, sample_rate: int, time_constant_s: float) -> Waveform:
    """exp(-t / time_constant): down 60 dB after 6.9 time constants."""
    return np.asarray(np.exp(-seconds(samples, sample_rate) / time_constant_s))


def add_at(waveform: Waveform, start: int, sound: Waveform) -> None:
    """Add `sound` from sample `start` on, cut at the end of `waveform`."""
    room = max(0, len(waveform) - start)
    waveform[start : start + len(sound)] += sound[:room]


def coloured_noise(
    rng: np.random.Generator, samples: int, sample_rate: int, exponent: float, *, low_hz: float = 40.0
) -> Waveform:
    """Gaussian noise of power ~ f ** -exponent (0 white, 1 pink, 2 brown) from `low_hz` up; unit RMS."""
    frequencies_hz = np.fft.rfftfreq(samples, 1 / sample_rate)
    shape = np.maximum(frequencies_hz, low_hz) ** (-exponent / 2)
    shape[frequencies_hz < low_hz / 2] = 0
    parts = rng.standard_normal((2, len(frequencies_hz)))
    noise = np.fft.irfft((parts[0] + 1j * parts[1]) * shape, samples)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def wander(rng: np.random.Generator, samples: int, points: int, low: float, high: float) -> Waveform:
    """A curve through `points` uniform draws from [low, high], straight between them."""
    return np.interp(np.linspace(0, points - 1, samples), np.arange(points), rng.uniform(low, high, points))
