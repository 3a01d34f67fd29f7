"""The Slaney mel spectrogram against librosa and against its definition in float64."""

import math

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline import UsageError
from pipeline.features import slaney_log_mel


def signals() -> dict[str, npt.NDArray[np.float32]]:
    """One second each, in [-1, 1]."""
    rng = np.random.default_rng(0)
    t = np.arange(16_000) / 16_000
    found = {
        "noise": rng.uniform(-1, 1, 16_000),
        "tone": np.sin(2 * np.pi * 440 * t),
        "quiet": 1e-4 * rng.standard_normal(16_000),
        "sweep": np.sin(2 * np.pi * (50 * t + 3900 * t**2)),
        "burst": np.where((t > 0.3) & (t < 0.35), rng.uniform(-1, 1, 16_000), 0),
        "offset": 0.5 + 0.1 * rng.standard_normal(16_000),
        "silence": np.zeros(16_000),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def definition(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Frame by frame in float64; the triangles are librosa's."""
    bank = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=80, fmin=50, fmax=8_000, dtype=np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(samples.astype(np.float64), 200, mode="reflect")
    frames = [padded[start : start + 400] for start in range(0, len(padded) - 399, 160)]
    return np.stack([np.log(bank @ np.abs(np.fft.rfft(frame * window)) ** 2 + 2.0**-23) for frame in frames], axis=1)


@pytest.mark.parametrize("name", signals())
def test_agrees_with_the_definition(name: str) -> None:
    samples = signals()[name]
    got, want = slaney_log_mel(torch.from_numpy(samples)[None])[0].numpy(), definition(samples)
    assert got.shape == want.shape == (80, 101)
    # Beside a loud tone the far bins hold float32's rounding of it: energies agree relative to the loudest of a frame.
    # A frame that only touches a burst hears it through the window's edge, which float32 rounds more coarsely.
    energies, wanted = np.exp(got.astype(np.float64)), np.exp(want)
    assert (np.abs(energies - wanted) < 5e-6 * wanted.max(axis=0)).all()
    assert np.abs(got - want)[wanted > 1e-4 * wanted.max(axis=0)].max() < 1e-4


def test_agrees_with_librosa() -> None:
    samples = signals()["noise"]
    power = librosa.feature.melspectrogram(
        y=samples, sr=16_000, n_fft=400, hop_length=160, n_mels=80, fmin=50, fmax=8_000, pad_mode="reflect"
    )
    got = slaney_log_mel(torch.from_numpy(samples)[None])[0].numpy()
    np.testing.assert_allclose(got, np.log(power + 2.0**-23), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("samples", "frames"), [(201, 2), (320, 3), (32_000, 201), (160_000, 1001)])
def test_frames_are_centred(samples: int, frames: int) -> None:
    assert slaney_log_mel(torch.zeros(2, samples)).shape == (2, 80, frames)


def test_silence_lies_at_the_offset() -> None:
    torch.testing.assert_close(slaney_log_mel(torch.zeros(1, 1600)), torch.full((1, 80, 11), math.log(2.0**-23)))


@pytest.mark.parametrize("shape", [(1, 200), (1, 0), (16_000,), (1, 1, 16_000)])
def test_another_shape_or_a_clip_too_short_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="201 samples or more"):
        slaney_log_mel(torch.zeros(shape))


def test_a_clip_does_not_hear_its_neighbours() -> None:
    batch = torch.from_numpy(np.stack(list(signals().values())))
    together = slaney_log_mel(batch)
    for place in range(len(batch)):
        torch.testing.assert_close(together[place], slaney_log_mel(batch[place : place + 1])[0], atol=1e-5, rtol=0)


def test_gradients_pass_whoever_asked_first() -> None:
    """The cached window and mel bank must not stay bound to the inference mode of an earlier call."""
    with torch.inference_mode():
        slaney_log_mel(torch.ones(1, 1600))
    waveform = torch.from_numpy(signals()["noise"])[None].requires_grad_()
    slaney_log_mel(waveform).sum().backward()
    assert waveform.grad is not None
    # log energies grow by 2 d(ln gain) each: Euler's theorem for homogeneous functions, but for the offset
    assert float((waveform.grad * waveform.detach()).sum()) == pytest.approx(2 * 101 * 80, rel=1e-2)
