"""Full-size teachers with random weights, for measurements that need no checkpoint: speed does not depend on them.

    sed-distill label ... --teacher benchmarks.random_teachers:beats=1 --teacher benchmarks.random_teachers:atst=2

What follows the equals sign is the seed. `small` is no model: a few numbers of each clip, for what surrounds a teacher.
"""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline import AudioSpec, audioset_strong_447
from teachers import Teacher
from teachers.families._strong import StrongFamily, StrongTeacher

_FAMILIES = {
    "beats": "_beats_teacher:BEATS_STRONG",
    "atst": "_atst:ATST_STRONG",
    "fpasst": "_fpasst:FPASST_STRONG",
    "m2d": "_m2d:M2D_STRONG",
    "asit": "_asit:ASIT_STRONG",
}
FAMILIES = tuple(_FAMILIES)


def family_of(name: str) -> StrongFamily:
    """How a family of strong checkpoints is built."""
    module, _, constant = _FAMILIES[name].partition(":")
    family = getattr(importlib.import_module(f"teachers.families.{module}"), constant)
    if not isinstance(family, StrongFamily):
        raise TypeError(f"{constant} is no StrongFamily")
    return family


def random_teacher(name: str, seed: int, device: torch.device) -> StrongTeacher:
    family, vocabulary = family_of(name), audioset_strong_447()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.build(len(vocabulary), True)
    return StrongTeacher(
        model, front_end=family.front_end, contexts_ms=family.contexts_ms, vocabulary=vocabulary, device=device,
        provenance={"family": name, "checkpoint_sha256": hashlib.sha256(f"random {seed}".encode()).hexdigest()},
    )  # fmt: skip


def _factory(name: str) -> Callable[[Path | None, torch.device], Teacher]:
    return lambda seed, device: random_teacher(name, int(seed.name) if seed else 0, device)


beats, atst, fpasst, m2d, asit = map(_factory, FAMILIES)


class SmallTeacher(Teacher):
    """Logits of each 40 ms: its level in dB, further apart from class to class."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(
            audio_spec=AudioSpec(), vocabulary=audioset_strong_447(), device=device,
            provenance={"family": "small", "checkpoint_sha256": hashlib.sha256(b"small").hexdigest()},
        )  # fmt: skip
        self._slope = torch.linspace(0.05, 0.2, len(self.vocabulary), device=device)[:, None]

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        level = 10 * torch.log10(features.unflatten(1, (frames, -1)).square().mean(dim=2) + 1e-10)
        return self._slope * level[:, None, :] - 1


def small(path: Path | None, device: torch.device) -> SmallTeacher:
    return SmallTeacher(device)
