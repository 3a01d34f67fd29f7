"""Reading a checkpoint file whole or not at all: every byte checked, nothing unpickled but tensors and plain values."""

import hashlib
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline import TeacherError

M = TypeVar("M", bound=nn.Module)

# Key prefixes that give a checkpoint's family away, asked in this order.
_SIGNATURES = {
    "BEATs": ("encoder.pos_conv.", "model.model.encoder.pos_conv.", "model.beats.encoder.pos_conv."),
    "ATST-F": ("model.atst.",),
    "fPaSST": ("model.conv_in_1.",),
    "M2D": ("model.backbone.", "model.m2d."),
    "ASiT": ("model.patch_embed.proj.",),
    "student": ("model.fmn.",),
}
# What torch.load raises for an archive that is whole but holds something else, or a pickle that makes no sense.
_UNREADABLE = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file holds. `content` is a dict; its tensors stay on the disk until they are read."""

    path: Path
    sha256: str
    content: dict[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises TeacherError for a file that is missing, cut off, damaged, or holds more than tensors and plain values."""
    try:
        damage = archive_damage(path)
        if damage is not None:
            raise TeacherError(f"{path}: {damage}")
        sha256 = file_sha256(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise TeacherError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of a checkpoint file, or the name of a "
            "released one (sed-distill teachers lists them)"
        ) from error
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())[:160]
        raise TeacherError(
            f"{path}: holds more than tensors and plain values, which is never unpickled ({reason}); save a state dict"
        ) from error
    except _UNREADABLE as error:
        reason = str(error).split("\n")[0][:160]
        raise TeacherError(
            f"{path}: is a zip archive but not a PyTorch checkpoint ({reason}); give a file written by torch.save"
        ) from error
    if not isinstance(content, dict):
        raise TeacherError(
            f"{path}: holds a {type(content).__name__}, needs a dict of tensors; save the model's state dict"
        )
    return Checkpoint(path=path, sha256=sha256, content=content)


def fill(build: Callable[[], M], tensors: Mapping[str, Any], path: Path) -> M:
    """The module that `build` makes, filled from `tensors` as what it is. TeacherError unless names and shapes agree.

    It is built without memory or initial values first: 90 M random numbers cost a second, and wrong sizes are refused
    before they are allocated.
    """
    with torch.device("meta"):
        module = build()
    wanted = module.state_dict()
    _check_tensors(wanted, tensors, path)
    unfilled = [name for name, _ in module.named_buffers() if name not in wanted]
    if unfilled:
        raise TeacherError(
            f"{path}: the model makes {_some(unfilled)} itself when it is built, no file can fill them; make them "
            "persistent buffers, or build the model on the CPU and use its load_state_dict"
        )
    module.to_empty(device="cpu")
    for name, parameter in module.state_dict().items():
        parameter.copy_(tensors[name])
        if parameter.is_floating_point() and not bool(torch.isfinite(torch.stack(parameter.aminmax())).all()):
            bad = int((~torch.isfinite(parameter)).sum())
            raise TeacherError(
                f"{path}: {name} has {bad} NaN or infinite of {parameter.numel()} values; give a whole checkpoint"
            )
    return module


def looks_like(keys: Mapping[str, Any]) -> str:
    """The family whose tensor names these are, or "no known family"."""
    for family, marks in _SIGNATURES.items():
        if any(str(key).startswith(marks) for key in keys):
            return family
    return "no known family"


def _check_tensors(wanted: Mapping[str, Tensor], tensors: Mapping[str, Any], path: Path) -> None:
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted]
    if missing or extra:
        parts = [
            f"{len(names)} tensors {what} ({_some(names)})"
            for names, what in ((missing, "missing"), (extra, "unknown"))
            if names
        ]
        raise TeacherError(
            f"{path}: {' and '.join(parts)}, this model has {len(wanted)}; give the checkpoint as it was released"
        )
    for name, parameter in wanted.items():
        tensor, number = tensors[name], parameter.is_floating_point()
        if (
            not isinstance(tensor, Tensor)
            or tensor.layout is not torch.strided
            or not (tensor.is_floating_point() if number else tensor.dtype == parameter.dtype)
        ):
            kind = f"{tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TeacherError(
                f"{path}: {name} is a {kind}, needs a {'floating-point' if number else parameter.dtype} tensor; give "
                "the checkpoint as it was released"
            )
        if tensor.shape != parameter.shape:
            has, needs = tuple(tensor.shape), tuple(parameter.shape)
            raise TeacherError(f"{path}: {name} has shape {has}, this model needs {needs}; give one of this size")


def archive_damage(path: Path) -> str | None:
    """What is wrong with the zip archive that a checkpoint is, every byte of it checked. Raises OSError.

    torch.load skips the archive's CRCs: one flipped bit would load as a different weight.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        return "is a folder or a device; give a file written by torch.save"
    try:
        if not zipfile.is_zipfile(path):
            return (
                f"{path.stat().st_size} bytes, not a whole PyTorch checkpoint (zip): cut off, or another kind of file; "
                "download it again or give a file written by torch.save"
            )
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return (
                    "damaged, or packed by another program than torch.save, which compresses nothing; download it again"
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        return f"damaged archive ({error}); download it again"
    return None if damaged is None else f"damaged, {_some([damaged])} does not match its CRC; download it again"


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    """A file may call its tensors anything."""
    return ", ".join(" ".join(str(name).split()) for name in names[:3]) + (", ..." if len(names) > 3 else "")
