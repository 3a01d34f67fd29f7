"""Strong labels of one clip: events in milliseconds, merged, and on the 40 ms grid."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline._grid import FRAMES, event_frames
from pipeline._specs import Vocabulary


class Event(NamedTuple):
    """One sound, [onset_ms, offset_ms) from the start of its clip."""

    onset_ms: int
    offset_ms: int
    mid: str


def merge_events(events: Iterable[Event]) -> list[Event]:
    """The same activity with no two events of a class touching or overlapping, sorted by onset, offset, MID."""
    merged: list[Event] = []
    for event in sorted(events, key=lambda event: (event.mid, event.onset_ms)):
        last = merged[-1] if merged else None
        if last is not None and last.mid == event.mid and event.onset_ms <= last.offset_ms:
            merged[-1] = last._replace(offset_ms=max(last.offset_ms, event.offset_ms))
        else:
            merged.append(event)
    return sorted(merged)


def frame_labels(
    events: Iterable[Event], vocabulary: Vocabulary, *, float32_compat: bool = False
) -> npt.NDArray[np.uint8]:
    """Events of one clip -> uint8 [len(vocabulary), 250], 1 where a class is active. Other classes are dropped.

    Merging first would change nothing: a frame is active when any event of the class reaches into it.
    """
    active = np.zeros((len(vocabulary), FRAMES), dtype=np.uint8)
    row_of = vocabulary.index()
    for event in events:
        row = row_of.get(event.mid)
        if row is not None:
            first, last = event_frames(event.onset_ms, event.offset_ms, float32_compat=float32_compat)
            active[row, first:last] = 1
    return active
