"""M2D: a transformer over 16 x 16 patches of a mel spectrogram, whose frequency rows are stacked into wide tokens.

Source: Niizumi et al., "Masked Modeling Duo", IEEE/ACM TASLP 2024.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.features import slaney_log_mel
from teachers._checkpoints import read_checkpoint
from teachers._teacher import FrontEnd
from teachers.families._columns import columns_to_frames, whole_columns
from teachers.families._strong import StrongFamily, StrongModel, StrongTeacher, load_strong, own_names
from teachers.families._vit import NORM_EPS, VitConfig, vit_blocks

_PATCH = 16
_ROWS = 5
_COLUMNS = 62
_LOG_MEAN = -7.1
_LOG_STD = 4.2
# In a file beside the model: constants of the front end, and statistics that the published one does not use either.
_IGNORED = frozenset(
    f"{prefix}.{name}"
    for prefix in ("model", "model.m2d")
    for name in (
        "backbone.norm_stats",
        "to_spec.mel_basis",
        "to_spec.stft.window_mask",
        "to_spec.stft.wsin",
        "to_spec.stft.wcos",
    )
)


def m2d_features(waveforms: Tensor) -> Tensor:
    """Float32 [B, N] at 16 kHz in [-1, 1] -> normalised log mel [B, 80, T]; 1,001 for 10 s."""
    return (slaney_log_mel(waveforms) - _LOG_MEAN) / _LOG_STD


class M2d(nn.Module):
    """Features [B, 80, T] of `m2d_features` -> tokens [B, T // 16, 5 * width], one per 160 ms; 62 for 10 s."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.backbone = _Backbone(config)

    def forward(self, features: Tensor) -> Tensor:
        return self.backbone(features).unflatten(1, (_ROWS, -1)).transpose(1, 2).flatten(2)


class _Backbone(nn.Module):
    """Patches, row after row of them (low frequencies first) -> [B, 5 * columns, width]."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + _ROWS * _COLUMNS, width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(1, width, _PATCH, stride=_PATCH)))
        self.blocks = vit_blocks(config)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, features: Tensor) -> Tensor:
        patches = self.patch_embed(features[:, None]).permute(0, 2, 3, 1)
        # Cut, not stretched: in a shorter context the columns stand where they stand at the start of 10 s.
        positions = self.pos_embed[:, 1:].unflatten(1, (_ROWS, _COLUMNS))[:, :, : patches.shape[2]]
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        tokens = self.blocks(torch.cat([cls_token, (patches + positions).flatten(1, 2)], dim=1))
        return self.norm(tokens[:, 1:])


class StrongM2d(StrongModel):
    """PretrainedSED's heads on M2D. A last column that is not whole is filled up as in the published code, with zeros;
    of the contexts here only 2 s has one."""

    def __init__(self, config: VitConfig, classes: int, *, weak_head: bool) -> None:
        super().__init__(M2d(config), width=_ROWS * config.width, classes=classes, weak_head=weak_head)

    def frames(self, features: Tensor, frames: int) -> Tensor:
        whole = whole_columns(features.transpose(1, 2), frames, silence=0.0).transpose(1, 2)
        return columns_to_frames(self.model(whole).float(), frames)


M2D_STRONG = StrongFamily(
    name="m2d",
    published="M2D",
    front_end=FrontEnd("slaney_log_mel", m2d_features),
    build=lambda classes, weak_head: StrongM2d(VitConfig(), classes, weak_head=weak_head),
    own_names=lambda checkpoint: own_names(checkpoint, "model.m2d.", ignored=_IGNORED),
    contexts_ms=(10_000, 5_000, 4_000, 2_000),
)


def load_m2d(path: Path, device: torch.device) -> StrongTeacher:
    """PretrainedSED's M2D_strong_1. Raises TeacherError with the file and the reason."""
    return load_strong(read_checkpoint(path), device, M2D_STRONG)
