"""ASiT: a transformer over 16 x 16 patches of a kaldi filter bank, its class token among what it gives.

Source: Atito et al., "ASiT: Local-Global Audio Spectrogram Vision Transformer", IEEE/ACM TASLP 2024.
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.features import KaldiFbank, kaldi_fbank
from teachers._checkpoints import read_checkpoint
from teachers._teacher import FrontEnd
from teachers.families._strong import StrongFamily, StrongModel, StrongTeacher, load_strong, own_names
from teachers.families._vit import NORM_EPS, VitConfig, vit_blocks

FBANK = KaldiFbank(sample_rate=16_000, mel_bins=128, low_hz=20.0, high_hz=8_000.0, window="hann")
_FBANK_MEAN = -4.2677393
_FBANK_STD = 4.5689974
_PATCH = 16
# Pre-trained on 128 x 592 spectrograms, with one position for each of 8 x 37 patches.
_TABLE = (8, 37)


def asit_features(waveforms: Tensor) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> normalised filter bank [B, frames, 128]; 998 frames for 10 s.

    Each clip less its mean, padding included, and not scaled to the int16 range: quiet frames lie at the energy floor.
    """
    fbank = kaldi_fbank(waveforms - waveforms.mean(dim=1, keepdim=True), FBANK)
    return (fbank - _FBANK_MEAN) / (2.0 * _FBANK_STD)


class Asit(nn.Module):
    """Features [B, T, 128] of `asit_features` -> tokens [B, 1 + T // 16 * 8, width], the class token, then patches
    time-major: token = 1 + column * 8 + row; 497 for 10 s."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + _TABLE[0] * _TABLE[1], width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(1, width, _PATCH, stride=_PATCH)))
        self.blocks = vit_blocks(config)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, features: Tensor) -> Tensor:
        patches = self.patch_embed(features[:, None])
        # The published code resizes a table of (row, column) to (column, row), so that most patches get a position
        # learned for another time and frequency. The released weights were fine-tuned with it.
        table = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, _TABLE)
        positions = F.interpolate(table, size=patches.shape[2:], mode="bicubic", align_corners=False)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        tokens = torch.cat([cls_token, (patches + positions).flatten(2).transpose(1, 2)], dim=1)
        return self.norm(self.blocks(tokens))


def _build(classes: int, weak_head: bool) -> StrongModel:
    config = VitConfig()
    return StrongModel(Asit(config), width=config.width, classes=classes, weak_head=weak_head)


# One context: the heads learned the flattened token list of 10 s, in which a frame is the mean of 2-3 neighbouring
# *frequency* tokens, and its 62 columns of positions, which the published code would resize to any other number.
ASIT_STRONG = StrongFamily(
    name="asit",
    published="ASiT",
    front_end=FrontEnd("kaldi_fbank_hann", asit_features),
    build=_build,
    own_names=own_names,
)


def load_asit(path: Path, device: torch.device) -> StrongTeacher:
    """PretrainedSED's ASIT_strong_1. Raises TeacherError with the file and the reason."""
    return load_strong(read_checkpoint(path), device, ASIT_STRONG)
