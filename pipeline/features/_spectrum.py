"""What the mel front ends with centred frames share."""

import torch
from torch import Tensor


def power_spectrogram(signals: Tensor, window: Tensor, *, fft_samples: int, shift_samples: int) -> Tensor:
    """Float32 [B, N] -> |STFT|^2 [B, fft_samples / 2 + 1, 1 + N // shift_samples].

    Frame t is centred on sample t * shift_samples; the signal is reflected at its ends, so that N must be larger than
    fft_samples / 2. A shorter window is centred in the frame.
    """
    spectrum = torch.stft(
        signals, fft_samples, hop_length=shift_samples, win_length=len(window), window=window, center=True,
        pad_mode="reflect", return_complex=True,
    )  # fmt: skip
    return spectrum.real.square() + spectrum.imag.square()  # a sum over an axis of two costs ten times as much
