"""ATST-F: a transformer over the mel spectrogram's columns, four of them (40 ms) a token.

Source: Li et al., "Self-supervised Audio Teacher-Student Transformer for Both Clip-level and Frame-level Tasks",
TASLP 2024.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline import FRAMES
from pipeline.features import db_mel
from teachers._checkpoints import read_checkpoint
from teachers._teacher import FrontEnd
from teachers.families._strong import StrongFamily, StrongModel, StrongTeacher, load_strong, own_names
from teachers.families._vit import NORM_EPS, VitConfig, vit_blocks

_MEL_BINS = 64
_TOKEN_COLUMNS = 4
# Decibels that the model takes for -1 and 1.
_LOW_DB, _HIGH_DB = -79.6482, 50.6842
# In a file beside the model: what stood for masked tokens in pre-training, and constants of the front end.
_IGNORED = frozenset(
    {
        "model.atst.mask_embed",
        "model.atst_mel.mel_transform.spectrogram.window",
        "model.atst_mel.mel_transform.mel_scale.fb",
    }
)


def atst_features(waveforms: Tensor) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> normalised decibels [B, 64, T]; T = 1,001 for 10 s."""
    return (db_mel(waveforms) - _LOW_DB) / (_HIGH_DB - _LOW_DB) * 2.0 - 1.0


class Atst(nn.Module):
    """Features [B, 64, T] of `atst_features` -> tokens [B, T // 4, width], 250 of them or fewer."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        # The first position belongs to a class token that the frame model does not have.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + FRAMES, config.width))
        self.patch_embed = _PatchEmbedding(config.width)
        self.blocks = vit_blocks(config, qkv_bias=False)
        self.norm_frame = nn.LayerNorm(config.width, eps=NORM_EPS)

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.patch_embed(features)
        # Cut, not stretched: in a shorter context the tokens stand where they stand at the start of 10 s.
        return self.norm_frame(self.blocks(tokens + self.pos_embed[:, 1 : 1 + tokens.shape[1]]))


class _PatchEmbedding(nn.Module):
    """Four columns, bin by bin, as one vector of 256."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(_MEL_BINS * _TOKEN_COLUMNS, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.patch_embed(features.unfold(2, _TOKEN_COLUMNS, _TOKEN_COLUMNS).transpose(1, 2).flatten(2))


def _build(classes: int, weak_head: bool) -> StrongModel:
    config = VitConfig()
    return StrongModel(Atst(config), width=config.width, classes=classes, weak_head=weak_head)


ATST_STRONG = StrongFamily(
    name="atst",
    published="ATST-F",
    front_end=FrontEnd("db_mel", atst_features),
    build=_build,
    own_names=lambda checkpoint: own_names(checkpoint, "model.atst.", ignored=_IGNORED),
    contexts_ms=(10_000, 5_000, 4_000, 2_000),
)


def load_atst(path: Path, device: torch.device) -> StrongTeacher:
    """PretrainedSED's ATST-F_strong_1. Raises TeacherError with the file and the reason."""
    return load_strong(read_checkpoint(path), device, ATST_STRONG)
