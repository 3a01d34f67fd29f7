"""How often a clip is drawn so that rare classes are heard: the published weightings, exact in integers."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS
from shards._hard import HardRows, Ragged

By = Literal["strong", "weak"]
PUBLISHED_OFFSET = {"strong": 30, "weak": 100}
# A class weighs 1000 / (offset + count) in units of 2**-32. All clips together weigh at most 1000 a class: with a
# thousand classes below 2**52 units, and the most frequent class still has five digits.
_UNITS = 1000 << 32


def clip_weights(hard: HardRows, by: By, offset: int, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The weight of every clip in units of 2**-32, int64 [clips]; 0 for a clip without a hard label of that kind.

    strong: sum over classes of frames_c * 1000 / (offset + N_c), frames_c the 40 ms frames of the clip's `frames`
    (int64 [clips]) in which the class is active, N_c their sum over all clips. weak: sum over the clip's classes of
    1000 / (offset + n_c), n_c the clips that have the class. Source: Schmid et al., ICASSP 2025, released code.
    """
    clips = len(hard.weak.known)
    if by == "weak":
        clip, code = _labelled(hard.weak)
        cell = np.sort(clip * max(1, len(hard.weak.mids)) + code, kind="stable")
        cell = cell[_first_of_each(cell)]  # a class counts once in a clip
        return _weighted(cell, np.ones(len(cell), np.int64), clips, len(hard.weak.mids), offset)
    cell, active = _active_frames(hard, frames)
    return _weighted(cell, active, clips, len(hard.strong.mids), offset)


def _weighted(
    cell: npt.NDArray[np.int64], amount: npt.NDArray[np.int64], clips: int, classes: int, offset: int
) -> npt.NDArray[np.int64]:
    """Cell = clip * classes + class, each once and in order; amount of that class in that clip."""
    clip, code = np.divmod(cell, max(1, classes))
    total = _sums(code, amount, classes)
    # As Python's integers: units and count may exceed 64 bits together.
    unit = np.array([_UNITS // (offset + count) if count else 0 for count in total.tolist()], np.int64)
    return _sums(clip, amount * unit[code] if len(code) else amount, clips)


def _sums(group: npt.NDArray[np.int64], values: npt.NDArray[np.int64], groups: int) -> npt.NDArray[np.int64]:
    """Sum of the values of each group, in integers (bincount adds in floating point)."""
    sums = np.zeros(groups, np.int64)
    np.add.at(sums, group, values)
    return sums


def _labelled(rows: Ragged) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Clip and code of every label."""
    clip = np.repeat(np.arange(len(rows.known), dtype=np.int64), np.diff(rows.bounds))
    return clip, rows.mid_code[rows.all_cells].astype(np.int64)


def _active_frames(
    hard: HardRows, frames: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each cell (clip, class) with events, in order, the frames of the union of its events."""
    clip, code = _labelled(hard.strong)
    cells = hard.strong.all_cells
    first = np.maximum(hard.onset_ms[cells].astype(np.int64) // HOP_MS, 0)
    last = np.minimum(-(-hard.offset_ms[cells].astype(np.int64) // HOP_MS), frames[clip])
    inside = first < last
    cell = (clip * max(1, len(hard.strong.mids)) + code)[inside]
    first, last = first[inside], last[inside]
    if not len(cell):
        return cell, cell
    # Cells lie on one line, each behind all frames of the one before it: the furthest end so far is then one running
    # maximum, and of a span counts what reaches beyond it.
    line = int(last.max()) + 1
    order = np.argsort(cell * line + first, kind="stable")
    cell, first, last = cell[order], first[order], last[order]
    new_cell = _first_of_each(cell)
    found, number = cell[new_cell], np.cumsum(new_cell) - 1
    base = number * line
    reached = np.maximum.accumulate(base + last)
    before = np.concatenate([[0], reached[:-1]])
    beyond = np.maximum(base + last - np.maximum(base + first, before), 0)
    return found, _sums(number, beyond, len(found))


def _first_of_each(cell: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Where in a sorted column a value comes for the first time."""
    first = np.ones(len(cell), np.bool_)
    first[1:] = cell[1:] != cell[:-1]
    return first
