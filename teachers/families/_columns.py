"""Columns of 16 x 16 patches, 160 ms each, to 40 ms frames: in a shorter context as at the start of a clip.

Published models stretch the 62 columns of 10 s, which cover 9.92 s, over all 250 frames. Stretching those of a shorter
context over all of its frames would be another scale: 24 columns on 4 s leave the last 145 ms unheard and mark sounds
up to 150 ms late. `python -m benchmarks.teacher_geometry` measures it.
"""

import torch.nn.functional as F
from torch import Tensor

from pipeline import FRAMES
from teachers.families._parts import to_frames

COLUMN_FEATURES = 16
_COLUMNS = 62


def whole_columns(features: Tensor, frames: int, silence: float) -> Tensor:
    """Features [B, T, bins], followed by as much silence as their last column needs to reach the last frame."""
    columns = -(-frames * _COLUMNS // FRAMES)
    return F.pad(features, (0, 0, 0, max(0, columns * COLUMN_FEATURES - features.shape[1])), value=silence)


def columns_to_frames(columns: Tensor, frames: int) -> Tensor:
    """[B, C, width] -> [B, frames, width]: the first frames of a clip that starts with these columns, C at most 62."""
    clip = F.pad(columns.transpose(1, 2), (0, _COLUMNS - columns.shape[1]), mode="replicate").transpose(1, 2)
    return to_frames(clip, FRAMES)[:, :frames]
