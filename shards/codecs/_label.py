"""Labels as the bytes of one tar member, in one of four codecs; the bytes say themselves what they are.

| codec | holds | [447, 250] |
|---|---|---|
| `master` | float16, bit-exact, any shape | 75 to 95 kB |
| `faithful` | temperatures up to 4 and later merging stay open | about 16 kB |
| `small` | what a student is trained on at temperature 1 | about 5.4 kB |
| `npy` | float16 in a .npy file | 223,628 B |

`faithful` and `small` are for logits or probabilities with the axes (class, time) or (class,). What they promise is
`guarantee(codec)`; the encoder decodes each label and checks it, and stores one that cannot be had so as float16
inside the same member. How members are laid out is in FORMAT.md.
"""

import re
import struct
from enum import Enum
from functools import lru_cache
from math import prod
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline import FormatError, UsageError
from pipeline._specs import MAX_TARGET_VALUES
from shards._failures import LabelRefused
from shards.codecs._label_fit import fit_levels, holds
from shards.codecs._label_float16 import (
    FLOAT16_MAX,
    Buffer,
    decode_npy,
    decode_packed,
    encode_npy,
    encode_packed,
    max_packed_bytes,
    npy_bytes,
    npy_header,
)
from shards.codecs._label_levels import GUARANTEES, MAX_LOGIT, LabelGuarantee, LossyCodec, levels
from shards.codecs._label_runs import decode_codes, decode_runs, encode_runs

LabelCodec = Literal["master", "faithful", "small", "npy"]
LABEL_CODECS: tuple[str, ...] = get_args(LabelCodec)
# Bounds what one label makes a reader allocate: of float16 20 bytes a value at most (MAX_TARGET_VALUES), of runs 60.
MAX_LOSSY_VALUES = 1 << 22

_Values = npt.NDArray[np.float32]
_HEAD = struct.Struct("<4s4BI")
_MAGIC = b"SEDL"
_VERSION = 1
_CODES = {"master": 0, "faithful": 1, "small": 2}
_KINDS = ("logit", "probability", "unit_vector", "metre")
_PACKED, _RUNS = b"\x00", b"\x01"


class Coding(Enum):
    """How the values of a label became bytes."""

    NPY = "float16 in a .npy"
    PACKED = "float16 without its redundancy"
    RUNS = "runs of levels"


def label_suffix(codec: str) -> str:
    """Suffix of the tar member, without its dot."""
    return "npy" if codec == "npy" else "label"


def guarantee(codec: LossyCodec) -> LabelGuarantee:
    """What the codec promises. `master` and `npy` promise float16 exactly."""
    return GUARANTEES[codec]


def encode_label(values: _Values, *, shape: tuple[int, ...], kind: str, codec: str) -> bytes:
    """Float32 of `shape`, of a kind out of TargetSpec's -> the content of a tar member. Equal input, equal bytes.

    Raises LabelRefused for another shape, for NaN, infinity and values beyond +-65504, and for probabilities outside
    [0, 1]; UsageError where the codec is not made for that kind or shape.
    """
    check_label_codec(codec, shape, kind)
    if values.shape != shape:
        raise LabelRefused("wrong_shape", f"labels have shape {values.shape}, the target needs {shape}")
    values = np.ascontiguousarray(values)  # a transposed view is no other label
    if not np.all(np.abs(values) <= FLOAT16_MAX):
        raise LabelRefused("not_finite", f"labels hold NaN, infinity or values beyond +-{FLOAT16_MAX:.0f}")
    if kind == "probability" and (values.min() < 0 or values.max() > 1):
        raise LabelRefused("out_of_range", "probabilities lie outside [0, 1]")
    if codec == "npy":
        return encode_npy(values)
    head = _head(shape, kind, codec)
    if codec == "master":
        return head + _PACKED + encode_packed(values)
    logits = _as_logits(values, kind)
    table = levels(_lossy(codec))
    fitted = fit_levels(logits, table)
    runs = encode_runs(fitted.levels)
    content = head + _RUNS + runs
    if len(content) <= max_label_bytes(shape, codec):
        found = decode_codes(memoryview(runs), len(table.logits), logits.shape, "label")
        if holds(logits, found, fitted, table, guarantee(_lossy(codec))):
            return content
    return head + _PACKED + encode_packed(logits.reshape(shape))


def decode_label(content: bytes, *, probabilities: bool = False) -> _Values:
    """Any member that `encode_label` writes -> the float32 values it was given, but for the error of its codec.

    probabilities: probabilities in place of logits, at once where the codec has a table for them; of a label of
    another kind than logit, the values it has. A .npy does not say what its values are: ask for them as they are.
    Raises FormatError.
    """
    if content.startswith(b"\x93NUMPY"):
        if probabilities:
            raise UsageError("a .npy does not say whether it holds logits; decode it without probabilities=True")
        kind, codec, shape = "logit", "npy", _npy_shape(content)
    else:
        kind, codec, shape = _parse_head(content, "label")
    return decode_label_checked(
        content, shape=shape, kind=kind, codec=codec, where="label", probabilities=probabilities
    )


def decode_label_checked(
    content: Buffer, *, shape: tuple[int, ...], kind: str, codec: str, where: object, probabilities: bool = False
) -> _Values:
    """`decode_label` for a reader who knows what has to come. Raises FormatError, naming `where`, for anything else;
    never allocates more than that label needs."""
    coding, body = label_body(content, shape, kind, codec, where)
    if coding == Coding.RUNS:
        table = levels(_lossy(codec))
        as_probabilities = probabilities or kind == "probability"
        return decode_runs(
            body, table.probabilities if as_probabilities else table.logits, matrix_of(shape), where
        ).reshape(shape)
    if coding == Coding.NPY:
        values = decode_npy(body, shape, where)
    else:
        values = decode_packed(body, shape, where)
        if codec != "master" and kind == "probability":
            return _sigmoid(values)
    return _sigmoid(values) if probabilities and kind == "logit" else values


def label_body(
    content: Buffer, shape: tuple[int, ...], kind: str, codec: str, where: object
) -> tuple[Coding, memoryview]:
    """How the label is coded and its body; of a .npy all of it. Raises FormatError unless its head says all of that."""
    content = memoryview(content)
    if codec == "npy":
        return Coding.NPY, content
    head = _head(shape, kind, codec)
    if content[: len(head)] != head:
        raise FormatError(f"{where}: is not a {codec} label of {kind}s of shape {shape}; label the shard again")
    coding, body = content[len(head) : len(head) + 1], content[len(head) + 1 :]
    if coding == _PACKED:
        return Coding.PACKED, body
    if coding != _RUNS or codec not in GUARANTEES or not _fits_lossy(shape, kind):
        raise FormatError(f"{where}: label is coded in a way this version does not know; update sed-distill")
    return Coding.RUNS, body


def max_label_bytes(shape: tuple[int, ...], codec: str) -> int:
    """No member that `encode_label` writes is longer; a reader refuses one that is before it reads it."""
    if codec == "npy":
        return npy_bytes(shape)
    return _HEAD.size + 4 * len(shape) + 1 + max_packed_bytes(prod(shape))


def check_label_codec(codec: str, shape: tuple[int, ...], kind: str) -> None:
    """Raises UsageError for a codec that does not exist or cannot hold that kind and shape."""
    if codec not in LABEL_CODECS:
        raise UsageError(f"label codec is {codec!r}, needs one of {', '.join(LABEL_CODECS)}")
    if kind not in _KINDS:
        raise UsageError(f"label kind is {kind!r}, needs one of {', '.join(_KINDS)}")
    if not 1 <= len(shape) <= 255 or not 1 <= prod(shape) <= MAX_TARGET_VALUES or min(shape) < 1:
        raise UsageError(f"a label of shape {shape} cannot be stored; it needs 1 to {MAX_TARGET_VALUES} values")
    if codec in GUARANTEES and not _fits_lossy(shape, kind):
        raise UsageError(
            f"label codec {codec} is for logits or probabilities with the axes (class, time) or (class,), up to "
            f"{MAX_LOSSY_VALUES} of them, not for {kind}s of shape {shape}; use master"
        )


def _fits_lossy(shape: tuple[int, ...], kind: str) -> bool:
    return len(shape) <= 2 and prod(shape) <= MAX_LOSSY_VALUES and kind in ("logit", "probability")


def _as_logits(values: _Values, kind: str) -> _Values:
    """Float32 [row, time] within +-MAX_LOGIT."""
    if kind == "probability":
        p = values.astype(np.float64)
        with np.errstate(divide="ignore"):
            values = (np.log(p) - np.log1p(-p)).astype(np.float32)
    return np.clip(values.reshape(matrix_of(values.shape)), np.float32(-MAX_LOGIT), np.float32(MAX_LOGIT))


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, cells of one): classes over time, or all classes in one row."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _lossy(codec: str) -> LossyCodec:
    return "faithful" if codec == "faithful" else "small"


def _sigmoid(logits: _Values) -> _Values:
    return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)


@lru_cache(maxsize=64)
def _head(shape: tuple[int, ...], kind: str, codec: str) -> bytes:
    head = _HEAD.pack(_MAGIC, _VERSION, _CODES[codec], _KINDS.index(kind), len(shape), prod(shape))
    return head + struct.pack(f"<{len(shape)}I", *shape)


def _parse_head(content: bytes, where: str) -> tuple[str, str, tuple[int, ...]]:
    """(kind, codec, shape). Raises FormatError."""
    if len(content) < _HEAD.size or not content.startswith(_MAGIC):
        raise FormatError(f"{where}: is not a label of sed-distill; decode members that end in .label or .npy")
    _, version, codec, kind, axes, cells = _HEAD.unpack_from(content)
    if version != _VERSION:
        raise FormatError(f"{where}: label has version {version}, this release reads {_VERSION}; update sed-distill")
    if codec >= len(_CODES) or kind >= len(_KINDS) or len(content) < _HEAD.size + 4 * axes:
        raise FormatError(f"{where}: label has a header this version does not know; update sed-distill")
    shape = struct.unpack_from(f"<{axes}I", content, _HEAD.size)
    name = list(_CODES)[codec]
    fits = name not in GUARANTEES or _fits_lossy(shape, _KINDS[kind])
    if not fits or not 1 <= cells <= MAX_TARGET_VALUES or not axes or prod(shape) != cells:
        raise FormatError(
            f"{where}: label states shape {shape} and {cells} values of kind {_KINDS[kind]}; label the shard again"
        )
    return _KINDS[kind], name, shape


def _npy_shape(content: bytes) -> tuple[int, ...]:
    """Shape of a .npy as `encode_npy` writes it. Raises FormatError."""
    found = re.match(
        rb".{10}\{'descr': '<f2', 'fortran_order': False, 'shape': \(((?:[0-9]{1,9}, ?){0,255}[0-9]{0,9})\), \}",
        content,
        re.S,
    )
    shape = tuple(int(size) for size in found[1].split(b",") if size.strip()) if found else ()
    if not shape or npy_header(shape) != content[: len(npy_header(shape))]:
        raise FormatError("label: is not a float16 .npy of this format; read it with numpy.load")
    return shape
