"""The filter bank against kaldi's own code (kaldi_native_fbank) and against its definition in float64."""

import math

import kaldi_native_fbank
import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline import UsageError
from pipeline.features import KaldiFbank, kaldi_fbank

SPEC = KaldiFbank()
# A frame that only touches a burst hears it through the window's edge, which float32 rounds to 7e-5 of itself.
FLOAT32 = 3e-6
# Kaldi builds its triangles in float32: mel values near 2,800 are rounded by 1.2e-4, a filter's half width is 22.
FLOAT32_BANK = 3e-5


def signals() -> dict[str, npt.NDArray[np.float32]]:
    """One second each, in the int16 range that kaldi expects."""
    rng = np.random.default_rng(0)
    t = np.arange(16_000) / 16_000
    burst = np.where((t > 0.3) & (t < 0.35), rng.uniform(-1, 1, 16_000), 0)
    found = {
        "noise": rng.uniform(-1, 1, 16_000),
        "tone": np.sin(2 * np.pi * 440 * t),
        "quiet": 1e-4 * rng.standard_normal(16_000),
        "sweep": np.sin(2 * np.pi * (50 * t + 3900 * t**2)),
        "burst": burst,
        "offset": 0.5 + 0.1 * rng.standard_normal(16_000),
    }
    return {name: (values * 32768).astype(np.float32) for name, values in found.items()}


def kaldi(samples: npt.NDArray[np.float32], spec: KaldiFbank) -> npt.NDArray[np.float32]:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = spec.sample_rate
    options.frame_opts.frame_length_ms = spec.frame_ms
    options.frame_opts.frame_shift_ms = spec.shift_ms
    options.frame_opts.preemph_coeff = spec.preemphasis
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.frame_opts.window_type = {"povey": "povey", "hann": "hanning"}[spec.window]
    options.mel_opts.num_bins = spec.mel_bins
    options.mel_opts.low_freq = spec.low_hz
    options.mel_opts.high_freq = spec.high_hz
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(spec.sample_rate, samples.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(frame) for frame in range(fbank.num_frames_ready)])


def definition(samples: npt.NDArray[np.float32], spec: KaldiFbank) -> npt.NDArray[np.float64]:
    """Frame by frame and filter by filter, in float64."""

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    size, points = spec.frame_samples, spec.fft_samples
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** (0.85 if spec.window == "povey" else 1)
    edges = np.linspace(mel(spec.low_hz), mel(spec.high_hz), spec.mel_bins + 2)
    rows = []
    for start in range(0, len(samples) - size + 1, spec.shift_samples):
        frame = samples[start : start + size].astype(np.float64)
        frame = frame - frame.mean()
        frame = np.concatenate([[frame[0] * (1 - spec.preemphasis)], frame[1:] - spec.preemphasis * frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, points)) ** 2
        row = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            energy = 0.0
            for k in range(points // 2):
                m = mel(k * spec.sample_rate / points)
                if left < m < right:
                    energy += power[k] * min((m - left) / (centre - left), (right - m) / (right - centre))
            row.append(math.log(max(energy, 2.0**-23)))
        rows.append(row)
    return np.array(rows)


def compare(got: npt.NDArray[np.floating], want: npt.NDArray[np.floating], *, tolerance: float) -> None:
    """Energies within `tolerance` of the loudest in their frame, and nearly every audible logarithm within 1e-4."""
    assert got.shape == want.shape
    loudest = np.exp(want.astype(np.float64)).max(axis=1, keepdims=True)
    assert (np.abs(np.exp(got.astype(np.float64)) - np.exp(want.astype(np.float64))) < tolerance * loudest).all()
    heard = want > np.log(loudest) - 14
    assert np.quantile(np.abs(got - want)[heard], 0.99) < 1e-4


@pytest.mark.parametrize("name", signals())
def test_agrees_with_kaldi(name: str) -> None:
    samples = signals()[name]
    compare(kaldi_fbank(torch.from_numpy(samples)[None], SPEC)[0].numpy(), kaldi(samples, SPEC), tolerance=FLOAT32_BANK)


@pytest.mark.parametrize(
    "spec",
    [
        KaldiFbank(mel_bins=64, low_hz=60, high_hz=7800),
        KaldiFbank(sample_rate=8_000, mel_bins=40, high_hz=4_000),
        KaldiFbank(frame_ms=32, shift_ms=20, preemphasis=0.9),
        KaldiFbank(window="hann"),
    ],
)
def test_every_setting_means_what_kaldi_means(spec: KaldiFbank) -> None:
    samples = signals()["noise"]
    compare(kaldi_fbank(torch.from_numpy(samples)[None], spec)[0].numpy(), kaldi(samples, spec), tolerance=FLOAT32_BANK)


@pytest.mark.parametrize("spec", [SPEC, KaldiFbank(window="hann")], ids=["povey", "hann"])
@pytest.mark.parametrize("name", ["noise", "burst", "offset"])
def test_agrees_with_the_definition(name: str, spec: KaldiFbank) -> None:
    samples = signals()[name][3000:7000]
    compare(kaldi_fbank(torch.from_numpy(samples)[None], spec)[0].numpy(), definition(samples, spec), tolerance=FLOAT32)


def test_silence_lies_at_the_floor() -> None:
    for level in (0.0, 0.25):
        features = kaldi_fbank(torch.full((1, 1600), level), SPEC)
        assert torch.equal(features, torch.full((1, 8, 128), math.log(2.0**-23)))


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (16_000, 98), (160_000, 998)])
def test_frames_lie_wholly_inside_the_clip(samples: int, frames: int) -> None:
    assert SPEC.frames(samples) == frames
    assert kaldi_fbank(torch.zeros(1, samples), SPEC).shape == (1, frames, 128)


@pytest.mark.parametrize("shape", [(1, 399), (1, 0), (16_000,), (1, 1, 16_000)])
def test_a_clip_shorter_than_a_frame_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="400 samples or more"):
        kaldi_fbank(torch.zeros(shape), SPEC)


def test_a_clip_does_not_hear_its_neighbours() -> None:
    batch = torch.from_numpy(np.stack(list(signals().values())))
    together = kaldi_fbank(batch, SPEC)
    for place in range(len(batch)):
        torch.testing.assert_close(together[place], kaldi_fbank(batch[place : place + 1], SPEC)[0], atol=1e-5, rtol=0)


def test_gradients_pass_whoever_asked_first() -> None:
    """The cached window and mel bank must not stay bound to the inference mode of an earlier call."""
    spec = KaldiFbank(mel_bins=17)
    with torch.inference_mode():
        kaldi_fbank(torch.ones(1, 1600), spec)
    waveform = torch.from_numpy(signals()["noise"])[None].requires_grad_()
    kaldi_fbank(waveform, spec).sum().backward()
    assert waveform.grad is not None
    # log energies grow by 2 d(ln gain) each: Euler's theorem for homogeneous functions
    assert float((waveform.grad * waveform.detach()).sum()) == pytest.approx(2 * 98 * 17, rel=1e-3)
