"""Every class against what defines it: its frequencies, its rhythm, its direction."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline import SOUND_CLASSES, SoundClass, audioset_strong_447, render_event

RATE = 16_000
CLASS = {sound.name: sound for sound in SOUND_CLASSES}
SEEDS = range(6)


def event(name: str, seed: int, *, length_ms: int | None = None, sample_rate: int = RATE) -> npt.NDArray[np.float64]:
    sound = CLASS[name]
    rng = np.random.default_rng([40, seed])
    length_ms = length_ms or int(rng.integers(sound.shortest_ms, sound.longest_ms + 1))
    return render_event(sound, rng, samples=length_ms * sample_rate // 1000, sample_rate=sample_rate)


def spectrum(
    waveform: npt.NDArray[np.float64], sample_rate: int = RATE
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(frequencies in Hz, power), from one Hann window over the whole event, zero-padded to 1 Hz or finer."""
    size = max(sample_rate, 1 << (len(waveform) - 1).bit_length())
    power = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), size)) ** 2
    return np.fft.rfftfreq(size, 1 / sample_rate), power


def share_near(waveform: npt.NDArray[np.float64], frequencies_hz: list[float], width_hz: float = 20.0) -> float:
    """Share of the event's power within `width_hz` of any of `frequencies_hz`."""
    grid_hz, power = spectrum(waveform)
    near = np.any([np.abs(grid_hz - frequency_hz) <= width_hz for frequency_hz in frequencies_hz], axis=0)
    return float(power[near].sum() / power.sum())


def sounding(waveform: npt.NDArray[np.float64], block_ms: int = 10) -> npt.NDArray[np.bool_]:
    """For every 10 ms block, whether it is within 26 dB of the loudest."""
    block = RATE * block_ms // 1000
    energy = np.mean(waveform[: len(waveform) // block * block].reshape(-1, block) ** 2, axis=1)
    return energy > 0.0025 * energy.max()


def runs_ms(active: npt.NDArray[np.bool_], value: bool) -> list[int]:
    """Lengths in ms of the inner runs of `value` (the first and the last run of all are left out)."""
    edges = np.flatnonzero(np.diff(active.astype(int))) + 1
    return [10 * int(b - a) for a, b in pairwise(edges) if active[a] == value]


def peak_track_hz(waveform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The strongest frequency in every 64 ms window, 32 ms apart."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 1024)[::512] * np.hanning(1024)
    return np.argmax(np.abs(np.fft.rfft(windows, 4096)), axis=1) * RATE / 4096


def test_at_least_twenty_classes_of_the_447(shared: Path) -> None:
    with (shared / "data" / "mid_to_display_name.tsv").open(encoding="utf-8") as lines:
        official = dict(csv.reader(lines, delimiter="\t"))
    trained = set(audioset_strong_447().mids)
    assert len(SOUND_CLASSES) >= 20
    assert len({sound.mid for sound in SOUND_CLASSES}) == len(SOUND_CLASSES)
    for sound in SOUND_CLASSES:
        assert official[sound.mid] == sound.name
        assert sound.mid in trained


@pytest.mark.parametrize("sound", SOUND_CLASSES, ids=lambda sound: sound.name)
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_events_sound_from_first_to_last_sample(sound: SoundClass, sample_rate: int) -> None:
    for seed in SEEDS:
        length_ms = (sound.shortest_ms, sound.longest_ms)[seed % 2]
        waveform = event(sound.name, seed, length_ms=length_ms, sample_rate=sample_rate)
        edge = sample_rate * 15 // 1000
        assert np.isfinite(waveform).all()
        assert 0.35 * sound.shortest_ms <= len(waveform) * 1000 / sample_rate <= length_ms
        loudest = np.abs(waveform).max()
        assert np.abs(waveform[:edge]).max() > 0.003 * loudest
        assert np.abs(waveform[-edge:]).max() > 0.003 * loudest
        assert np.array_equal(waveform, event(sound.name, seed, length_ms=length_ms, sample_rate=sample_rate))
    openings = {event(sound.name, seed, length_ms=2500)[:800].tobytes() for seed in SEEDS}
    assert len(openings) == len(SEEDS)


@pytest.mark.parametrize("sound", SOUND_CLASSES, ids=lambda sound: sound.name)
def test_level_is_that_of_the_sounding_part(sound: SoundClass) -> None:
    for seed in SEEDS:
        waveform = event(sound.name, seed)
        active = np.repeat(sounding(waveform), RATE // 100)
        assert np.sqrt(np.mean(waveform[: len(active)][active] ** 2)) == pytest.approx(1.0, rel=0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_telephone_tones_are_the_standard_pairs(seed: int) -> None:
    def best(name: str, pairs: list[list[float]]) -> list[float]:
        waveform = event(name, seed)
        shares = [share_near(waveform, pair) for pair in pairs]
        assert max(shares) > 0.95
        pair = pairs[int(np.argmax(shares))]
        assert all(share_near(waveform, [frequency_hz], 18.0) > 0.15 for frequency_hz in pair)
        return pair

    best("Dial tone", [[350, 440], [350, 450]])
    best("Ringing tone, ringback tone", [[440, 480], [400, 450]])
    best("Busy signal", [[480, 620], [425], [400]])


def test_dtmf_keys_are_one_low_and_one_high_tone() -> None:
    low_hz, high_hz = np.array([697, 770, 852, 941]), np.array([1209, 1336, 1477, 1633])
    keys = 0
    for seed in SEEDS:
        waveform = event("Telephone dialing, DTMF", seed)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], sounding(waveform).astype(int), [0]]))) * RATE // 100
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            if last - first < 0.06 * RATE:
                continue
            grid_hz, power = spectrum(waveform[first:last])
            for allowed_hz, band in ((low_hz, grid_hz < 1075), (high_hz, grid_hz > 1075)):
                strongest_hz = grid_hz[band][np.argmax(power[band])]
                assert np.abs(allowed_hz - strongest_hz).min() < 12
            keys += 1
    assert keys > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_sine_stays_and_chirp_moves_one_way(seed: int) -> None:
    steady = peak_track_hz(event("Sine wave", seed))
    assert np.ptp(steady) <= 8
    moving = peak_track_hz(event("Chirp tone", seed))
    steps = np.diff(moving)
    assert (steps >= -8).all() or (steps <= 8).all()
    assert moving.max() / moving.min() > 2


@pytest.mark.parametrize("seed", SEEDS)
def test_hum_is_mains_harmonics_and_nothing_else(seed: int) -> None:
    waveform = event("Mains hum", seed)
    shares = [share_near(waveform, [base * k for k in range(1, 17)], 4.0) for base in (50.0, 60.0)]
    assert max(shares) > 0.98
    assert max(shares) > min(shares) + 0.2


def test_noise_is_flat_or_falls_three_decibels_an_octave() -> None:
    slopes = set()
    for seed in range(8):
        grid_hz, power = spectrum(event("White noise, pink noise", seed))
        octaves = [np.mean(power[(grid_hz > low) & (grid_hz <= 2 * low)]) for low in (125, 250, 500, 1000, 2000)]
        slope_db = np.polyfit(np.arange(5), 10 * np.log10(octaves), 1)[0]
        assert min(abs(slope_db), abs(slope_db + 3.01)) < 0.7
        slopes.add(round(float(slope_db) / 3))
    assert slopes == {0, -1}


@pytest.mark.parametrize("seed", SEEDS)
def test_static_crackles_and_flutters(seed: int) -> None:
    def loudness_spread_db(name: str) -> float:
        waveform = event(name, seed)
        energy = np.mean(waveform[: len(waveform) // 160 * 160].reshape(-1, 160) ** 2, axis=1)[1:-1]
        return float(np.std(10 * np.log10(energy)))

    assert loudness_spread_db("Static") > 2.5 * loudness_spread_db("White noise, pink noise")


@pytest.mark.parametrize("seed", SEEDS)
def test_rhythms(seed: int) -> None:
    smoke = sounding(event("Smoke detector, smoke alarm", seed, length_ms=7000))
    pauses = runs_ms(smoke, False)
    assert max(pauses) > 2.5 * min(pauses)
    assert all(400 <= length <= 570 for length in runs_ms(smoke, True))

    reversing = sounding(event("Reversing beeps", seed))
    assert all(330 <= length <= 620 for length in runs_ms(reversing, True) + runs_ms(reversing, False))

    clock = runs_ms(sounding(event("Alarm clock", seed, length_ms=4000)), False)
    assert sum(length > 300 for length in clock) >= 3
    assert sum(length < 100 for length in clock) >= 9

    pulses = sounding(event("Pulse", seed, length_ms=8000))
    onsets = np.flatnonzero(np.diff(pulses.astype(int)) == 1)
    assert 0.6 <= np.diff(onsets).mean() / 100 <= 1.25
    assert np.ptp(np.diff(onsets)) <= 2

    ticks = sounding(event("Tick-tock", seed, length_ms=6000), 10)
    gaps = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], ticks.astype(int)])) == 1)) * 10
    assert 200 <= np.median(gaps) <= 570


@pytest.mark.parametrize("seed", SEEDS)
def test_sirens_differ_in_how_their_pitch_moves(seed: int) -> None:
    def turns_per_s(name: str) -> float:
        """How often a second the spectral centroid passes its middle value, up and down counted as one."""
        waveform = event(name, seed)
        windows = np.lib.stride_tricks.sliding_window_view(waveform, 4096)[::512] * np.hanning(4096)
        power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
        centroid = power @ np.arange(2049) / power.sum(axis=1)
        above = centroid > (centroid.max() + centroid.min()) / 2
        return float(np.count_nonzero(np.diff(above)) / 2 / (len(waveform) / RATE))

    assert turns_per_s("Police car (siren)") > 1.7
    assert 0.4 < turns_per_s("Ambulance (siren)") < 1.7
    assert turns_per_s("Civil defense siren") < 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_pitch_ranges(seed: int) -> None:
    def strongest_hz(name: str) -> float:
        grid_hz, power = spectrum(event(name, seed))
        return float(grid_hz[np.argmax(power)])

    assert 890 <= strongest_hz("Beep, bleep") <= 3300
    assert 2890 <= strongest_hz("Smoke detector, smoke alarm") <= 3410
    assert 990 <= strongest_hz("Reversing beeps") <= 1410
    assert 790 <= strongest_hz("Sonar") <= 1810
    assert 60 <= strongest_hz("Pulse") <= 210
    assert 430 <= strongest_hz("Ding-dong") <= 1110


@pytest.mark.parametrize("name", ["Sonar", "Ding-dong"])
def test_dying_sounds_die(name: str) -> None:
    for seed in SEEDS:
        waveform = event(name, seed)
        third = len(waveform) // 3
        assert np.mean(waveform[-third:] ** 2) < 0.2 * np.mean(waveform[:third] ** 2)


def test_harsh_sounds_have_rich_spectra() -> None:
    for name in ("Buzzer", "Air horn, truck horn", "Telephone bell ringing", "Cellphone buzz, vibrating alert"):
        for seed in SEEDS:
            grid_hz, power = spectrum(event(name, seed))
            assert power[grid_hz > 1500].sum() > 0.03 * power.sum(), (name, seed)
