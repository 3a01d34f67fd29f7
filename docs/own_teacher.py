"""A teacher of your own: `sed-distill label --teacher own_teacher:load=own.pt ...`, this folder in PYTHONPATH.

Say what it hears, its classes, and what decides its numbers (labels of another version are never mixed with these; the
file's sha256 is added). Then logits of each clip on its own, 40 ms a frame; sizes, NaN and batches are looked after.
Clip heads, contexts, front ends, half precision: docs/teachers.md, "A teacher of your own".
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline import AudioSpec, TeacherError, Vocabulary
from teachers import Teacher, fill, read_checkpoint

CLASSES = Vocabulary(("/m/09x0r", "/m/04rlf"), ("Speech", "Music"))


class OwnTeacher(Teacher):
    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__(audio_spec=AudioSpec(), vocabulary=CLASSES, provenance={"version": 1}, device=device)
        self.model = model.to(device).eval()

    def _frame_logits(self, waveforms: Tensor, frames: int) -> Tensor:
        """[B, 640 * frames] at 16 kHz -> [B, 2, frames]."""
        power = waveforms.unflatten(1, (1, frames, -1)).square().mean(dim=3)
        return self.model(torch.log10(power + 1e-9))


def load(path: Path | None, device: torch.device) -> Teacher:
    if path is None:
        raise TeacherError("own_teacher:load needs the weights; give own_teacher:load=own.pt")
    tensors = read_checkpoint(path).content  # unpickles tensors and plain values only
    return OwnTeacher(fill(lambda: nn.Conv1d(1, 2, kernel_size=9, padding=4), tensors, path), device)
