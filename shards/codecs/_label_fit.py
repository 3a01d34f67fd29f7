"""Choose the levels of a label: inside every cell's reach, seldom changing, and with every row's loss as it was."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.codecs import _compiled
from shards.codecs._label_levels import LabelGuarantee, Levels
from shards.codecs._label_units import PER_LOGIT, Units, one_of, sigmoid_table, units_of

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.intp]
_Codes = npt.NDArray[np.uint16]
# Steps in which a row's loss is put right: by moving a whole run, then by moving the first frames of one.
_PASSES = 4
# A row's loss is right within this share, or within so many nats a cell.
_SHARE, _FLOOR = 0.005, 1e-6


@dataclass(frozen=True)
class Fitted:
    """levels: [row, time]. given, loss: [row], the sums of those of the logits' `Units` at the table's temperature."""

    levels: _Codes
    given: _Floats
    loss: _Floats


def fit_levels(logits: npt.NDArray[np.float32], levels: Levels) -> Fitted:
    """Logits [row, time] within +-MAX_LOGIT, C-contiguous -> their levels. The same with the kernels and without.

    A row is cut into as few runs as the reach of its cells allows. Each run's level is the one nearest its mean
    probability; then some move by one level, a part of a run if need be, until the row's loss, which is linear in the
    target, is what it was.
    """
    if _compiled.native is None:
        return _fit_levels(logits, levels)
    fitted = Fitted(np.empty(logits.shape, np.uint16), np.empty(len(logits)), np.empty(len(logits)))
    _compiled.native.fit_levels(
        logits, *logits.shape, levels.reaches, levels.kept, sigmoid_table(), levels.keeps, levels.quiet,
        fitted.levels, fitted.given, fitted.loss,
    )  # fmt: skip
    return fitted


def holds(logits: npt.NDArray[np.float32], codes: _Codes, fitted: Fitted, levels: Levels, of: LabelGuarantee) -> bool:
    """Whether the guarantee is kept where `codes` [row, time] are what a reader finds for those logits.

    What it promises for a cell is true of all levels within reach of a logit, whichever that is.
    """
    share, floor = of.max_row_loss_change, of.row_loss_floor
    if share is None:
        share, floor = 0.0, math.inf
    if _compiled.native is None:
        return _holds(logits, codes, fitted, levels, share, floor)
    held: bool = _compiled.native.holds(
        logits, *logits.shape, levels.reaches, levels.probabilities, levels.quiet, codes, fitted.given, fitted.loss,
        share, floor,
    )  # fmt: skip
    return held


def _fit_levels(logits: npt.NDArray[np.float32], levels: Levels) -> Fitted:
    """As fit_levels, by NumPy."""
    lowest, highest = levels.reach(logits)
    starts, low, high = _longest_runs(lowest, highest)
    units = units_of(logits, levels.keeps)
    start = np.flatnonzero(starts)
    length = np.diff(start, append=logits.size)
    last = start + length - 1
    mean = np.add.reduceat(units.probability.ravel(), start) / length
    borders = (levels.kept[1:] + levels.kept[:-1]) / 2 * (units.one * PER_LOGIT)
    level = np.clip(np.searchsorted(borders, mean), low.ravel()[last], high.ravel()[last]).astype(np.intp)
    balance = _Balance(levels, units, start, length, low.ravel(), high.ravel())
    off = balance.move_runs(level)
    line = np.repeat(level, length)
    fitted = Fitted(np.empty(logits.shape, np.uint16), units.given.sum(axis=1), units.loss.sum(axis=1))
    tolerated = np.maximum(_SHARE * fitted.loss, _FLOOR * units.one * logits.shape[1])
    balance.move_parts(level, line, off, tolerated)
    balance.move_stretches(line.reshape(logits.shape), lowest, highest, off, tolerated)
    fitted.levels[:] = line.reshape(logits.shape)
    return fitted


def _holds(
    logits: npt.NDArray[np.float32], codes: _Codes, fitted: Fitted, levels: Levels, share: float, floor: float
) -> bool:
    """As holds, by NumPy. share, floor: by how much the loss of a row may change."""
    lowest, highest = levels.reach(logits)
    quiet = lowest < levels.quiet
    if np.any(codes < lowest - quiet) or np.any(codes > highest + quiet):
        return False
    one = one_of(logits.shape[1])
    x = np.rint(logits.astype(np.float64) * one)
    change = np.rint(levels.probabilities.astype(np.float64)[codes] * x).sum(axis=1) - fitted.given
    allowed = np.maximum(share * fitted.loss, floor * one * logits.shape[1])
    return bool(np.all(np.abs(change) <= allowed))


def _longest_runs(
    lowest: npt.NDArray[np.int16], highest: npt.NDArray[np.int16]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Where runs start, and the levels open to the run of each cell up to that cell, all [row, time].

    To go on for as long as one level suits all cells gives the fewest runs."""
    lowest_t, highest_t = lowest.T.copy(), highest.T.copy()  # of one row, too: the transpose would be the row itself
    starts = np.zeros(lowest_t.shape, bool)
    starts[0] = True
    for t in range(1, len(lowest_t)):
        low = np.maximum(lowest_t[t - 1], lowest_t[t])
        high = np.minimum(highest_t[t - 1], highest_t[t])
        new = np.greater(low, high, out=starts[t])
        np.copyto(lowest_t[t], low, where=~new)
        np.copyto(highest_t[t], high, where=~new)
    return np.ascontiguousarray(starts.T), np.ascontiguousarray(lowest_t.T), np.ascontiguousarray(highest_t.T)


class _Balance:
    """Moves runs by one level so that no row's loss changes: sum over its cells of (q - p) x = 0. In whole units."""

    def __init__(
        self,
        levels: Levels,
        units: Units,
        start: _Ints,
        length: _Ints,
        low: npt.NDArray[np.int16],
        high: npt.NDArray[np.int16],
    ) -> None:
        self.q = levels.kept
        rows, frames = units.logit.shape
        self.x, self.start, self.length = units.logit.ravel(), start, length
        self.row = start // frames
        self.first_of_row = np.searchsorted(self.row, np.arange(rows))
        self.quiet = levels.quiet
        quiet = high < levels.quiet
        self.low, self.high = low - quiet, high + quiet
        # Of each row from its first cell on, [row, time + 1]: the place before a run's first cell is at `before`.
        self.sum = np.pad(np.cumsum(units.logit, axis=1), ((0, 0), (1, 0))).ravel()
        self.before = start + self.row
        self.weight = self.sum[self.before + length] - self.sum[self.before]
        self.given = np.add.reduceat(units.given.ravel(), start)

    def move_runs(self, level: _Ints) -> _Floats:
        """Changes `level` [run] in place. Returns the change of loss that each row is left with."""
        off: _Floats = np.add.reduceat(np.rint(self.q[level] * self.weight) - self.given, self.first_of_row)
        last = self.start + self.length - 1
        for _ in range(_PASSES):
            moved, gain = self._moves(level, off)
            effect = np.rint(gain * self.weight)
            best = self._best(off, effect, self._open(moved, last))
            level[best] = moved[best]
            off[self.row[best]] += effect[best]
        return off

    def move_parts(self, level: _Ints, line: _Ints, off: _Floats, tolerated: _Floats) -> None:
        """What whole runs leave over, the first frames of some runs even out. Changes `line` [cell] and `off` [row]."""
        whole = np.ones(len(level), bool)
        for _ in range(_PASSES):
            usable = whole & (np.abs(off) > tolerated)[self.row]
            if not usable.any():
                return
            moved, gain = self._moves(level, off)
            wanted = np.divide(-off[self.row], gain, out=np.zeros_like(gain), where=gain != 0)
            frames = np.zeros_like(level)
            runs = np.flatnonzero(usable)
            frames[runs] = self._frames(runs, wanted[runs], moved[runs])
            effect = np.rint(gain * (self.sum[self.before + frames] - self.sum[self.before]))
            best = self._best(off, effect, usable & (frames > 0))
            whole[best] = False
            off[self.row[best]] += effect[best]
            for run in best:
                line[self.start[run] : self.start[run] + frames[run]] = moved[run]

    def move_stretches(
        self,
        line: _Ints,
        lowest: npt.NDArray[np.int16],
        highest: npt.NDArray[np.int16],
        off: _Floats,
        tolerated: _Floats,
    ) -> None:
        """What is still left over in a few rows, cells anywhere in a run even out, the longest stretches of such first.

        Changes `line` [row, time] in place."""
        x_of = self.x.reshape(line.shape)
        for row in np.flatnonzero(np.abs(off) > tolerated):
            left, x, level = off[row], x_of[row], line[row]
            moved = np.clip(level + np.where(left * x > 0, -1, 1), 0, len(self.q) - 1)
            quiet = highest[row] < self.quiet
            is_open = (moved >= lowest[row] - quiet) & (moved <= highest[row] + quiet)
            effect = np.rint((self.q[moved] - self.q[level]) * x)
            borders = np.flatnonzero(np.diff(is_open, prepend=False, append=False)).reshape(-1, 2)
            for first, end in borders[np.argsort(borders[:, 0] - borders[:, 1], kind="stable")]:
                rest = left + np.cumsum(effect[first:end])
                best = int(np.argmin(np.abs(rest)))
                if abs(rest[best]) < abs(left):
                    left, end = rest[best], first + best + 1
                    level[first:end] = moved[first:end]
                if abs(left) <= tolerated[row]:
                    break

    def _moves(self, level: _Ints, off: _Floats) -> tuple[_Ints, _Floats]:
        """For each run the level next to its own that lessens its row's change, and what that adds to q."""
        direction = np.where(off[self.row] * self.weight > 0, -1, 1)
        moved = np.clip(level + direction, 0, len(self.q) - 1)
        return moved, self.q[moved] - self.q[level]

    def _frames(self, runs: _Ints, wanted: _Floats, moved: _Ints) -> _Ints:
        """How many of the first frames of each run sum up to `wanted` logits and may have the level `moved`."""
        start, before, length = self.start[runs], self.before[runs], self.length[runs]
        frames = np.zeros_like(runs)
        # As if the run's logits were all alike; then once more from there.
        slope = self.weight[runs] / length
        for _ in range(2):
            lacking = wanted - (self.sum[before + frames] - self.sum[before])
            more = np.divide(lacking, slope, out=np.zeros_like(slope), where=slope != 0)
            frames = np.rint(np.clip(frames + more, 0, length)).astype(np.intp)
            slope = self.x[np.minimum(start + frames, self.x.size - 1)]
        for divisor in (2, 2, 2, 1 << 62):
            shut = ~self._open(moved, np.maximum(start + frames - 1, 0))
            frames[shut] //= divisor
        return frames

    def _open(self, level: _Ints, cell: _Ints) -> npt.NDArray[np.bool_]:
        """Whether all cells of a run up to `cell` may have that level."""
        return (level >= self.low[cell]) & (level <= self.high[cell])

    def _best(self, off: _Floats, effect: _Floats, usable: npt.NDArray[np.bool_]) -> _Ints:
        """The run of each row whose effect leaves the least change, the first of such; none where it leaves more."""
        left = np.where(usable, np.abs(off[self.row] + effect), np.inf)
        least = np.minimum.reduceat(left, self.first_of_row)
        best: _Ints = np.flatnonzero((left == least[self.row]) & (left < np.abs(off)[self.row]))
        first: _Ints = best[np.diff(self.row[best], prepend=-1) > 0]
        return first
