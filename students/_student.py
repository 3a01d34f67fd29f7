"""A student: waveform in, frame and clip logits out."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline import UsageError
from pipeline.features import MelBand, log_mel
from students._frame_mobilenet import FrameMobileNet

MIN_WIDTH, MAX_WIDTH = 0.2, 3.0


class StudentLogits(NamedTuple):
    """frame: [B, C, 250], 40 ms each. clip: [B, C]."""

    frame: Tensor
    clip: Tensor


class StudentModel(nn.Module):
    """Float32 waveforms [B, N] at 16 kHz in [-1, 1] -> StudentLogits; [B, 160000] gives 250 frames.

    State dict keys are those of the released EfficientSED checkpoints: `model.fmn.*`, `strong_head.*`, `weak_head.*`.
    """

    def __init__(self, *, width: float, vocabulary_size: int) -> None:
        super().__init__()
        if not MIN_WIDTH <= width <= MAX_WIDTH or vocabulary_size < 1:
            raise UsageError(
                f"a frame MobileNet of width {width} for {vocabulary_size} classes; "
                f"needs a width from {MIN_WIDTH} to {MAX_WIDTH} and at least one class"
            )
        self.width = width
        backbone = FrameMobileNet(width)
        self.model = nn.ModuleDict({"fmn": backbone})
        self.strong_head = nn.Linear(backbone.embedding_size, vocabulary_size)
        self.weak_head = nn.Linear(backbone.embedding_size, vocabulary_size)

    def forward(self, waveforms: Tensor, band: MelBand | None = None) -> StudentLogits:
        """`band` moves the mel filters (a training augmentation, `pipeline.features.jittered_band`)."""
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            mel = log_mel(waveforms, band, periodic_window=False)
        embeddings = self.model["fmn"](mel[:, None])
        return StudentLogits(self.strong_head(embeddings).transpose(1, 2), self.weak_head(embeddings.mean(dim=1)))


def frame_mobilenet(width: float, vocabulary_size: int, *, seed: int = 0, prior: float = 0.5) -> StudentModel:
    """A frame-wise MobileNetV3-Large student, seeded random weights. `width` 0.4 is the published fmn04, 1.0 fmn10.

    Both heads start by giving every class a probability near `prior`.
    """
    model = StudentModel(width=width, vocabulary_size=vocabulary_size)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)
    for head in (model.strong_head, model.weak_head):
        nn.init.constant_(head.bias, math.log(prior / (1 - prior)))
    return model
