"""Choose the levels of a label: inside every cell's reach, seldom changing, and with every row's loss as it was."""

import numpy as np
import numpy.typing as npt

from shards.codecs._label_levels import Levels

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.intp]
# Steps in which a row's loss is put right: by moving a whole run, then by moving the first frames of one.
_PASSES = 4
# A row's loss is right within this share, or within so many nats a cell.
_SHARE, _FLOOR = 0.005, 1e-6


def fit_levels(logits: npt.NDArray[np.float32], levels: Levels) -> npt.NDArray[np.int16]:
    """Logits [row, time] within +-MAX_LOGIT -> levels [row, time].

    A row is cut into as few runs as the reach of its cells allows. Each run's level is the one nearest its mean
    probability; then some move by one level, a part of a run if need be, until the row's loss, which is linear in the
    target, is what it was.
    """
    lowest, highest = levels.reach(logits)
    starts, low, high = _longest_runs(lowest, highest)
    x = logits.astype(np.float64) / levels.keeps
    p, loss = probability_and_loss(x)
    start = np.flatnonzero(starts)
    length = np.diff(start, append=x.size)
    last = start + length - 1
    mean = np.add.reduceat(p.ravel(), start) / length
    borders = (levels.kept[1:] + levels.kept[:-1]) / 2
    level = np.clip(np.searchsorted(borders, mean), low.ravel()[last], high.ravel()[last]).astype(np.intp)
    balance = _Balance(levels, x, p, start, length, low.ravel(), high.ravel())
    balance.move_runs(level)
    line = np.repeat(level, length)
    tolerated = np.maximum(_SHARE * loss.sum(axis=1), _FLOOR * x.shape[1])
    balance.move_parts(level, line, tolerated)
    balance.move_stretches(line.reshape(x.shape), p, lowest, highest, tolerated)
    return line.astype(np.int16).reshape(x.shape)


def row_loss_change(given: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32]) -> tuple[_Floats, _Floats]:
    """(change, loss) per row, in nats a cell: of the loss of a student that says `given` (logits [row, time])."""
    x = given.astype(np.float64)
    p, loss = probability_and_loss(x)
    return ((p - probabilities) * x).mean(axis=1), loss.mean(axis=1)


def probability_and_loss(logits: _Floats) -> tuple[_Floats, _Floats]:
    """sigmoid(x), and the loss of a student that says just that: its entropy in nats."""
    small = np.exp(-np.abs(logits))
    p = np.where(logits < 0, small, 1.0) / (1 + small)
    return p, np.log1p(small) + np.maximum(logits, 0) - p * logits


def _longest_runs(
    lowest: npt.NDArray[np.int16], highest: npt.NDArray[np.int16]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Where runs start, and the levels open to the run of each cell up to that cell, all [row, time].

    To go on for as long as one level suits all cells gives the fewest runs."""
    lowest_t, highest_t = np.ascontiguousarray(lowest.T), np.ascontiguousarray(highest.T)
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
    """Moves runs by one level so that no row's loss changes: sum over its cells of (q - p) x = 0."""

    def __init__(
        self,
        levels: Levels,
        x: _Floats,
        p: _Floats,
        start: _Ints,
        length: _Ints,
        low: npt.NDArray[np.int16],
        high: npt.NDArray[np.int16],
    ) -> None:
        self.q = levels.kept
        self.x, self.start, self.length = x.ravel(), start, length
        self.row = start // x.shape[1]
        self.first_of_row = np.searchsorted(self.row, np.arange(len(x)))
        self.quiet = levels.quiet
        quiet = high < levels.quiet
        self.low, self.high = low - quiet, high + quiet
        self.sum = np.concatenate(([0.0], np.cumsum(x)))
        self.weight = self.sum[start + length] - self.sum[start]
        self.given = np.add.reduceat((p * x).ravel(), start)

    def move_runs(self, level: _Ints) -> None:
        """Changes `level` [run] in place."""
        off = self._off(level)
        last = self.start + self.length - 1
        for _ in range(_PASSES):
            moved, gain = self._moves(level, off)
            effect = gain * self.weight
            best = self._best(off, effect, self._open(moved, last))
            level[best] = moved[best]
            off[self.row[best]] += effect[best]

    def move_parts(self, level: _Ints, line: _Ints, tolerated: _Floats) -> None:
        """What whole runs leave over, the first frames of some runs even out. Changes `line` [cell] in place."""
        off = self._off(level)
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
            effect = gain * (self.sum[self.start + frames] - self.sum[self.start])
            best = self._best(off, effect, usable & (frames > 0))
            whole[best] = False
            off[self.row[best]] += effect[best]
            for run in best:
                line[self.start[run] : self.start[run] + frames[run]] = moved[run]

    def move_stretches(
        self,
        line: _Ints,
        p: _Floats,
        lowest: npt.NDArray[np.int16],
        highest: npt.NDArray[np.int16],
        tolerated: _Floats,
    ) -> None:
        """What is still left over in a few rows, cells anywhere in a run even out, the longest stretches of such first.

        Changes `line` [row, time] in place."""
        x_of = self.x.reshape(line.shape)
        off = ((self.q[line] - p) * x_of).sum(axis=1)
        for row in np.flatnonzero(np.abs(off) > tolerated):
            left, x, level = off[row], x_of[row], line[row]
            moved = np.clip(level + np.where(left * x > 0, -1, 1), 0, len(self.q) - 1)
            quiet = highest[row] < self.quiet
            is_open = (moved >= lowest[row] - quiet) & (moved <= highest[row] + quiet)
            effect = (self.q[moved] - self.q[level]) * x
            borders = np.flatnonzero(np.diff(is_open, prepend=False, append=False)).reshape(-1, 2)
            for first, end in borders[np.argsort(borders[:, 0] - borders[:, 1], kind="stable")]:
                rest = left + np.cumsum(effect[first:end])
                best = int(np.argmin(np.abs(rest)))
                if abs(rest[best]) < abs(left):
                    left, end = rest[best], first + best + 1
                    level[first:end] = moved[first:end]
                if abs(left) <= tolerated[row]:
                    break

    def _off(self, level: _Ints) -> _Floats:
        """The change of each row."""
        changes: _Floats = np.add.reduceat(self.q[level] * self.weight - self.given, self.first_of_row)
        return changes

    def _moves(self, level: _Ints, off: _Floats) -> tuple[_Ints, _Floats]:
        """For each run the level next to its own that lessens its row's change, and what that adds to q."""
        direction = np.where(off[self.row] * self.weight > 0, -1, 1)
        moved = np.clip(level + direction, 0, len(self.q) - 1)
        return moved, self.q[moved] - self.q[level]

    def _frames(self, runs: _Ints, wanted: _Floats, moved: _Ints) -> _Ints:
        """How many of the first frames of each run sum up to `wanted` logits and may have the level `moved`."""
        start, length = self.start[runs], self.length[runs]
        frames = np.zeros_like(runs)
        # As if the run's logits were all alike; then once more from there.
        slope = self.weight[runs] / length
        for _ in range(2):
            lacking = wanted - (self.sum[start + frames] - self.sum[start])
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
