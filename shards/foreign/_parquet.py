"""Foreign parquet with a row for each chunk of a clip, read in batches whose memory is bounded."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import FormatError, UsageError
from shards.foreign._hdf5 import MAX_NAME_BYTES
from shards.foreign._names import printable

_MAX_LIST_BYTES = 4096
_BATCH_ROWS = 65_536
_MAX_ROWS = 1 << 28


def chunk_batches(path: Path, lists: tuple[str, ...], chunk_ms: int) -> Iterator[tuple[Any, ...]]:
    """Batches of (filename, chunk number, *lists) of a parquet with `filename`, `start` and `end`."""
    texts = ("filename", *lists)
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        if not {*texts, "start", "end"} <= set(schema.names) or not 0 < rows <= _MAX_ROWS:
            has = f"{rows} rows of {printable(', '.join(schema.names)[:200])}"
            raise FormatError(f"{path}: has {has}; needs {', '.join((*texts, 'start', 'end'))}: check --format")
        # As dictionaries: one long text that a file repeats a million times stays one text in memory.
        coded = [name for name in texts if not _is_list(schema.field(name).type)]
        with pq.ParquetFile(path, read_dictionary=coded) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[*texts, "start", "end"]):
                batch.validate(full=True)  # places in a dictionary, which a damaged page can put outside, and UTF-8
                _check_texts(batch, texts, path)
                chunks = _chunk_numbers(batch, chunk_ms, path)
                yield batch.column("filename"), chunks, *(batch.column(name) for name in lists)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = printable(str(error).partition("\n")[0][:200])
        raise FormatError(f"{path}: is missing, damaged or not parquet ({why}); download it again") from error


def _check_texts(batch: pa.RecordBatch, texts: Sequence[str], path: Path) -> None:
    for name in texts:
        column = batch.column(name)
        each = column.dictionary if pa.types.is_dictionary(column.type) else column
        is_text = pa.types.is_string(each.type) or pa.types.is_large_string(each.type)
        is_list = name != "filename" and _is_list(each.type)
        if batch.column(name).null_count or not (is_text or is_list):
            raise FormatError(
                f"{path}: column {name} is {each.type} with {column.null_count} nulls, needs text; check --format"
            )
        limit = MAX_NAME_BYTES if name == "filename" else _MAX_LIST_BYTES
        longest = pc.max(pc.binary_length(each) if is_text else pc.list_value_length(each)).as_py() or 0
        if longest > limit:
            raise FormatError(f"{path}: column {name} has a text of {longest} bytes, needs at most {limit}")


def _chunk_numbers(batch: pa.RecordBatch, chunk_ms: int, path: Path) -> npt.NDArray[np.int32]:
    """start and end in seconds -> number of the chunk. Raises UsageError if they are not chunks of `chunk_ms`."""
    start, end = (batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in ("start", "end"))
    number = np.round(start * 1000 / chunk_ms)
    with np.errstate(invalid="ignore"):
        length_ms = (end - start) * 1000
        good = (np.abs(start * 1000 - number * chunk_ms) <= 1) & (length_ms > 0) & (length_ms <= chunk_ms + 1)
        good &= (number >= 0) & (number < 1e6)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise UsageError(
            f"{path}: has a chunk from {start[row]:g} to {end[row]:g} s, which is none of the chunks of "
            f"{chunk_ms / 1000:g} s that --chunk-s asks for; give the length of the file's chunks"
        )
    numbers: npt.NDArray[np.int32] = number.astype(np.int32)
    return numbers


def numbers(column: pa.Array, dtype: pa.DataType, where: str) -> npt.NDArray[Any]:
    """Texts '0.9;0.1', or lists, of one length -> [n, k]."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    lists = (
        column
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        else pc.split_pattern(column, ";")
    )
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(lengths) > 1:
        raise FormatError(f"{where} has rows of {sorted(lengths)[:5]} entries, needs one number for all")
    try:
        flat: npt.NDArray[Any] = pc.list_flatten(lists).cast(dtype).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise FormatError(f"{where} is no list of numbers ({printable(str(error)[:200])}); check --format") from error
    return flat.reshape(len(lists), lengths[0] if lengths else 1)


def _is_list(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_list(dtype) or pa.types.is_large_list(dtype))
