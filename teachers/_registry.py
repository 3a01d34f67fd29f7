"""Teachers by name. A new family is one file of its own and one line here."""

import importlib
import os
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError

import torch

from jobs import describe_error
from pipeline import TeacherError, canonical_json
from teachers._checkpoints import file_sha256
from teachers._sources import checkpoint_file, parse_source
from teachers._teacher import Teacher

# Family -> the function that loads it, given (path, device). Named, not imported: a family loads when asked for.
_FAMILIES = {
    "beats": "teachers.families._beats_teacher:load_beats",
    "atst": "teachers.families._atst:load_atst",
    "fpasst": "teachers.families._fpasst:load_fpasst",
    "m2d": "teachers.families._m2d:load_m2d",
    "asit": "teachers.families._asit:load_asit",
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
# What a mistake in a user's own module raises. Not OSError, which may be the disk's and gone at the next attempt.
_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    FileNotFoundError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    SyntaxError,
    TypeError,
    UnpicklingError,
    ValueError,
)


def load_teacher(
    family: str, *, checkpoint: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu",
    precision: str = "float32",
) -> Teacher:  # fmt: skip
    """The teacher in file `checkpoint`, in evaluation mode on `device`, its matrix products in `precision`.

    `family` is one of FAMILIES, or "module:factory" for a teacher of your own: a function of (Path | None,
    torch.device) that returns a Teacher. `checkpoint` is a path; text may also be an address or the name of a released
    file, which is fetched once per node. Raises TeacherError for an unknown family and for a checkpoint that is
    damaged, incomplete, of another family or not what its address promises; UsageError and OSError as
    `checkpoint_file`.
    """
    load = _loader(family) if family in _FAMILIES else _own_loader(family)
    place = parse_device(device)
    check_device(place)
    if checkpoint is None:
        if family in _FAMILIES:
            raise TeacherError(f"teacher {family} needs a checkpoint; give {family}=CHECKPOINT")
        teacher = load(None, place)
    else:
        source = parse_source(family, checkpoint) if isinstance(checkpoint, str) else Path(checkpoint)
        path = checkpoint_file(family, source, archive=family in _FAMILIES)
        try:
            teacher = load(path, place)
        except TeacherError as error:
            if isinstance(source, Path):
                raise
            raise TeacherError(f"{source}: {error}") from error
    if not isinstance(teacher, Teacher):
        raise TeacherError(f"{family} returned a {type(teacher).__name__}, needs a teachers.Teacher")
    if family not in _FAMILIES:
        _complete_provenance(teacher, family, None if checkpoint is None else path)
    teacher.use_precision(precision)
    return teacher


def _loader(family: str) -> Callable[[Path | None, torch.device], object]:
    if family not in _FAMILIES and ":" not in family:
        raise TeacherError(f"no teacher family {family!r}; known: {', '.join(FAMILIES)}; or give module:factory")
    module, _, factory = _FAMILIES.get(family, family).partition(":")
    try:
        load: Callable[[Path | None, torch.device], object] = attrgetter(factory)(importlib.import_module(module))
        if not callable(load):
            raise TypeError(f"{factory} is a {type(load).__name__}, not a function")
    except _MISTAKES as error:  # TypeError: of a relative name, too
        raise TeacherError(
            f"teacher {family!r} cannot be imported ({describe_error(error)}); give module:factory of a module that is "
            "installed or in a folder of PYTHONPATH, on every node"
        ) from error
    return load


def _own_loader(family: str) -> Callable[[Path | None, torch.device], object]:
    """Of a teacher of the user's own, whose mistakes are told by file and line."""
    factory = _loader(family)

    def load(path: Path | None, device: torch.device) -> object:
        try:
            return factory(path, device)
        except _MISTAKES as error:
            called = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            needs = "" if called else "; it is called with a Path or None, and a torch.device"
            raise TeacherError(f"{family} failed: {describe_error(error)}{needs}") from error

    return load


def _complete_provenance(teacher: Teacher, family: str, path: Path | None) -> None:
    """What a teacher of the user's own may leave out: labels of two checkpoints must not pass for one label set."""
    teacher.provenance.setdefault("family", family)
    if path is not None and "checkpoint_sha256" not in teacher.provenance:
        if not path.is_file():
            raise TeacherError(
                f"{family}: {path} is no file, so nothing in the provenance tells its labels from another's; state "
                "checkpoint_sha256 there"
            )
        teacher.provenance["checkpoint_sha256"] = file_sha256(path)
    try:
        canonical_json(teacher.provenance)
    except (TypeError, ValueError) as error:
        raise TeacherError(f"{family}: its provenance is no plain JSON ({error}); state text and numbers") from error


def parse_device(device: str | torch.device) -> torch.device:
    """Raises TeacherError unless PyTorch knows the name; whether this machine has such a device is another question."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise TeacherError(f"device {device!r} is not one of PyTorch's; give cpu, cuda or cuda:N") from error


def check_device(device: torch.device) -> None:
    """Raises TeacherError where `device` is a GPU that this machine lacks."""
    seen = torch.cuda.device_count() if device.type == "cuda" else 1
    if not seen:
        raise TeacherError(f"device {device}: PyTorch sees no CUDA device here; give cpu")
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise TeacherError(
            f"device {device}: PyTorch sees {seen} CUDA device{'s' if seen > 1 else ''} here; give cpu or one of them"
        )
