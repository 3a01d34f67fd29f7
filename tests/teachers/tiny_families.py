"""A small random teacher of every family, loaded from tensors named as in a released file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from teachers._checkpoints import Checkpoint
from teachers.families._asit import ASIT_STRONG, Asit
from teachers.families._atst import ATST_STRONG, Atst
from teachers.families._beats_teacher import BEATS_STRONG, StrongBeats
from teachers.families._fpasst import FPASST_STRONG, Fpasst
from teachers.families._m2d import M2D_STRONG, StrongM2d
from teachers.families._strong import StrongFamily, StrongModel, StrongTeacher, load_strong
from teachers.families._vit import VitConfig
from tests.teachers.conftest import SMALL

VIT = VitConfig(width=48, layers=2, heads=4)
FULL = {family.name: family for family in (BEATS_STRONG, ATST_STRONG, FPASST_STRONG, M2D_STRONG, ASIT_STRONG)}
# Twelve layers: reading a strong file counts on them.
_BEATS = replace(SMALL, encoder_layers=12, predictor_class=0)
_MODELS = {"atst": Atst, "fpasst": Fpasst, "asit": Asit}
_RELEASED_PREFIX = {"beats": "model.model.", "atst": "model.atst."}


def tiny_family(name: str) -> StrongFamily:
    return replace(FULL[name], build=lambda classes, weak_head: _build(name, classes, weak_head))


def tiny_tensors(name: str, seed: int = 0) -> dict[str, Any]:
    """Every parameter random, no two layers alike."""
    model = _build(name, 447, weak_head=True)
    generator = torch.Generator().manual_seed(seed)
    prefix = _RELEASED_PREFIX.get(name, "model.")
    tensors = {}
    for key, tensor in model.state_dict().items():
        values = 0.3 * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1 and not key.endswith(("_token", "_embed", "_table")):
            values = values / 0.3 * tensor[0].numel() ** -0.5
        elif "norm" in key and key.endswith("weight"):
            values = 1.0 + values
        tensors[prefix + key.removeprefix("model.") if key.startswith("model.") else key] = values
    if name == "beats":  # one table, listed under every layer
        table = "self_attn.relative_attention_bias.weight"
        shared = next(values for key, values in tensors.items() if key.endswith(table))
        tensors = {key: shared if key.endswith(table) else values for key, values in tensors.items()}
    return tensors


def tiny_checkpoint(tensors: dict[str, Any]) -> Checkpoint:
    return Checkpoint(path=Path("strong_1.pt"), sha256="0" * 64, content=tensors)


def tiny_teacher(name: str) -> StrongTeacher:
    return load_strong(tiny_checkpoint(tiny_tensors(name)), torch.device("cpu"), tiny_family(name))


def tiny_teacher_elsewhere(name: str) -> StrongTeacher:
    """On PyTorch's device for tensors without values. It fails where they are looked at, for which a GPU would be
    waited for, and in most places where tensors of the host are mixed in."""
    teacher = tiny_teacher(name)
    teacher.device = torch.device("meta")
    teacher.model.to(teacher.device)
    return teacher


def _build(name: str, classes: int, weak_head: bool) -> StrongModel:
    if name == "beats":
        return StrongBeats(_BEATS, classes, weak_head=weak_head)
    if name == "m2d":
        return StrongM2d(VIT, classes, weak_head=weak_head)
    return StrongModel(_MODELS[name](VIT), width=VIT.width, classes=classes, weak_head=weak_head)
