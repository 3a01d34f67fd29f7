"""The mel spectrogram in decibels of ATST-F, in torch, batched."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from pipeline._errors import UsageError
from pipeline.features._spectrum import power_spectrogram

_SAMPLE_RATE = 16_000
_MEL_BINS = 64
_FFT_SAMPLES = 1024
_SHIFT_SAMPLES = 160
_LOW_HZ = 60.0
_HIGH_HZ = 7_800.0
_POWER_FLOOR = 1e-10
_RANGE_DB = 80.0
_LOWEST_DB, _HIGHEST_DB = -50.0, 80.0


def db_mel(waveforms: Tensor) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> decibels [B, 64, T] in [-50, 80], T = 1 + N // 160: 1,001 for 10 s.

    Power of 64 ms Hann frames every 10 ms, the first centred on the first sample, in triangles from 60 to 7,800 Hz;
    nothing lies more than 80 dB below the loudest value *of its clip*. Published code takes the loudest of the whole
    batch there; a batch of one gives the same. Raises UsageError on another shape, or on clips too short for the
    reflection at their ends (513 samples).
    Source: Li et al., "Self-supervised Audio Teacher-Student Transformer for Both Clip-level and Frame-level Tasks",
    TASLP 2024.
    """
    if waveforms.ndim != 2 or waveforms.shape[1] <= _FFT_SAMPLES // 2:
        raise UsageError(
            f"db_mel got {tuple(waveforms.shape)}; needs [clips, samples], {_FFT_SAMPLES // 2 + 1} samples or more"
        )
    window, bank = _constants(waveforms.device)
    power = power_spectrogram(waveforms, window, fft_samples=_FFT_SAMPLES, shift_samples=_SHIFT_SAMPLES)
    decibels = 10.0 * (bank @ power).clamp_min(_POWER_FLOOR).log10()
    floor = decibels.amax(dim=(1, 2), keepdim=True) - _RANGE_DB
    return torch.maximum(decibels, floor).clamp(_LOWEST_DB, _HIGHEST_DB)


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """(window [1024], triangles [64, 513] linear in hertz between edges equally spaced in 2595 log10(1 + f / 700))."""
    with torch.inference_mode(False):  # a later call may need gradients
        low, high = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (_LOW_HZ, _HIGH_HZ))
        edges = 700.0 * (10.0 ** (torch.linspace(low, high, _MEL_BINS + 2, dtype=torch.float64) / 2595.0) - 1.0)
        hertz = torch.linspace(0.0, _SAMPLE_RATE / 2, _FFT_SAMPLES // 2 + 1, dtype=torch.float64)
        left, centre, right = (edges[start : start + _MEL_BINS, None] for start in range(3))
        bank = torch.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre)).clamp_min(0.0)
        return torch.hann_window(_FFT_SAMPLES).to(device), bank.float().to(device)
