"""Compiled kernels behind shards.codecs, which checks what it gives them. Their sources are in shards/native.

Contents are read; `out` and `memory` are written. All let other threads run meanwhile. ValueError: arguments that do
not fit each other.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_Content = Any  # C-contiguous memory: bytes, memoryview, pyarrow.Buffer, array
_PcmOut = npt.NDArray[np.int16] | npt.NDArray[np.float32]
_LabelOut = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
_Rows = npt.NDArray[np.int64] | None

VERSION: int

def portable(wanted: bool, /) -> None:
    """From now on and in all threads without instructions that only some processors have: for tests of that."""

def crc32c(content: _Content, /) -> int: ...
def read_crc32c(fd: int, offset: int, memory: _Content, /) -> tuple[int, int]:
    """Bytes read, fewer than `memory` has room for only at the end of the file; and their CRC32C, if they are all."""

def flac(content: _Content, sample_rate: int, channels: int, samples: int, out: _PcmOut, /) -> bool:
    """False: not a FLAC stream of exactly that clip, or of a kind that is not known; `out` then holds anything."""

def running_sum(differences: _Content, channels: int, samples: int, out: _PcmOut, /) -> None:
    """`differences`: uint16, the channels one after another."""

def runs(
    tokens: _Content, side: _Content, stated: int, jumps: int, rows: int, frames: int,
    table: _LabelOut, out: _LabelOut, chosen: _Rows, /,
) -> int:  # fmt: skip
    """0: written; 1: the side stream is not what the tokens ask for; 2: runs leave their rows or the table."""

def float16(
    bits: _Content, rows: int, columns: int, table: _LabelOut, out: _LabelOut, chosen: _Rows, probabilities: bool, /
) -> bool:
    """Whether all that were wanted are values: finite, and within [0, 1] if they are `probabilities`. `bits`:
    little-endian; the table has 65,536 values."""

def packed(
    high: _Content, low: _Content, rows: int, columns: int, table: _LabelOut, out: _LabelOut, chosen: _Rows,
    probabilities: bool, /,
) -> bool:  # fmt: skip
    """As float16, of the bits that are packed in the planes."""

def fit_levels(
    logits: npt.NDArray[np.float32], rows: int, frames: int, reaches: npt.NDArray[np.int16],
    kept: npt.NDArray[np.float64], sigmoid: npt.NDArray[np.float64], keeps: int, quiet: int,
    levels: npt.NDArray[np.uint16], given: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], /,
) -> None:  # fmt: skip
    """Writes what shards.codecs._label_fit.Fitted holds. ValueError also for logits that are not within +-24."""

def holds(
    logits: npt.NDArray[np.float32], rows: int, frames: int, reaches: npt.NDArray[np.int16],
    probabilities: npt.NDArray[np.float32], quiet: int, codes: npt.NDArray[np.uint16],
    given: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], share: float, floor: float, /,
) -> bool:  # fmt: skip
    """Whether all codes are within reach, and no row's loss changes by more than that share or `floor` nats a cell."""

def encode_runs(
    levels: npt.NDArray[np.uint16], rows: int, frames: int, tokens: npt.NDArray[np.uint8],
    side: npt.NDArray[np.uint8], /,
) -> tuple[int, int, int]:  # fmt: skip
    """Runs, stated lengths, stated steps: what is written of `tokens`, with a byte a level, and `side`, with three."""
