"""Students filled by the rule of the parity fixtures, and the fixtures themselves."""

import hashlib
import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from students import StudentModel, frame_mobilenet

HERE = Path(__file__).resolve().parent.parent / "parity"
WIDTHS = {"student_fmn04": 0.4, "student_fmn10": 1.0, "student_fmn20": 2.0}
SEED = 20251


def rule(key: str, shape: tuple[int, ...]) -> tuple[float, float, bool]:
    """(mean, standard deviation, absolute value?) of a tensor of the fixtures."""
    if len(shape) > 1:
        return 0.0, 1.4 / math.sqrt(math.prod(shape[1:])), False
    if key in ("strong_head.bias", "weak_head.bias"):
        return -3.0, 1.0, False
    if key.endswith((".running_var", ".1.weight")):
        return 1.0, 0.1, key.endswith("var")
    return 0.0, 0.1 if key.endswith("mean") else 0.05, False


def parity_student(width: float) -> StudentModel:
    """In eval mode, with 447 classes and weights by the rule of tests/parity/README.md."""
    student = frame_mobilenet(width, 447)
    state: dict[str, Tensor] = {}
    for key, tensor in student.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        mean, std, absolute = rule(key, tuple(tensor.shape))
        digest = hashlib.sha256(f"{SEED}:{key}".encode()).digest()
        normal = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        values = mean + std * normal.standard_normal(tuple(tensor.shape), dtype=np.float32)
        state[key] = torch.from_numpy(np.abs(values) if absolute else values)
    student.load_state_dict(state)
    return student.eval()


def read_clip(path: Path) -> Tensor:
    pcm, rate = soundfile.read(path, dtype="int16")
    assert (rate, len(pcm)) == (16_000, 160_000)
    return torch.from_numpy(pcm.astype(np.float32) / 32768)[None]


def worst_difference(student: StudentModel, folder: Path, name: str) -> float:
    """Largest difference from what the reference code computed, in standard deviations of its logits."""
    with torch.inference_mode():
        logits = student(read_clip(folder / "inputs" / "events.wav"))
    with np.load(folder / f"{name}.expected.npz") as expected:
        return max(
            float(np.abs(got[0].numpy() - want).max() / want.std())
            for got, want in (
                (logits.frame, expected["events.strong_logits"]),
                (logits.clip, expected["events.weak_logits"]),
            )
        )
