"""Labels decoded into memory that is there already, as what the caller wants of them: one look-up in a table a value.

A label of codec `small` or `faithful` is codes of levels, one of another is float16 bit patterns; both are indices of
a table, which says once what the caller wants of each: probabilities at a temperature, logits, or, later and on
another device, anything.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline import FormatError, UsageError
from shards.codecs import _compiled
from shards.codecs._label import Coding, label_body, matrix_of
from shards.codecs._label_float16 import npy_bits, packed_bits, packed_planes
from shards.codecs._label_levels import GUARANTEES, MAX_LOGIT, levels
from shards.codecs._label_runs import decode_runs, other_side_stream, run_streams, runs_leave

What = Literal["probability", "logit", "code"]
LabelOut = npt.NDArray[Any]  # float32, or uint16 for codes
Rows = npt.NDArray[np.int64]

_MAX, _ONE, _MINUS_ZERO = 0x7BFF, 0x3C00, 0x8000  # bit patterns of float16


@dataclass(frozen=True, eq=False)
class LabelValues:
    """What to write for each value of a label set's labels. Made by `label_values`.

    levels: of the codes of small and faithful, [levels]. float16: of the bit patterns, [65536]. `code`: the former are
    the codes themselves, uint16; there is no latter for labels that are codes.
    """

    kind: str
    codec: str
    what: What
    temperature: float
    levels: LabelOut | None
    float16: LabelOut | None

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of what is written: float32, or uint16 for codes."""
        return np.dtype(np.uint16 if self.what == "code" else np.float32)

    def __reduce__(self) -> tuple[object, tuple[str, str, What, float]]:
        return _label_values, (self.kind, self.codec, self.what, self.temperature)


def label_values(kind: str, codec: str, *, what: What, temperature: float = 1.0) -> LabelValues:
    """Values of labels of that kind and codec as `what`. The same object for the same arguments.

    probability: sigmoid(logit / temperature); of stored probabilities other than codes the logit is that of them, and
    temperature 1 leaves them as they are. logit: the logit / temperature, of stored probabilities within +-24. Kinds
    that are neither stay as they are. code: indices of `table_of`.
    """
    return _label_values(kind, codec, what, float(temperature))


def table_of(
    codec: str, what: What = "probability", temperature: float = 1.0, *, kind: str = "logit"
) -> npt.NDArray[np.float32]:
    """What each code of a label of `codec` and `kind` stands for: float32 [levels], of float16 [65536]. Read-only."""
    if what == "code":
        raise UsageError("a table says what codes stand for: ask for probability or logit")
    if codec in GUARANTEES:
        logits = levels("faithful" if codec == "faithful" else "small").logits
        if what == "probability" and temperature == 1:
            return levels("faithful" if codec == "faithful" else "small").probabilities
        return _as(what, logits.astype(np.float64), "logit", temperature)
    return _float16_table(kind, what, float(temperature))


def decode_label_into(
    content: bytes | memoryview,
    shape: tuple[int, ...],
    kind: str,
    codec: str,
    values: LabelValues,
    out: LabelOut,
    where: object,
    rows: Rows | None = None,
) -> bool:
    """A label of `shape` into `out`, C-contiguous, of `values.dtype` and as large.

    rows: source rows (first axis), none twice: out[i] is row rows[i]; where that is -1, out[i] is left alone. Returns
    False with nothing written for codes of a label that had to be stored as float16: decode it as logits. Raises
    FormatError for anything but such a label, for float16 that is not finite, and for probabilities in it outside
    [0, 1]; then `out` holds anything.
    """
    room = shape if rows is None else (len(rows), *shape[1:])
    if out.shape != room or out.dtype != values.dtype or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}, needs {values.dtype} {room}, C-contiguous")
    if (values.kind, values.codec) != (kind, codec):
        raise ValueError(f"values are of {values.kind}s in {values.codec}, the label is of {kind}s in {codec}")
    if rows is not None and (rows.dtype != np.int64 or not rows.flags.c_contiguous):
        raise ValueError(f"rows are {rows.dtype}, needs int64, C-contiguous")
    coding, body = label_body(content, shape, kind, codec, where)
    if coding == Coding.RUNS and values.levels is not None:
        _runs_into(body, shape, values.levels, out, rows, where)
        return True
    if values.float16 is None:
        return False
    into = _npy_into if coding == Coding.NPY else _packed_into
    # Where codes cannot hold a label, its logits are stored, of whatever kind it is.
    probabilities = kind == "probability" and codec not in GUARANTEES
    if not into(body, shape, values.float16, out, rows, where, probabilities):
        found = "NaN or probabilities outside [0, 1]" if probabilities else "NaN or infinity"
        raise FormatError(f"{where}: label holds {found}, which no label does; label the shard again")
    return True


def _runs_into(
    body: memoryview, shape: tuple[int, ...], table: LabelOut, out: LabelOut, rows: Rows | None, where: object
) -> None:
    native = _compiled.native
    matrix = matrix_of(shape)
    if native is None or (rows is not None and len(shape) == 1):
        _take(decode_runs(body, table, matrix, where).reshape(shape), out, rows)
        return
    streams, stated, jumps = run_streams(body, matrix, where)
    wrong = native.runs(*streams, stated, jumps, *matrix, table, out, rows)
    if wrong:
        raise FormatError(other_side_stream(where) if wrong == 1 else runs_leave(where, len(table)))


def _npy_into(
    content: memoryview,
    shape: tuple[int, ...],
    table: LabelOut,
    out: LabelOut,
    rows: Rows | None,
    where: object,
    probabilities: bool,
) -> bool:
    """Whether all of them are values."""
    bits = npy_bits(content, shape, where)
    native = _compiled.native
    if native is None:
        return _look_up(bits, table, out, rows, probabilities)
    return bool(native.float16(bits, shape[0], prod(shape[1:]), table, out, rows, probabilities))


def _packed_into(
    body: memoryview,
    shape: tuple[int, ...],
    table: LabelOut,
    out: LabelOut,
    rows: Rows | None,
    where: object,
    probabilities: bool,
) -> bool:
    """Whether all of them are values."""
    high, low = packed_planes(body, prod(shape), where)
    native = _compiled.native
    if native is None or (rows is not None and len(shape) != 2):
        return _look_up(packed_bits(high, low, shape), table, out, rows, probabilities)
    return bool(native.packed(high, low, prod(shape[:-1]), shape[-1], table, out, rows, probabilities))


def _look_up(
    bits: npt.NDArray[np.uint16], table: LabelOut, out: LabelOut, rows: Rows | None, probabilities: bool
) -> bool:
    if rows is not None:
        present, sources = _present(rows, len(bits))
        bits = bits[sources]
    outside = bits & 0x7FFF > (_ONE if probabilities else _MAX)
    if outside.any() or (probabilities and np.any(bits > _MINUS_ZERO)):
        return False
    if rows is None:
        np.take(table, bits, out=out, mode="clip")  # without a mode, numpy buffers `out`
    else:
        out[present] = table[bits]
    return True


def _take(values: LabelOut, out: LabelOut, rows: Rows | None) -> None:
    if rows is None:
        np.copyto(out, values)
    else:
        present, sources = _present(rows, len(values))
        out[present] = values[sources]


def _present(rows: Rows, of: int) -> tuple[npt.NDArray[np.bool_], Rows]:
    """Which of `rows` are there, and those; checked as the kernels do it."""
    present = rows >= 0
    sources = rows[present]
    if np.any((rows < -1) | (rows >= of)) or len(np.unique(sources)) != len(sources):
        raise ValueError(f"rows are not rows of the {of} of the label, each once at most, or -1")
    return present, sources


@lru_cache(maxsize=64)
def _label_values(kind: str, codec: str, what: What, temperature: float) -> LabelValues:
    if what not in get_args(What):
        raise UsageError(f"labels are wanted as {what!r}, needs one of {', '.join(get_args(What))}")
    if not 0 < temperature < float("inf"):
        raise UsageError(f"temperature is {temperature}, needs a number above 0")
    lossy = codec in GUARANTEES
    if what == "code":
        codes = np.arange(len(table_of(codec)) if lossy else 65_536, dtype=np.uint16)
        return LabelValues(kind, codec, what, temperature, codes if lossy else None, None if lossy else codes)
    of_float16 = _float16_table("logit" if lossy else kind, what, temperature)
    return LabelValues(
        kind, codec, what, temperature, table_of(codec, what, temperature) if lossy else None, of_float16
    )


@lru_cache(maxsize=16)
def _float16_table(kind: str, what: What, temperature: float) -> npt.NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        values = np.arange(65_536, dtype=np.uint16).view(np.float16).astype(np.float64)
    if kind == "probability" and what == "probability" and temperature == 1:
        kind = "as it is"
    return _as(what, values, kind, temperature)


def _as(what: What, values: npt.NDArray[np.float64], kind: str, temperature: float) -> npt.NDArray[np.float32]:
    """Computed in float64: the float32 next to the number that is meant, whatever computes exp."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if kind == "probability":
            values = np.log(values) - np.log1p(-values)
            if what == "logit":
                values = np.clip(values, -MAX_LOGIT, MAX_LOGIT)
        if kind in ("logit", "probability"):
            values = values / temperature
            if what == "probability":
                values = 1 / (1 + np.exp(-values))
        table = values.astype(np.float32)
    table.flags.writeable = False
    return table
