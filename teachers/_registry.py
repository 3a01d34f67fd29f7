"""Teachers by name. A new family is one file of its own and one line here."""

import importlib
import os
from pathlib import Path

import torch

from pipeline import TeacherError
from teachers._teacher import Teacher

# Family -> the function that loads it, given (path, device). Named, not imported: a family loads when asked for.
_FAMILIES = {
    "beats": "teachers.families._beats_teacher:load_beats",
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)


def load_teacher(
    family: str, *, checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu", precision: str = "float32"
) -> Teacher:
    """The teacher in file `checkpoint`, in evaluation mode on `device`, its matrix products in `precision`.

    `family` is one of FAMILIES, or "module:factory" for a teacher of your own: a function of (Path, torch.device) that
    returns a Teacher. Raises TeacherError for an unknown family and for a checkpoint that is damaged, incomplete or of
    another family.
    """
    if family not in _FAMILIES and ":" not in family:
        raise TeacherError(f"no teacher family {family!r}; known: {', '.join(FAMILIES)}; or give module:factory")
    module, _, factory = _FAMILIES.get(family, family).partition(":")
    try:
        load = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise TeacherError(
            f"teacher {family!r} cannot be imported ({error}); give module:factory of an importable module"
        ) from error
    place = parse_device(device)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise TeacherError(
            f"device {device}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; give cpu or one of them"
        )
    teacher = load(Path(checkpoint), place)
    if not isinstance(teacher, Teacher):
        raise TeacherError(f"{family} returned a {type(teacher).__name__}, needs a teachers.Teacher")
    teacher.use_precision(precision)
    return teacher


def parse_device(device: str | torch.device) -> torch.device:
    """Raises TeacherError unless PyTorch knows the name; whether this machine has such a device is another question."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise TeacherError(f"device {device!r} is not one of PyTorch's; give cpu, cuda or cuda:N") from error
