"""fPaSST: PaSST made frame-wise, a transformer over 40 ms columns that a small convolutional stem prepares.

Source: Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection", ICASSP 2025.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import FRAMES
from pipeline.features import log_mel
from teachers._checkpoints import read_checkpoint
from teachers._teacher import FrontEnd
from teachers.families._strong import StrongFamily, StrongModel, StrongTeacher, load_strong, own_names
from teachers.families._vit import NORM_EPS, VitConfig, vit_blocks

_MEL_BINS = 128
# What the stem's 64 channels of 32 bins are laid out as before the patch embedding.
_PATCH_CHANNELS = 16


def fpasst_features(waveforms: Tensor) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> log mel [B, 128, T]; T = 1,000 for 10 s."""
    return log_mel(waveforms, periodic_window=True)


class Fpasst(nn.Module):
    """Features [B, 128, T] of `fpasst_features` -> tokens [B, ceil(T / 4), width], 250 of them or fewer."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, FRAMES))
        self.conv_in_1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv_in_2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv_in_3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.patch_embed = _PatchEmbedding(width)
        self.blocks = vit_blocks(config)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, features: Tensor) -> Tensor:
        stem = F.gelu(self.conv_in_1(features[:, None]))
        stem = F.gelu(self.conv_in_3(F.gelu(self.conv_in_2(stem))))
        columns = self.patch_embed(stem.flatten(1, 2).unflatten(1, (_PATCH_CHANNELS, _MEL_BINS)))
        # Cut, not stretched: in a shorter context the tokens stand where they stand at the start of 10 s.
        columns = columns + self.time_new_pos_embed[..., : columns.shape[3]] + self.freq_new_pos_embed
        whole = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        tokens = torch.cat([whole.expand(len(columns), -1, -1), columns.flatten(2).transpose(1, 2)], dim=1)
        return self.norm(self.blocks(tokens))[:, 2:]


class _PatchEmbedding(nn.Module):
    """All bins of column t and of t + 1, zeros after the last: [B, 16, 128, T] -> [B, width, 1, T]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(_PATCH_CHANNELS, width, (_MEL_BINS, 2))

    def forward(self, stem: Tensor) -> Tensor:
        return self.proj(F.pad(stem, (0, 1)))


def _build(classes: int, weak_head: bool) -> StrongModel:
    config = VitConfig()
    return StrongModel(Fpasst(config), width=config.width, classes=classes, weak_head=weak_head)


FPASST_STRONG = StrongFamily(
    name="fpasst",
    published="fPaSST",
    front_end=FrontEnd("log_mel", fpasst_features),
    build=_build,
    own_names=lambda checkpoint: own_names(checkpoint),
    contexts_ms=(10_000, 5_000, 4_000, 2_000),
)


def load_fpasst(path: Path, device: torch.device) -> StrongTeacher:
    """PretrainedSED's fpasst_strong_1. Raises TeacherError with the file and the reason."""
    return load_strong(read_checkpoint(path), device, FPASST_STRONG)
