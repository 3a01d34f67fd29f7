"""Published labels that are one dense array: PretrainedSED's HDF5 of frames, EfficientAT's .npy of clips."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from pipeline import FormatError, TargetSpec, UsageError, audioset_strong_447, audioset_weak_527
from shards.foreign._hdf5 import MAX_NAME_BYTES, Column, ForeignHdf5
from shards.foreign._names import NameMatcher, decoded

_NAMES_AT_ONCE = 65_536
_MAX_INDEX_BYTES = 1 << 30
_MAX_HEADER_BYTES = 10_000
# Not evaluated as Python, as numpy does: an expression nested deep enough exhausts the parser.
_NPY_HEADER = re.compile(
    r"\{ *'descr': *'(?P<dtype>[<>|=]?[A-Za-z][0-9]{0,9})', *'fortran_order': *(?P<fortran>False|True), *"
    r"'shape': *\((?P<shape>(?:[0-9]{1,15}, *)*(?:[0-9]{1,15})?)\),? *\}\s*"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_DTYPES: dict[str, np.dtype[Any]] = {"<f2": np.dtype("<f2"), "<f4": np.dtype("<f4")}
_PICKLE_REMEDY = (
    "is a pickle, which runs code when loaded, so it never is; make JSON of its names and numbers without loading it: "
    "python -c \"import json, pickletools as p, sys; f = [x for o, x, _ in p.genops(open(sys.argv[1], 'rb')) "
    "if 'UNICODE' in o.name or 'INT' in o.name]; json.dump(dict(zip(f[::2], f[1::2])), open(sys.argv[2], 'w'))\" "
    "index.pkl index.json"
)


class ArrayLabels:
    """Row `order[key]` of an array is the label of clip `key`."""

    def __init__(
        self,
        target: TargetSpec,
        order: dict[str, int],
        read_row: Callable[[int], npt.NDArray[Any]],
        close: Callable[[], None],
    ) -> None:
        self.target = target
        self.order = order
        self._read_row = read_row
        self.close = close

    def read(self, key: str, samples: int, sample_rate: int) -> npt.NDArray[np.float32]:
        """Float32 of target.shape. Raises FormatError if the file is damaged there."""
        return self._read_row(self.order[key]).astype(np.float32)


def open_pretrained_sed(path: Path, matcher: NameMatcher) -> ArrayLabels:
    """`filenames`, texts [N], and `strong_logits` [N, 447, 250], float16, class x time, 40 ms frames of 10 s."""
    target = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=audioset_strong_447())
    file = ForeignHdf5(path)
    try:
        names = file.column("filenames", dtypes=("text",))
        logits = file.column("strong_logits", dtypes=("float16", "float32", "ragged float16"), shape=target.shape)
        if len(names) != len(logits):
            raise FormatError(
                f"{path}: has {len(names)} names and {len(logits)} labels, needs one for each; download it again"
            )
        order = {}
        for row, name in _all_names(names):
            key = matcher.match(name, str(path))
            if key is not None:
                order[key] = row
    except BaseException:
        file.close()
        raise
    return ArrayLabels(target, order, lambda row: logits.read(row, row + 1)[0], file.close)


def open_efficientat(path: Path, index: Path, matcher: NameMatcher) -> ArrayLabels:
    """.npy [N, 527] of float16 or float32 logits; `index` says the row of each name.

    index: JSON, {name: row} or a list of the N names; or CSV with the header `filename,index`. Rows are from 0.
    """
    target = TargetSpec(axes=("class",), kind="logit", vocabulary=audioset_weak_527(), hop_ms=None, frames=None)
    logits = _open_npy(path, classes=target.shape[0])
    order: dict[str, int] = {}
    rows: set[int] = set()
    for name, row in _read_index(index):
        if not 0 <= row < len(logits):
            raise FormatError(f"{index}: gives {name!r} row {row}, {path} has rows 0 to {len(logits) - 1}")
        if row in rows:
            raise FormatError(f"{index}: gives row {row} to two names, {name!r} is the second; needs one name a row")
        rows.add(row)
        key = matcher.match(name, str(index))
        if key is not None:
            order[key] = row
    return ArrayLabels(target, order, lambda row: np.array(logits[row]), lambda: None)


def _all_names(column: Column) -> Iterator[tuple[int, str]]:
    for start in range(0, len(column), _NAMES_AT_ONCE):
        yield from enumerate(decoded(column.read(start, min(start + _NAMES_AT_ONCE, len(column)))), start)


def _open_npy(path: Path, *, classes: int) -> npt.NDArray[Any]:
    """The array as a memory map, once its header and the size of the file agree."""
    try:
        with path.open("rb") as file:
            if file.read(2).startswith(b"\x80"):
                raise UsageError(f"{path}: {_PICKLE_REMEDY}")
            file.seek(0)
            header = _NPY_HEADER.fullmatch(_npy_header(file, path))
            start = file.tell()
            size = path.stat().st_size - start
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if header is None:
        raise FormatError(f"{path}: is not .npy of plain numbers; check --format and --file")
    shape = tuple(int(size) for size in header["shape"].replace(",", " ").split())
    dtype = _DTYPES.get(header["dtype"])
    if dtype is None or len(shape) != 2 or shape[0] == 0 or shape[1] != classes:
        raise FormatError(
            f"{path}: holds {header['dtype']} of shape {str(shape)[:80]}, needs <f2 (float16) or <f4 (float32) of "
            f"N x {classes}; check --format"
        )
    if size != shape[0] * shape[1] * dtype.itemsize:
        raise FormatError(
            f"{path}: has {size} bytes of values, its shape {shape} needs another number; download it again"
        )
    order: Literal["F", "C"] = "F" if header["fortran"] == "True" else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order=order)


def _npy_header(file: BinaryIO, path: Path) -> str:
    """The text that describes the array; `file` is left where the values begin. Empty for what is not .npy."""
    magic, major = file.read(6), file.read(2)[:1]
    if magic != b"\x93NUMPY" or not major:
        return ""
    if major not in (b"\x01", b"\x02"):
        raise FormatError(f"{path}: is .npy version {major[0]}, needs 1 or 2; save it again with numpy.save")
    width = 2 if major == b"\x01" else 4
    length = int.from_bytes(file.read(width), "little")
    return file.read(length).decode("latin-1") if length <= _MAX_HEADER_BYTES else ""


def _read_index(path: Path) -> Iterator[tuple[str, int]]:
    """(name, row) pairs of a JSON or CSV index."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check --index") from error
    if content.startswith(b"\x80"):
        raise UsageError(f"{path}: {_PICKLE_REMEDY}")
    if len(content) > _MAX_INDEX_BYTES:
        raise FormatError(f"{path}: has over {_MAX_INDEX_BYTES} bytes, which no index of clips needs; check --index")
    try:
        text = content.decode("utf-8-sig")
        pairs = _json_pairs(text) if text.lstrip()[:1] in ("{", "[") else _csv_pairs(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise FormatError(
            f"{path}: is no index ({str(error)[:200]}); needs JSON {{name: row}} or a list of names, "
            "or CSV with the header filename,index"
        ) from error
    for name, row in pairs:
        if not isinstance(name, str) or len(name) > MAX_NAME_BYTES or not isinstance(row, int) or isinstance(row, bool):
            raise FormatError(f"{path}: has entry {str(name)[:80]!r}: {str(row)[:80]!r}, needs a name and a row number")
        if _LONE_SURROGATE.search(name):
            raise FormatError(
                f"{path}: has the name {name[:80]!r}, which is no Unicode text; give its clip key instead"
            )
        yield name, row


def _json_pairs(text: str) -> list[tuple[Any, Any]]:
    # As pairs: a dictionary would drop a name that is there twice without a word.
    value = json.loads(text, object_pairs_hook=tuple)
    if isinstance(value, tuple):
        return list(value)
    return [(name, row) for row, name in enumerate(value)]


def _csv_pairs(text: str) -> list[tuple[Any, Any]]:
    header, *rows = csv.reader(text.splitlines())
    if header != ["filename", "index"]:
        raise ValueError(f"begins with {','.join(header)[:80]!r}")
    return [(name, int(row)) for name, row in rows]
