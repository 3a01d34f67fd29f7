"""Kaldi's log mel filter bank in torch, batched, for models trained on kaldi features (BEATs, ASiT)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline._errors import UsageError

# Kaldi floors mel energies at the float32 machine epsilon before the logarithm.
_ENERGY_FLOOR = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class KaldiFbank:
    """Settings of a filter bank. Always: frames snip their edges, no dither, DC removed per frame.

    window: both are symmetric and zero at both ends; povey, kaldi's own, is Hann to the power 0.85.
    """

    sample_rate: int = 16_000
    mel_bins: int = 128
    frame_ms: int = 25
    shift_ms: int = 10
    low_hz: float = 20.0
    high_hz: float = 8_000.0
    preemphasis: float = 0.97
    window: Literal["povey", "hann"] = "povey"

    @property
    def frame_samples(self) -> int:
        return self.sample_rate * self.frame_ms // 1000

    @property
    def shift_samples(self) -> int:
        return self.sample_rate * self.shift_ms // 1000

    @property
    def fft_samples(self) -> int:
        """The next power of two that holds a frame: 512 for 25 ms at 16 kHz."""
        return 1 << (self.frame_samples - 1).bit_length()

    def frames(self, samples: int) -> int:
        """Frames that lie wholly inside `samples`: 998 for 160,000 at 16 kHz."""
        return max(0, 1 + (samples - self.frame_samples) // self.shift_samples)


def kaldi_fbank(waveforms: Tensor, spec: KaldiFbank) -> Tensor:
    """Float32 [B, N] -> natural-log mel energies [B, spec.frames(N), spec.mel_bins], on the same device.

    Scale matters (the energy floor is absolute): kaldi models expect samples in the int16 range, x * 2^15.
    Raises UsageError where a clip is shorter than one frame.
    Source: kaldi compute-fbank-feats, power spectrum, natural logarithm.
    """
    if waveforms.ndim != 2 or spec.frames(waveforms.shape[1]) == 0:
        raise UsageError(
            f"kaldi_fbank got {tuple(waveforms.shape)}; needs [clips, samples], {spec.frame_samples} samples or more"
        )
    window, mel_bank = _constants(spec, waveforms.device)
    frames = waveforms.unfold(1, spec.frame_samples, spec.shift_samples)
    frames = frames - frames.mean(dim=2, keepdim=True)
    # One output in a million is a near-cancellation that float32 rounding moves by 3e-3. The order of operations here,
    # the zero first sample included, is that of the reference code, so that it falls the same way.
    frames = frames - spec.preemphasis * F.pad(frames, (1, 0), mode="replicate")[..., :-1]
    spectrum = torch.fft.rfft(frames * window, n=spec.fft_samples)
    power = torch.view_as_real(spectrum).square().sum(dim=-1)
    return (power @ mel_bank).clamp_min(_ENERGY_FLOOR).log()


@lru_cache(maxsize=16)
def _constants(spec: KaldiFbank, device: torch.device) -> tuple[Tensor, Tensor]:
    """(window, mel bank) in float32. Not inference tensors, whoever asks first: a later call may need gradients."""
    with torch.inference_mode(False):
        return _window(spec).to(device), _mel_bank(spec).float().to(device)


def _window(spec: KaldiFbank) -> Tensor:
    hann = torch.hann_window(spec.frame_samples, periodic=False, dtype=torch.float32)
    return hann.pow(0.85) if spec.window == "povey" else hann


def _mel_bank(spec: KaldiFbank) -> Tensor:
    """[fft_samples / 2 + 1, mel_bins] triangles, equally spaced in mel = 1127 ln(1 + f / 700)."""
    bins = torch.arange(spec.fft_samples // 2 + 1, dtype=torch.float64)
    mel = _mel(bins * (spec.sample_rate / spec.fft_samples))[:, None]
    low, high = _mel(torch.tensor([spec.low_hz, spec.high_hz], dtype=torch.float64))
    step = (high - low) / (spec.mel_bins + 1)
    left = low + step * torch.arange(spec.mel_bins, dtype=torch.float64)
    return torch.minimum((mel - left) / step, (left + 2 * step - mel) / step).clamp_min(0.0)


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)
