"""The log mel spectrogram of M2D in torch, batched: triangles on Slaney's mel scale, each of area one."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from pipeline._errors import UsageError
from pipeline.features._spectrum import power_spectrogram

_SAMPLE_RATE = 16_000
_MEL_BINS = 80
_WINDOW_SAMPLES = 400
_SHIFT_SAMPLES = 160
_LOW_HZ = 50.0
_HIGH_HZ = 8_000.0
_POWER_OFFSET = torch.finfo(torch.float32).eps


def slaney_log_mel(waveforms: Tensor) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> ln(power + 2^-23) [B, 80, T], T = 1 + N // 160: 1,001 for 160,000 samples.

    25 ms frames every 10 ms, frame i centred on sample 160 i, the clip reflected at its ends, periodic Hann window, 80
    triangles from 50 to 8,000 Hz. Raises UsageError on another shape, or on clips too short for the reflection (201
    samples).
    """
    if waveforms.ndim != 2 or waveforms.shape[1] <= _WINDOW_SAMPLES // 2:
        raise UsageError(
            f"slaney_log_mel got {tuple(waveforms.shape)}; needs [clips, samples], {_WINDOW_SAMPLES // 2 + 1} samples "
            "or more"
        )
    window, bank = _constants(waveforms.device)
    power = power_spectrogram(waveforms, window, fft_samples=_WINDOW_SAMPLES, shift_samples=_SHIFT_SAMPLES)
    return (bank @ power + _POWER_OFFSET).log()


@lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """(window, mel bank) in float32. Not inference tensors, whoever asks first: a later call may need gradients."""
    with torch.inference_mode(False):
        return torch.hann_window(_WINDOW_SAMPLES).to(device), _mel_bank().float().to(device)


def _mel_bank() -> Tensor:
    """[80, 201]: triangles over hertz between edges equally spaced in mel, divided by half their width in hertz."""
    mels = torch.linspace(_mel(_LOW_HZ), _mel(_HIGH_HZ), _MEL_BINS + 2, dtype=torch.float64)
    edges = torch.where(mels < _LINEAR_MELS, mels * _HZ_PER_MEL, _LINEAR_HZ * ((mels - _LINEAR_MELS) * _LOG_STEP).exp())
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = torch.arange(_WINDOW_SAMPLES // 2 + 1, dtype=torch.float64) * (_SAMPLE_RATE / _WINDOW_SAMPLES)
    triangles = torch.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre)).clamp_min(0.0)
    return triangles * (2.0 / (right - left))


# Slaney's scale: linear up to 1 kHz, 3 mel to 200 Hz, then 27 mel for each factor of 6.4.
_HZ_PER_MEL = 200.0 / 3.0
_LINEAR_HZ = 1_000.0
_LINEAR_MELS = _LINEAR_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def _mel(hertz: float) -> float:
    return hertz / _HZ_PER_MEL if hertz < _LINEAR_HZ else _LINEAR_MELS + math.log(hertz / _LINEAR_HZ) / _LOG_STEP
