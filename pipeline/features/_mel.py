"""The log mel spectrogram of fPaSST and of the frame-wise MobileNet students, in torch, batched."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline._errors import UsageError
from pipeline.features._spectrum import power_spectrogram

_SAMPLE_RATE = 16_000
_MEL_BINS = 128
_FFT_SAMPLES = 512
_WINDOW_SAMPLES = 400
_SHIFT_SAMPLES = 160
_PREEMPHASIS = 0.97
_POWER_FLOOR = 1e-7


@dataclass(frozen=True, kw_only=True)
class MelBand:
    """Frequencies that the 128 triangles span."""

    low_hz: float = 0.0
    high_hz: float = 7_000.0


def jittered_band(generator: torch.Generator) -> MelBand:
    """Training augmentation, one draw a batch: low end raised by U{0..9} Hz, high end moved by U{-999..1000} Hz."""
    low, high = (int(torch.randint(limit, (), generator=generator)) for limit in (10, 2_000))
    return MelBand(low_hz=float(low), high_hz=8_000.0 - high)


def log_mel(waveforms: Tensor, band: MelBand | None = None, *, periodic_window: bool) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> [B, 128, T], T = 1 + (N - 1) // 160: 1,000 for 160,000 samples.

    (ln(max(power, 1e-7)) + 4.5) / 5 of 25 ms frames every 10 ms, the first centred on the start of the pre-emphasised
    signal, which is one sample shorter. fPaSST has the periodic Hann window, the MobileNet students the symmetric one.
    Raises UsageError on another shape, or on clips too short for the reflection at their ends (257 samples).
    """
    if waveforms.ndim != 2 or waveforms.shape[1] < _FFT_SAMPLES // 2 + 2:
        raise UsageError(
            f"log_mel got {tuple(waveforms.shape)}; needs [clips, samples], {_FFT_SAMPLES // 2 + 2} samples or more"
        )
    # Two roundings, as the reference's convolution has: near the power floor a fused step shows (6e-4).
    emphasised = waveforms[:, 1:] - _PREEMPHASIS * waveforms[:, :-1]
    window = _hann(periodic_window, waveforms.device)
    power = power_spectrogram(emphasised, window, fft_samples=_FFT_SAMPLES, shift_samples=_SHIFT_SAMPLES)
    mel = _bank(band or MelBand(), waveforms.device).T @ power
    return (mel.clamp_min(_POWER_FLOOR).log() + 4.5) / 5.0


@lru_cache(maxsize=8)
def _hann(periodic: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a later call may need gradients
        return torch.hann_window(_WINDOW_SAMPLES, periodic=periodic).to(device)


@lru_cache(maxsize=32)
def _bank(band: MelBand, device: torch.device) -> Tensor:
    """[257, 128] triangles, linear in mel = 1127 ln(1 + f / 700); the Nyquist bin has no weight.

    In float32 throughout, unlike kaldi_fbank's: the narrow low triangles feel the rounding, and the released models'
    features are within 1e-4 of these and not of the exact ones (test_mel).
    """
    with torch.inference_mode(False):
        low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (band.low_hz, band.high_hz))
        step = (high - low) / (_MEL_BINS + 1)
        number = torch.arange(_MEL_BINS)
        left, centre, right = (low + (number + shift) * step for shift in (0.0, 1.0, 2.0))
        hertz = (_SAMPLE_RATE / _FFT_SAMPLES) * torch.arange(_FFT_SAMPLES // 2)
        mel = (1127.0 * (1.0 + hertz / 700.0).log())[:, None]
        rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
        bank = torch.minimum(rising, falling).clamp_min(0.0)
        return torch.nn.functional.pad(bank, (0, 0, 0, 1)).to(device)
