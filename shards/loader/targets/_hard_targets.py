"""Labels from people as targets: which cells of `hard_weak` and `hard_strong` the clips of one source have.

Columns are resolved once for a source, so that a clip costs a few integers of its own and no look at a MID.
"""

from collections.abc import Sequence
from fractions import Fraction

from pipeline import HOP_MS, ClassMap
from shards._hard import HardRows, Ragged
from shards.loader.targets._targets import TargetLayout


class HardWeak:
    """The weak labels of a source over the classes of `classes`.

    known: bool [C], classes that people could choose.
    """

    def __init__(self, hard: HardRows, classes: ClassMap) -> None:
        self._rows = hard.weak
        self._classes_of_code = _classes_of_code(hard.weak, classes)
        self.known = classes.known(hard.weak_classes)

    def classes(self, clip: int) -> list[int] | None:
        """The classes of a clip, some perhaps twice; None where nobody labelled it."""
        rows = self._rows
        if not rows.known[clip]:
            return None
        found: list[int] = []
        for code in rows.mid_code[rows.bounds[clip] : rows.bounds[clip + 1]].tolist():
            found += self._classes_of_code[code]
        return found


class HardStrong:
    """The events of a source over the classes of `classes`, on the frames of `layout`.

    A frame is active where any event of its class reaches into it: [floor(onset / hop), ceil(offset / hop)), exact.
    """

    def __init__(self, hard: HardRows, classes: ClassMap, layout: TargetLayout) -> None:
        self._rows = hard.strong
        self._classes_of_code = _classes_of_code(hard.strong, classes)
        self._onset_ms, self._offset_ms = hard.onset_ms, hard.offset_ms
        self._hop_ms = (layout.hop_ms or Fraction(HOP_MS)).as_integer_ratio()
        self.known = classes.known(hard.strong_classes)

    def spans(self, clip: int, frames: int) -> list[tuple[int, int, int]] | None:
        """(class, first, last) of active frames [first, last) within the clip's `frames`; spans of a class may overlap.

        None where nobody listened to the clip.
        """
        rows = self._rows
        if not rows.known[clip]:
            return None
        cells = slice(rows.bounds[clip], rows.bounds[clip + 1])
        events = zip(
            rows.mid_code[cells].tolist(), self._onset_ms[cells].tolist(), self._offset_ms[cells].tolist(), strict=True
        )
        ms, parts = self._hop_ms
        found = []
        for code, onset_ms, offset_ms in events:
            first = max(onset_ms * parts // ms, 0)
            last = min(-(-offset_ms * parts // ms), frames)
            if first < last:
                found += [(number, first, last) for number in self._classes_of_code[code]]
        return found


def _classes_of_code(rows: Ragged, classes: ClassMap) -> Sequence[tuple[int, ...]]:
    classes_of = classes.classes_of()
    return [classes_of.get(mid, ()) for mid in rows.mids]
