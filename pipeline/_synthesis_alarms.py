"""Sirens, alarms, horns, bells and clocks: (rng, samples, sample_rate) -> mono [samples], sounding from sample 0."""

import numpy as np

from pipeline._synthesis_parts import (
    Waveform,
    add_at,
    bursts,
    coloured_noise,
    decay,
    faded,
    gated,
    harmonic,
    log_uniform,
    rolled_off,
    seconds,
    sine,
    tones,
)


def civil_defense_siren(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """A rotor spinning up and down once: two notes a minor third apart, rising for seconds, holding, falling."""
    top_hz, bottom_hz = rng.uniform(400, 600), rng.uniform(120, 200)
    rise_s, fall_s = rng.uniform(1.0, 1.8), rng.uniform(1.2, 2.2)
    now_s = seconds(samples, sample_rate)
    released_s = samples / sample_rate - 1.3 * fall_s
    speed = 1 - np.exp(-now_s / rise_s)
    speed *= np.where(now_s < released_s, 1.0, np.exp(-np.maximum(0.0, now_s - released_s) / fall_s))
    note_hz = bottom_hz + (top_hz - bottom_hz) * speed
    partials = rolled_off(10, rng.uniform(0.7, 1.2))
    return harmonic(note_hz, partials, samples, sample_rate) + harmonic(1.2 * note_hz, partials, samples, sample_rate)


def police_siren(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """The "yelp": a sweep over more than an octave, up and down two to five times a second."""
    low_hz, high_hz = rng.uniform(500, 750), rng.uniform(1200, 1700)
    position = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(2.2, 4.8) * seconds(samples, sample_rate))
    return harmonic(low_hz * (high_hz / low_hz) ** position, rolled_off(8, rng.uniform(1.0, 1.6)), samples, sample_rate)


def ambulance_siren(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """The two-tone horn: two notes a fourth apart, in turn."""
    low_hz, note_s = rng.uniform(390, 640), rng.uniform(0.4, 0.7)
    turn = (seconds(samples, sample_rate) / note_s).astype(np.int64) % 2
    note_hz = np.where(turn == rng.integers(2), low_hz, low_hz * 4 / 3)
    return harmonic(note_hz, rolled_off(10, rng.uniform(0.7, 1.3)), samples, sample_rate)


def smoke_alarm(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """A piezo near 3.1 kHz in the temporal-three pattern: three half-second tones, then 1.5 s of silence."""
    on_s = rng.uniform(0.42, 0.55)
    piezo = harmonic(rng.uniform(2900, 3400), [1.0, rng.uniform(0.0, 0.3)], samples, sample_rate)
    return gated(piezo, sample_rate, (on_s, on_s, on_s, on_s, on_s, 3 * on_s))


def reversing_beeps(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """A loud tone of 1.0 to 1.4 kHz, as long on as off, about once a second."""
    on_s = rng.uniform(0.35, 0.6)
    tone = harmonic(rng.uniform(1000, 1400), rolled_off(5, rng.uniform(1.0, 2.0), odd=True), samples, sample_rate)
    return gated(tone, sample_rate, (on_s, on_s))


def alarm_clock(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Groups of four quick beeps."""
    on_s, off_s = rng.uniform(0.05, 0.08), rng.uniform(0.05, 0.08)
    tone = harmonic(log_uniform(rng, 1700, 2700), rolled_off(3, rng.uniform(1.0, 2.0), odd=True), samples, sample_rate)
    return gated(tone, sample_rate, (on_s, off_s, on_s, off_s, on_s, off_s, on_s, rng.uniform(0.35, 0.6)))


def tick_tock(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Two different clicks in turn, evenly spaced."""
    ticking = np.zeros(samples)
    interval_s = rng.uniform(0.22, 0.55)
    length = round(0.05 * sample_rate)
    clicks = []
    for center_hz in (rng.uniform(2200, 4500), rng.uniform(1000, 2000)):
        ring = tones((center_hz, 1.47 * center_hz), length, sample_rate) + 0.3 * rng.standard_normal(length)
        clicks.append(ring * decay(length, sample_rate, rng.uniform(0.006, 0.012)))
    for turn, burst in enumerate(bursts(samples, sample_rate, (0.05, interval_s - 0.05))):
        add_at(ticking, burst.start, clicks[turn % 2])
    return ticking


def sonar(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """One ping: a tone pip and its reverberation, which dies away over the event."""
    pip = sine(rng.uniform(800, 1800), round(rng.uniform(0.08, 0.16) * sample_rate), sample_rate)
    pip = faded(pip, sample_rate, 0.01)
    tail = coloured_noise(rng, samples, sample_rate, 0.0) * decay(samples, sample_rate, samples / sample_rate / 5)
    size = 1 << (samples + len(pip) - 1).bit_length()
    reverberation = np.asarray(np.fft.irfft(np.fft.rfft(pip, size) * np.fft.rfft(tail, size), size)[:samples])
    ping: Waveform = rng.uniform(0.3, 0.7) * reverberation / np.abs(reverberation).max()
    add_at(ping, 0, pip)
    return ping


def telephone_bell(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Two gongs struck in turn, 20 to 28 strokes a second in all."""
    stroke_hz, base_hz = rng.uniform(10, 14), rng.uniform(900, 1400)
    now_s = seconds(samples, sample_rate)
    ringing = np.zeros(samples)
    for gong, ratio in enumerate((1.0, rng.uniform(1.15, 1.3))):
        since_stroke = (now_s * stroke_hz + gong / 2) % 1.0
        envelope = 0.25 + np.exp(-since_stroke / 0.35)
        for partial, strength in ((1.0, 0.6), (1.98, 1.0), (2.76, 0.7), (4.1, 0.35)):
            ringing += strength * envelope * harmonic(partial * ratio * base_hz, [1.0], samples, sample_rate)
    return ringing


def air_horn(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """Two or three trumpets of a chord, rich in harmonics, the pitch settling as the pressure builds."""
    lowest_hz, settle_s = rng.uniform(180, 330), rng.uniform(0.03, 0.1)
    now_s = seconds(samples, sample_rate)
    bend = 1 - 0.06 * np.exp(-now_s / settle_s)
    partials = rolled_off(24, rng.uniform(0.3, 0.8))
    blast = np.zeros(samples)
    for ratio in (1.0, 1.26, 1.5)[: rng.integers(2, 4)]:
        blast += harmonic(lowest_hz * ratio * rng.uniform(0.99, 1.01) * bend, partials, samples, sample_rate)
    return blast * (1 - 0.8 * np.exp(-now_s / settle_s))


def ding_dong(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """A door chime: two decaying notes, the second a major third lower."""
    high_hz = log_uniform(rng, 550, 1100)
    gap = round(samples * rng.uniform(0.3, 0.45))
    partials = (1.0, rng.uniform(0.1, 0.5), rng.uniform(0.05, 0.3))
    chime = np.zeros(samples)
    for start, note_hz in ((0, high_hz), (gap, 0.8 * high_hz)):
        length = samples - start
        note = harmonic(note_hz, partials, length, sample_rate) * decay(length, sample_rate, length / sample_rate / 4)
        add_at(chime, start, faded(note, sample_rate, 0.003))
    return chime


def buzzer(rng: np.random.Generator, samples: int, sample_rate: int) -> Waveform:
    """A harsh steady tone of 220 to 450 Hz with a spectrum that hardly falls."""
    return harmonic(rng.uniform(220, 450), rolled_off(30, rng.uniform(0.0, 0.5)), samples, sample_rate)
