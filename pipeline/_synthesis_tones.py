"""Telephone signals, tones, noise and hum: (rng, samples, sample_rate) -> mono [samples], sounding from sample 0."""

import numpy as np

from pipeline._synthesis_parts import (
    Waveform,
    bursts,
    coloured_noise,
    faded,
    gated,
    harmonic,
    line_tones,
    log_uniform,
    rolled_off,
    seconds,
    sine,
    wander,
)

DIAL_TONES_HZ = ((350.0, 440.0), (350.0, 450.0))  # North America, United Kingdom
BUSY_SIGNALS: tuple[tuple[tuple[float, ...], float], ...] = (
    ((480.0, 620.0), 0.5),  # North America, and its fast "reorder" variant
    ((480.0, 620.0), 0.25),
    ((425.0,), 0.5),  # most of Europe
    ((400.0,), 0.375),  # United Kingdom
)
RINGING_TONES: tuple[tuple[tuple[float, float], tuple[float, ...]], ...] = (
    ((440.0, 480.0), (2.0, 4.0)),  # North America
    ((400.0, 450.0), (0.4, 0.2, 0.4, 2.0)),  # United Kingdom
)
DTMF_LOW_HZ = (697.0, 770.0, 852.0, 941.0)
DTMF_HIGH_HZ = (1209.0, 1336.0, 1477.0, 1633.0)


def dial_tone(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Two steady tones, 350 + 440 or 350 + 450 Hz."""
    return line_tones(rng, DIAL_TONES_HZ[rng.integers(len(DIAL_TONES_HZ))], samples, sample_rate)


def busy_signal(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    frequencies_hz, half_period_s = BUSY_SIGNALS[rng.integers(len(BUSY_SIGNALS))]
    return gated(line_tones(rng, frequencies_hz, samples, sample_rate), sample_rate, (half_period_s, half_period_s))


def ringing_tone(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """One ring as the caller hears it: 440 + 480 Hz for up to 2 s, or the double ring at 400 + 450 Hz."""
    frequencies_hz, pattern_s = RINGING_TONES[rng.integers(len(RINGING_TONES))]
    return gated(line_tones(rng, frequencies_hz, samples, sample_rate), sample_rate, pattern_s)


def dtmf(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Random keys: one of four low tones with one of four high tones, each key for the same time."""
    dialled = np.zeros(samples)
    pattern_s = (rng.uniform(0.06, 0.16), rng.uniform(0.05, 0.12))
    for burst in bursts(samples, sample_rate, pattern_s):
        pair_hz = (DTMF_LOW_HZ[rng.integers(4)], DTMF_HIGH_HZ[rng.integers(4)])
        dialled[burst] = faded(line_tones(rng, pair_hz, burst.stop - burst.start, sample_rate), sample_rate)
    return dialled


def sine_wave(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    return sine(log_uniform(rng, 250, 4000), samples, sample_rate)


def chirp_tone(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """One sine sweeping 1.5 to 4 octaves up or down, evenly in hertz or in octaves."""
    octaves = rng.uniform(1.5, 4.0)
    low_hz = log_uniform(rng, 200, 6500 / 2**octaves)
    first_hz, last_hz = rng.permutation([low_hz, low_hz * 2**octaves])
    if rng.random() < 0.5:
        sweep_hz = np.geomspace(first_hz, last_hz, samples)
    else:
        sweep_hz = np.linspace(first_hz, last_hz, samples)
    return harmonic(sweep_hz, [1.0], samples, sample_rate)


def steady_noise(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """White or pink."""
    return coloured_noise(rng, samples, sample_rate, float(rng.integers(2)), low_hz=20.0)


def static(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Radio interference: a hiss that flutters, and sharp crackles at random."""
    hiss = coloured_noise(rng, samples, sample_rate, 0.0, low_hz=log_uniform(rng, 300, 1200))
    flutter = wander(rng, samples, max(2, round(samples / sample_rate * rng.uniform(10, 25))), -1.0, 1.0)
    noise = 0.3 * hiss * 10**flutter
    duration_s = samples / sample_rate
    clicks = rng.integers(0, samples, size=max(3, round(duration_s * rng.uniform(25, 90))))
    impulses = np.zeros(samples)
    impulses[clicks] = rng.choice([-1.0, 1.0], len(clicks)) * rng.exponential(6.0, len(clicks))
    ringing = faded(rng.standard_normal(round(0.002 * sample_rate)), sample_rate, 0.0005)
    return np.asarray(8 * np.tanh((noise + np.convolve(impulses, ringing)[:samples]) / 8))


def mains_hum(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Harmonics of 50 or 60 Hz, the even ones (a rectifier's) strong, at random strengths."""
    partials = np.array(rolled_off(16, rng.uniform(0.5, 1.0))) * rng.uniform(0.2, 1.0, 16)
    partials[1] = partials.max()
    return harmonic(float(rng.choice([50.0, 60.0])), list(partials), samples, sample_rate)


def beep(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """One short high tone."""
    return harmonic(log_uniform(rng, 900, 3200), rolled_off(3, rng.uniform(1.5, 4.0)), samples, sample_rate)


def pulse(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Low, short bursts at about 1 Hz."""
    frequency_hz = log_uniform(rng, 70, 200)
    pattern_s = (on_s := rng.uniform(0.12, 0.25), 1 / rng.uniform(0.85, 1.5) - on_s)
    body = harmonic(frequency_hz, rolled_off(6, rng.uniform(0.8, 1.6)), samples, sample_rate)
    return gated(body, sample_rate, pattern_s)


def cellphone_buzz(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """A vibration motor rattling on a table: long bursts of 130 to 190 Hz with noise at the same rhythm."""
    frequency_hz = rng.uniform(130, 190)
    motor = harmonic(frequency_hz, rolled_off(12, rng.uniform(0.9, 1.4)), samples, sample_rate)
    contact = np.maximum(0.0, np.sin(2 * np.pi * frequency_hz * seconds(samples, sample_rate))) ** 4
    rattle = coloured_noise(rng, samples, sample_rate, 0.5, low_hz=400.0) * contact
    return gated(motor + rng.uniform(0.4, 1.0) * rattle, sample_rate, (rng.uniform(0.4, 1.0), rng.uniform(0.2, 0.6)))
