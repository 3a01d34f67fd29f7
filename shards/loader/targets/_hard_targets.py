"""Labels from people as targets: which cells of `hard_weak` and `hard_strong` the clips of one source have.

Events become runs of cells once for a source, so that a clip costs a slice of them and no look at a MID.
"""

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS, ClassMap
from shards._hard import HardRows, Ragged
from shards.loader.targets._targets import TargetLayout

Ints = npt.NDArray[np.int32]
Runs = tuple[Ints, Ints]
"""Runs of cells that are 1 in one clip's flattened target: where each begins, and its length."""


class HardWeak:
    """The weak labels of a source over the classes of `classes`.

    known: bool [C], classes that people could choose.
    """

    def __init__(self, hard: HardRows, classes: ClassMap) -> None:
        self._labelled = hard.weak.known
        label, self._classes = _by_class(hard.weak, classes)
        self._ones = np.broadcast_to(np.int32(1), self._classes.shape)
        self._bounds = np.searchsorted(label, hard.weak.bounds)
        self.known = classes.known(hard.weak_classes)

    def runs(self, clip: int, frames: int) -> Runs | None:
        """The classes of a clip, some perhaps twice; None where nobody labelled it. It has no frames."""
        if not self._labelled[clip]:
            return None
        cells = slice(self._bounds[clip], self._bounds[clip + 1])
        return self._classes[cells], self._ones[cells]


class HardStrong:
    """The events of a source over the classes of `classes`, on the frames of `layout`.

    A frame is active where any event of its class reaches into it: [floor(onset / hop), ceil(offset / hop)), exact.
    """

    def __init__(self, hard: HardRows, classes: ClassMap, layout: TargetLayout) -> None:
        self._listened = hard.strong.known
        self._frames = layout.frames
        event, numbers = _by_class(hard.strong, classes)
        ms, parts = (layout.hop_ms or Fraction(HOP_MS)).as_integer_ratio()
        first = np.maximum(hard.onset_ms.astype(np.int64) * parts // ms, 0)[event]
        last = np.minimum(-(-hard.offset_ms.astype(np.int64) * parts // ms), layout.frames)[event]
        reaching = np.flatnonzero(first < last)
        self._bounds = np.searchsorted(event[reaching], hard.strong.bounds)
        self._first, self._last = (frames[reaching].astype(np.int32) for frames in (first, last))
        self._row = numbers[reaching] * np.int32(layout.frames)
        self.known = classes.known(hard.strong_classes)

    def runs(self, clip: int, frames: int) -> Runs | None:
        """Within the clip's `frames`; runs of a class may overlap. None where nobody listened to the clip."""
        if not self._listened[clip]:
            return None
        cells = slice(self._bounds[clip], self._bounds[clip + 1])
        row, first, last = self._row[cells], self._first[cells], self._last[cells]
        if frames < self._frames:
            reaching = first < frames
            row, first, last = row[reaching], first[reaching], np.minimum(last[reaching], np.int32(frames))
        return row + first, last - first


def _by_class(rows: Ragged, classes: ClassMap) -> tuple[npt.NDArray[np.intp], Ints]:
    """For every class that a cell of `rows` means: which cell, ascending, and the class. Others mean none."""
    classes_of = classes.classes_of()
    of_code = [classes_of.get(mid, ()) for mid in rows.mids]
    counts = np.array([len(numbers) for numbers in of_code], np.intp)
    numbers = np.array([number for of_one in of_code for number in of_one], np.int32)
    begin = np.cumsum(counts) - counts
    cells = counts[rows.mid_code]
    cell = np.repeat(np.arange(len(cells)), cells)
    within = np.arange(len(cell)) - np.repeat(np.cumsum(cells) - cells, cells)
    return cell, numbers[begin[rows.mid_code[cell]] + within]
