"""The log mel spectrogram against its definition in float64 and against the features of the reference code."""

import numpy as np
import pytest
import soundfile
import torch

from pipeline import UsageError
from pipeline.features import MelBand, jittered_band, log_mel


def by_definition(waveform, low_hz, high_hz, window):
    """Frame by frame and triangle by triangle, in float64."""
    signal = waveform[1:] - 0.97 * waveform[:-1]
    padded = np.pad(signal, 256, mode="reflect")
    centred = np.zeros(512)
    centred[56:456] = window
    starts = range(0, len(signal) + 1, 160)
    power = np.stack(
        [np.abs(np.fft.rfft(padded[s : s + 512] * centred)) ** 2 for s in starts if s + 512 <= len(padded)]
    )
    mel = 1127 * np.log(1 + np.arange(257) * 16_000 / 512 / 700)
    low, high = (1127 * np.log(1 + hertz / 700) for hertz in (low_hz, high_hz))
    corners = np.linspace(low, high, 130)
    out = np.empty((128, len(power)))
    for band in range(128):
        left, centre, right = corners[band : band + 3]
        weight = np.maximum(0, np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)))
        out[band] = power[:, :256] @ weight[:256]
    return (np.log(np.maximum(out, 1e-7)) + 4.5) / 5


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("band", [MelBand(), MelBand(low_hz=9.0, high_hz=8_000.0)])
def test_equals_the_definition(periodic, band):
    waveform = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    window = np.hanning(401)[:-1] if periodic else np.hanning(400)
    expected = by_definition(waveform.astype(np.float64), band.low_hz, band.high_hz, window)
    features = log_mel(torch.from_numpy(waveform)[None], band, periodic_window=periodic)
    assert features.shape == (1, 128, 1 + 7_999 // 160)
    np.testing.assert_allclose(features[0].numpy(), expected, rtol=0, atol=2e-3)


def test_equals_the_reference_front_end(shared):
    pcm, _ = soundfile.read(shared / "parity" / "inputs" / "events.wav", dtype="int16")
    waveforms = torch.from_numpy(pcm.astype(np.float32) / 32768)[None]
    with np.load(shared / "parity" / "fpasst.expected.npz") as expected:
        want = expected["events.features"]
    np.testing.assert_allclose(log_mel(waveforms, periodic_window=True).numpy(), want, rtol=0, atol=1e-4)
    symmetric = log_mel(waveforms, periodic_window=False).numpy()
    assert np.abs(symmetric - want).max() > 1e-3


def test_jitter_stays_in_its_range_and_follows_the_generator():
    bands = [jittered_band(generator) for generator in [torch.Generator().manual_seed(0)] for _ in range(3_000)]
    low, high = ([getattr(band, end) for band in bands] for end in ("low_hz", "high_hz"))
    assert set(low) == set(range(10))
    assert 6_001 <= min(high) < 6_030
    assert 7_970 < max(high) <= 8_000
    assert jittered_band(torch.Generator().manual_seed(5)) == jittered_band(torch.Generator().manual_seed(5))


@pytest.mark.parametrize("shape", [(160_000,), (1, 257), (1, 1, 16_000)])
def test_refuses_what_is_no_batch_of_clips(shape):
    with pytest.raises(UsageError, match="needs"):
        log_mel(torch.zeros(shape), periodic_window=True)
