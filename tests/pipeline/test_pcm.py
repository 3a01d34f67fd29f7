"""Stored audio against librosa's resampling, exact integers and brute force."""

import hashlib
import math
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    PCM_FLAGS,
    AudioSpec,
    ClipRejected,
    Decoded,
    UsageError,
    clip_from_file,
    clip_starts,
    pcm_identity,
    to_pcm16,
)

SPEC = AudioSpec()
RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 128_000, 10_026]


def decoded(samples: np.ndarray, rate: int = 16_000) -> Decoded:
    samples = np.atleast_2d(np.asarray(samples, np.float32))
    return Decoded(samples=samples, sample_rate=rate, codec="pcm_f32", decoder="soundfile", stated_samples=None)


def noise(channels: int, samples: int, level: float = 0.3) -> np.ndarray:
    return np.random.default_rng([3, channels, samples]).uniform(-level, level, (channels, samples)).astype(np.float32)


def rounded(audio: np.ndarray) -> np.ndarray:
    """Oracle for the int16 step, in float64."""
    return np.clip(np.rint(audio.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)


# ---- resampling


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0.04, 1.0, 3.3333])
def test_resampling_equals_librosa(rate: int, seconds: float) -> None:
    audio = noise(1, math.ceil(seconds * rate))
    clip = to_pcm16(decoded(audio, rate), SPEC)
    expected = librosa.resample(audio[0], orig_sr=rate, target_sr=16_000, res_type="soxr_hq")
    assert clip.samples == -(-audio.shape[1] * 16_000 // rate)
    assert 0 <= len(expected) - clip.samples <= 1  # librosa's float ratio adds a sample at some lengths
    np.testing.assert_array_equal(clip.pcm, rounded(expected)[: clip.samples])


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_cut_equals_resampling_the_whole(rate: int) -> None:
    audio = noise(2, 14 * rate + 77)
    clip = to_pcm16(decoded(audio, rate), SPEC)
    whole = librosa.resample((audio[0] + audio[1]) * np.float32(0.5), orig_sr=rate, target_sr=16_000)
    np.testing.assert_array_equal(clip.pcm, rounded(whole)[:160_000])
    assert clip.cut_samples == -(-(14 * rate + 77) * 16_000 // rate) - 160_000
    assert clip.flags == ("cut",)


def test_nothing_is_padded_and_a_full_clip_is_not_cut() -> None:
    for samples, cut in ((159_999, 0), (160_000, 0), (160_001, 1)):
        clip = to_pcm16(decoded(noise(1, samples)), SPEC)
        assert (clip.samples, clip.cut_samples) == (min(samples, 160_000), cut)
    for rate in RATES:
        assert to_pcm16(decoded(noise(1, 10 * rate), rate), SPEC).samples == 160_000


# ---- int16


def test_every_int16_value_survives_a_file_bit_for_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).permutation(np.arange(-32768, 32768)).astype(np.int16)
    for name, subtype in (
        ("clip.wav", "PCM_16"),
        ("clip.flac", "PCM_16"),
        ("wide.wav", "PCM_24"),
        ("float.wav", "FLOAT"),
    ):
        soundfile.write(tmp_path / name, values / 32768 if subtype == "FLOAT" else values, 16_000, subtype=subtype)
        clip = clip_from_file(tmp_path / name, spec=SPEC)
        np.testing.assert_array_equal(clip.pcm, values)
        assert (clip.clipped_samples, clip.cut_samples, clip.flags) == (0, 0, ())
        assert clip.identity == hashlib.sha256(values.tobytes()).hexdigest()[:32]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=50))
def test_saturation_and_its_count_equal_brute_force(values: list[float]) -> None:
    clip = to_pcm16(decoded(np.array(values)), SPEC)
    steps = [round(value * 32768) for value in values]  # half to even, as float32 values times 2^15 are exact
    assert clip.pcm.tolist() == [min(32767, max(-32768, step)) for step in steps]
    assert clip.clipped_samples == sum(not -32768 <= step <= 32767 for step in steps)
    assert ("clipped" in clip.flags) == (clip.clipped_samples > 0)
    assert clip.peak == max(abs(step) for step in steps) / 32768


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_finite_samples_that_overflow_on_the_way_are_refused(rate: int, channels: int) -> None:
    """The filter makes NaN of them, which a cast to int16 turns into silence."""
    with pytest.raises(ClipRejected, match="not_finite"):
        to_pcm16(decoded(np.sign(noise(channels, rate)) * np.float32(3e38), rate), SPEC)
    clip = to_pcm16(decoded(np.sign(noise(channels, rate)) * np.float32(1e30), rate), SPEC)
    assert clip.flags == ("clipped",)
    assert np.abs(clip.pcm.astype(np.int32)).max() == 32768


def test_the_overshoot_of_a_lossy_codec_saturates(tmp_path: Path) -> None:
    square = np.sign(np.sin(np.arange(32_000) * 0.05))
    soundfile.write(tmp_path / "loud.ogg", square, 16_000, format="OGG", subtype="VORBIS")
    clip = clip_from_file(tmp_path / "loud.ogg", spec=SPEC)
    assert clip.peak > 1.05
    assert clip.clipped_samples > 100
    assert (np.sign(clip.pcm[2000:-2000]) == square[2000:-2000]).mean() > 0.95  # wrapped values would change sign


# ---- downmix


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_mono_is_the_mean_of_the_channels(channels: int) -> None:
    audio = noise(channels, 4_000)
    clip = to_pcm16(decoded(audio), SPEC)
    assert np.abs(clip.pcm / 32768 - audio.astype(np.float64).mean(0)).max() <= 0.51 / 32768
    interleaved = to_pcm16(decoded(np.ascontiguousarray(audio.T).T), SPEC)
    np.testing.assert_array_equal(interleaved.pcm, clip.pcm)
    assert (clip.source_channels, clip.source_sample_rate, clip.flags) == (channels, 16_000, ())


def test_antiphase_and_silence_are_told_apart() -> None:
    left = noise(1, 16_000)[0]
    flags = {
        name: to_pcm16(decoded(np.stack(channels)), SPEC).flags
        for name, channels in {
            "antiphase": (left, -left),
            "almost": (left, -0.9 * left),
            "quarter": (left, -0.5 * left),
            "in phase": (left, left),
            "one side": (left, 0 * left),
            "unrelated": tuple(noise(2, 16_000)),
            "silence": (0 * left, 0 * left),
            "faint": (1e-4 * left, 1e-4 * left),
        }.items()
    }
    assert flags["antiphase"] == ("silent", "antiphase")
    assert flags["almost"] == ("antiphase",)
    assert flags["silence"] == flags["faint"] == ("silent",)
    assert flags["quarter"] == flags["in phase"] == flags["one side"] == flags["unrelated"] == ()
    assert set().union(*flags.values()) <= set(PCM_FLAGS)


def test_rms_and_peak_are_of_full_scale() -> None:
    clip = to_pcm16(decoded(0.5 * np.sin(np.arange(16_000) * 2 * np.pi / 160)), SPEC)
    assert clip.rms == pytest.approx(0.5 / math.sqrt(2), rel=1e-4)
    assert clip.peak == pytest.approx(0.5, abs=1e-4)


def test_foa_keeps_its_four_channels_in_order() -> None:
    spec = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)
    audio = noise(4, 6 * 48_000)
    clip = to_pcm16(decoded(audio, 48_000), spec)
    assert clip.pcm.shape == (4, 120_000)
    for stored, channel in zip(clip.pcm, audio, strict=True):
        expected = librosa.resample(channel, orig_sr=48_000, target_sr=24_000)
        np.testing.assert_array_equal(stored, rounded(expected)[:120_000])
    assert clip.flags == ("cut",)
    for channels in (1, 2, 5):
        with pytest.raises(ClipRejected, match="unsupported"):
            to_pcm16(decoded(noise(channels, 9_000)), spec)


# ---- identity


def test_identity_is_sha256_of_interleaved_little_endian_samples() -> None:
    pcm = np.array([[1, -2, 300], [4, 5, -32768]], np.int16)
    interleaved = b"".join(int(value).to_bytes(2, "little", signed=True) for value in pcm.T.ravel())
    assert pcm_identity(pcm) == hashlib.sha256(interleaved).hexdigest()[:32]
    assert pcm_identity(pcm[0]) == hashlib.sha256(b"\x01\x00\xfe\xff\x2c\x01").hexdigest()[:32]
    assert pcm_identity(np.asfortranarray(pcm)) == pcm_identity(pcm)
    assert pcm_identity(pcm[:, ::-1]) != pcm_identity(pcm)
    with pytest.raises(UsageError):
        pcm_identity(pcm.astype(np.int32))  # type: ignore[arg-type]


# ---- clip_from_file


@pytest.mark.parametrize("rate", [11_127, 44_100])
@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_clips_of_a_long_recording_are_cut_exactly_and_resampled_alone(
    tmp_path: Path, rate: int, kind: tuple[str, str]
) -> None:
    path = tmp_path / "long"
    soundfile.write(path, noise(2, 23 * rate + 123).T, rate, format=kind[0], subtype=kind[1])
    source, _ = soundfile.read(path, dtype="float32")
    starts = clip_starts(len(source) * 1000 // rate, 10_000)
    assert starts == [0, 10_000, 20_000]
    for start in starts:
        clip = clip_from_file(path, spec=SPEC, start_ms=start, duration_ms=10_000)
        piece = source[start * rate // 1000 : (start + 10_000) * rate // 1000]
        expected = librosa.resample((piece[:, 0] + piece[:, 1]) * np.float32(0.5), orig_sr=rate, target_sr=16_000)
        np.testing.assert_array_equal(clip.pcm, rounded(expected)[: clip.samples])
        assert clip.samples == -(-len(piece) * 16_000 // rate)
        assert clip.cut_samples == 0


def test_a_clip_shorter_than_its_segment_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise(1, 8 * 16_000)[0], 16_000)
    assert clip_from_file(path, spec=SPEC, expected_ms=8_040).samples == 128_000
    with pytest.raises(ClipRejected, match="truncated: 8000 ms of the 8041 ms"):
        clip_from_file(path, spec=SPEC, expected_ms=8_041)
    soundfile.write(path, noise(1, 10 * 16_000)[0], 16_000)
    assert clip_from_file(path, spec=SPEC, expected_ms=12_000).samples == 160_000  # a clip cannot be longer


def test_wrong_windows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise(1, 16_000)[0], 16_000)
    with pytest.raises(UsageError, match="pass duration_ms"):
        clip_from_file(path, spec=SPEC, start_ms=100)
    with pytest.raises(UsageError, match="clip_starts"):
        clip_from_file(path, spec=SPEC, duration_ms=10_001)


def test_every_real_recording_becomes_a_clip_or_a_rejection(shared: Path) -> None:
    counts: dict[tuple[str, bool], int] = {}
    for path in sorted((shared / "recordings").glob("*/*")):
        try:
            clip = clip_from_file(path, spec=SPEC)
        except ClipRejected:
            stored = False
        else:
            stored = True
            assert clip.pcm.dtype == np.int16
            assert 640 <= clip.samples <= 160_000
            loudest = np.abs(clip.pcm.astype(np.int32)).max()
            assert min(32767, round(clip.peak * 32768)) <= loudest <= round(clip.peak * 32768)
        key = (path.parent.name, stored)
        counts[key] = counts.get(key, 0) + 1
    assert counts == {("formats", True): 98, ("labelled", True): 128, ("tiny", False): 9, ("broken", False): 13}
