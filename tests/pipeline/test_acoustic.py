"""Acoustic fingerprints against shifts, codecs and resamplers whose effect is known, and against their definition."""

import io
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    ACOUSTIC_BYTES,
    AudioSpec,
    UsageError,
    acoustic_fingerprint,
    clip_from_file,
    compare_acoustic,
    generate_soundscape,
    soundscape_seed,
)

RATE = 16_000
FRAME = 640


def to_int16(audio: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(audio), -32768, 32767).astype(np.int16)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [
        to_int16(32767 * generate_soundscape(soundscape_seed(3, "weak", clip)).waveform)[: 10 * RATE - 7]
        for clip in range(8)
    ]


def verdict(stored: np.ndarray, other: np.ndarray, rate: int = RATE) -> tuple[str, int]:
    match = compare_acoustic(acoustic_fingerprint(stored, RATE), acoustic_fingerprint(other, rate))
    return match.verdict, match.lag_ms


def moved(clip: np.ndarray, samples: int) -> np.ndarray:
    """Later by `samples`, at the same length; or earlier, without its beginning."""
    return np.pad(clip, (samples, 0))[: len(clip)] if samples > 0 else clip[-samples:]


def recoded(clip: np.ndarray, container: str, subtype: str) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, clip, RATE, format=container, subtype=subtype, compression_level=0.9)
    return to_int16(32768 * soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0])


def common_sound(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the waveforms match at some lag: a few of the recordings are cut from the same one."""
    length = 2 * max(len(one), len(other))
    spectra = np.fft.rfft(one, length), np.fft.rfft(other, length)
    match = np.abs(np.fft.irfft(spectra[0] * spectra[1].conj())).max()
    return bool(match > 0.3 * np.sqrt(np.sum(one.astype(float) ** 2) * np.sum(other.astype(float) ** 2)))


@pytest.mark.parametrize("codec", [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_codecs(clips: list[np.ndarray], codec: tuple[str, str]) -> None:
    for clip in clips:
        copy = recoded(clip, *codec)
        assert verdict(clip, copy) == ("same", 0)
        assert verdict(clip, moved(copy, -2 * FRAME)) == ("shifted", -80)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000])
def test_sample_rates(clips: list[np.ndarray], rate: int) -> None:
    for clip in clips:
        assert verdict(clip, to_int16(soxr.resample(clip.astype(np.float32), RATE, rate)), rate) == ("same", 0)


def test_no_resampler_at_all(clips: list[np.ndarray]) -> None:
    for clip in clips:
        assert verdict(clip, clip[::2], 8_000) == ("same", 0)


def test_level_noise_and_length(clips: list[np.ndarray]) -> None:
    noise = np.random.default_rng(4)
    for clip in clips:
        audio = clip.astype(np.float64)
        assert verdict(clip, to_int16(audio / 4)) == ("same", 0)
        assert verdict(clip, to_int16(audio * 65_534 / np.abs(audio).max())) == ("same", 0)  # clipped at half its peak
        noisy = audio + noise.standard_normal(len(audio)) * np.sqrt(np.mean(audio**2)) / 100
        assert verdict(clip, to_int16(noisy)) == ("same", 0)
        assert verdict(clip, clip[: -RATE // 10]) == ("same", 0)
        assert verdict(clip, np.pad(clip, (0, 320))) == ("same", 0)
        assert verdict(clip, clip[: 3 * RATE])[0] in ("same", "unknown")


@pytest.mark.parametrize("offset_ms", [1, 5, 10, 15, 20])
def test_less_than_a_frame_is_the_same(clips: list[np.ndarray], offset_ms: int) -> None:
    for clip in clips:
        assert verdict(clip, moved(clip, offset_ms * RATE // 1000)) == ("same", 0)
        assert verdict(clip, moved(clip, -offset_ms * RATE // 1000)) == ("same", 0)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 12, 25, 50])
def test_shifts_are_found(clips: list[np.ndarray], frames: int) -> None:
    for clip in clips:
        assert verdict(clip, moved(clip, frames * FRAME)) == ("shifted", 40 * frames)
        assert verdict(clip, moved(clip, -frames * FRAME)) == ("shifted", -40 * frames)


def test_other_recordings_are_different(clips: list[np.ndarray]) -> None:
    for one, other in permutations(clips, 2):
        assert verdict(one, other) == ("different", 0)


def test_the_same_sounds_at_other_times_are_not_the_same() -> None:
    rng = np.random.default_rng(9)
    sound = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 900)
    two = []
    for _ in range(2):
        clip = 20 * rng.standard_normal(10 * RATE)
        for start in rng.integers(0, 9 * RATE, 8):
            clip[start : start + 4000] += 6000 * sound
        two.append(to_int16(clip))
    assert verdict(*two)[0] in ("different", "unknown")


def times(frequency: float) -> np.ndarray:
    return 2 * np.pi * frequency * np.arange(10 * RATE) / RATE


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(10 * RATE),
        np.full(10 * RATE, 300.0),
        9000 * np.sin(times(440)),
        3000 * sum(np.sin(times(220 * n)) for n in range(1, 12)),
        2 * np.sin(times(1000)),
        np.eye(1, 10 * RATE, 8 * RATE)[0] * 30_000,  # one click
    ],
)
def test_what_says_nothing_is_unknown(audio: np.ndarray) -> None:
    clip = to_int16(audio)
    noise = to_int16(audio + np.random.default_rng(1).standard_normal(len(audio)) * np.sqrt(np.mean(audio**2)) / 100)
    for other in (clip, noise, recoded(clip, "MP3", "MPEG_LAYER_III"), clip[: -RATE // 10], moved(clip, 3)):
        assert verdict(clip, other) == ("unknown", 0)


def test_strictly_periodic_sound_has_no_lag(clips: list[np.ndarray]) -> None:
    periodic = np.tile(clips[0][: RATE // 2], 20)
    assert verdict(periodic, periodic) == ("unknown", 0)
    assert verdict(periodic, moved(periodic, -RATE // 2)) == ("unknown", 0)


def test_silence_is_not_a_copy_of_sound(clips: list[np.ndarray]) -> None:
    silence = np.zeros(10 * RATE, dtype=np.int16)
    for clip in clips:
        assert verdict(clip, silence) == verdict(silence, clip) == ("different", 0)


def test_flipped_bits_are_tolerated(clips: list[np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    for clip in clips:
        fingerprint = acoustic_fingerprint(clip, RATE)
        flips = np.packbits(rng.random(8 * (ACOUSTIC_BYTES - 1)) < 0.1)
        flipped = fingerprint[:1] + bytes(np.frombuffer(fingerprint[1:], np.uint8) ^ flips)
        assert compare_acoustic(fingerprint, flipped).verdict == "same"


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 20_000),
    channels=st.sampled_from([0, 1, 4]),
    rate=st.sampled_from([8_000, 11_025, 16_000, 24_000, 44_100, 48_000]),
    loudness=st.sampled_from([0, 1, 300, 32_767]),
    seed=st.integers(0, 2**32),
)
def test_any_audio(samples: int, channels: int, rate: int, loudness: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = rng.integers(-loudness - 1, loudness, (max(1, channels), samples), endpoint=True).astype(np.int16)
    fingerprint = acoustic_fingerprint(pcm if channels else pcm[0], rate)
    assert len(fingerprint) == ACOUSTIC_BYTES
    assert fingerprint == acoustic_fingerprint(pcm[0], rate)  # of several channels only the first one counts
    assert fingerprint[0] == -(-samples * 25 // rate)
    assert compare_acoustic(fingerprint, fingerprint).verdict in ("same", "unknown")
    other = acoustic_fingerprint(rng.integers(-9, 9, 3 * rate).astype(np.int16), rate)
    assert compare_acoustic(fingerprint, other).verdict in ("different", "unknown")


@settings(max_examples=60, deadline=None)
@given(
    first=st.tuples(st.integers(0, 252), st.binary(min_size=63, max_size=63)),
    second=st.tuples(st.integers(0, 252), st.binary(min_size=63, max_size=63)),
)
def test_any_two_fingerprints_compare(first: tuple[int, bytes], second: tuple[int, bytes]) -> None:
    """Whatever a foreign sidecar states; and the order of the two turns the sign of the lag and nothing else."""
    one, two = (bytes([frames]) + bits for frames, bits in (first, second))
    there, back = compare_acoustic(one, two), compare_acoustic(two, one)
    assert there.verdict == back.verdict
    assert there.lag_ms == -back.lag_ms


def test_only_the_beginning_of_a_long_clip_counts() -> None:
    clip = np.random.default_rng(5).integers(-9000, 9000, 40 * RATE).astype(np.int16)
    assert acoustic_fingerprint(clip, RATE) == acoustic_fingerprint(clip[: 252 * FRAME], RATE)
    assert acoustic_fingerprint(clip, RATE)[0] == 252


@pytest.mark.parametrize("samples", [1 * RATE, 2 * RATE + 5, 10 * RATE])
def test_against_the_definition(samples: int) -> None:
    """Bit for bit in float64, one frame at a time, from the spectra of single windows."""
    edges = [200, 300, 450, 650, 900, 1250, 1700, 2400, 3400]
    signs = {0: "++++++++", 1: "++++----", 2: "++----++", 3: "++--++--", 4: "+--++--+", 5: "+--+-++-", 6: "+-+--+-+"}
    signs[7] = "+-+-+-+-"
    clip = to_int16(32767 * generate_soundscape(soundscape_seed(5, "weak", 1)).waveform)[:samples]
    frames = -(-samples // FRAME)
    taper = np.sin(np.pi * (np.arange(480) + 0.5) / 480) / 480
    energy = np.zeros((8, 4 * frames))
    for step in range(4 * frames):
        start = min(max(160 * step - 160, 0), samples - 480)  # the middle third of the window is the step
        window = clip[start : start + 480].astype(np.float64)
        for band in range(8):
            for hz in range(200, 3400, 100):
                if edges[band] <= hz < edges[band + 1]:
                    phase = np.exp(-2j * np.pi * hz * np.arange(480) / RATE)
                    energy[band, step] += abs(np.sum(taper * window * phase)) ** 2
    means = energy.mean(axis=1)
    levels = 10 * np.log10(energy + (1e-3 * means + 3e-4 * means.sum() + 0.3)[:, None])
    streams = min(8, 504 // frames)
    wrong = 0
    bits = np.unpackbits(np.frombuffer(acoustic_fingerprint(clip, RATE)[1:], np.uint8))
    for stream in range(streams):
        contrast = sum(
            (1 if sign == "+" else -1) * level / 8 for sign, level in zip(signs[stream], levels, strict=True)
        )
        for frame in range(frames):
            weights = [(n - 7.5) * np.exp(-((10 * (n - 7.5) / 35) ** 2) / 2) for n in range(16)]
            at = np.clip(np.arange(16) + 4 * frame - 6, 0, 4 * frames - 1)
            rise = np.dot(weights, contrast[at]) / sum(weights[8:])
            wrong += bool(bits[stream * frames + frame]) != (rise > 0.25)
    assert wrong <= 2  # ties only
    assert not bits[streams * frames :].any()


def test_what_is_no_fingerprint() -> None:
    good = acoustic_fingerprint(np.zeros(9, dtype=np.int16), RATE)
    for bad in (b"", good[:-1], good + b"\0", b"\xff" + good[1:]):
        with pytest.raises(UsageError, match="64 bytes"):
            compare_acoustic(good, bad)
    with pytest.raises(UsageError, match="float32"):
        acoustic_fingerprint(np.zeros(9, dtype=np.float32), RATE)


def test_real_recordings(shared: Path) -> None:
    """A slice; `python -m benchmarks.acoustic --folder` has them all."""
    recordings = sorted((shared / "recordings" / "labelled").iterdir())[::4]
    clips = [clip_from_file(path, spec=AudioSpec()).pcm for path in recordings]
    clips = [clip for clip in clips if len(clip) >= RATE]
    assert len(clips) > 15
    copies = [recoded(clip, "MP3", "MPEG_LAYER_III") for clip in clips]
    confirmed = shifts = 0
    for number, (clip, copy) in enumerate(zip(clips, copies, strict=True)):
        found = verdict(clip, copy)
        assert found in (("same", 0), ("unknown", 0))
        confirmed += found == ("same", 0)
        for frames in (1, 2, -2, -5):
            found = verdict(clip, moved(copy, frames * FRAME))
            assert found in (("shifted", 40 * frames), ("unknown", 0))
            shifts += found[0] == "shifted"
        for other in copies[number + 1 :]:
            assert verdict(clip, other)[0] in ("different", "unknown") or common_sound(clip, other)
    assert confirmed >= 0.95 * len(clips)
    assert shifts >= 0.95 * 4 * len(clips)
